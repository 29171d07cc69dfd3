#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
echo "coverage reports need a Bazel that can download its coverage tools" >&2
exit 1
