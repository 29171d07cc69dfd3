#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Prints compile_commands.json for our own sources, from Bazel's list of compile actions."""

import json
import subprocess
import sys

# What Bazel tells gcc for reproducible output and clang does not understand or warns of.
NOT_FOR_CLANG = ("-fno-canonical-system-headers", "-D__DATE__", "-D__TIME",
                 "-mmemcpy-strategy", "-mmemset-strategy")


def bazel(*args):
    done = subprocess.run(["bazel", *args, "--noshow_progress", "--ui_event_filters=-info"],
                          check=False, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def main():
    root = bazel("info", "execution_root").decode().strip()
    query = 'mnemonic("CppCompile", kind("cc_.* rule", //...))'
    answer = json.loads(bazel("aquery", "--output=jsonproto", query))
    commands = {}
    for action in answer["actions"]:
        arguments = action["arguments"]
        source = arguments[arguments.index("-c") + 1]
        if not source.startswith(("external/", "bazel-out/")):
            commands[source] = {
                "directory": root,
                "file": source,
                "arguments": [a for a in arguments if not a.startswith(NOT_FOR_CLANG)]
                + ["-Wno-unknown-warning-option"],
            }
    json.dump(list(commands.values()), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
