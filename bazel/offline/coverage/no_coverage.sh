#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
echo "coverage reports need a Bazel that can download its coverage tools" >&2
exit 1
