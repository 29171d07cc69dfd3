#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints compile_commands.json for our own sources, from Bazel's list of compile actions."""

import json
import subprocess
import sys


def bazel(*args):
    return subprocess.run(["bazel", *args], check=True, stdout=subprocess.PIPE).stdout


def main():
    root = bazel("info", "execution_root", "--noshow_progress").decode().strip()
    query = 'mnemonic("CppCompile", kind("cc_.* rule", //...))'
    answer = json.loads(bazel("aquery", "--output=jsonproto", "--noshow_progress", query))
    commands = {}
    for action in answer["actions"]:
        arguments = action["arguments"]
        source = arguments[arguments.index("-c") + 1]
        if not source.startswith(("external/", "bazel-out/")):
            commands[source] = {
                "directory": root,
                "file": source,
                # -fno-canonical-system-headers is gcc's alone; clang need not know gcc's warnings.
                "arguments": [a for a in arguments if a != "-fno-canonical-system-headers"]
                + ["-Wno-unknown-warning-option"],
            }
    json.dump(list(commands.values()), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
