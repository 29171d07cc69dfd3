#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Writes the judge as two files that need no Bazel and no Abseil: tdp_judge.h and tdp_judge.cc.

Every source of the judge, of the software CPU and of the entry formats goes into one translation
unit, headers first where they are included, Abseil's names served by base/freestanding. The
namespaces get names of their own, so that the file links into programs that use libtdp or Abseil.

Usage: amalgamate.py [--root ROOT] OUTPUT_FOLDER
"""

import argparse
import os
import re
import sys

SOURCES = [
    "base/check.cc",
    "mmu/format/eptp.cc",
    "mmu/format/exit_qualification.cc",
    "backends/sim/cache_presets.cc",
    "backends/sim/tag_array.cc",
    "backends/sim/cost_model.cc",
    "backends/sim/cpu.cc",
    "backends/sim/cpu_instructions.cc",
    "backends/sim/ept_rules.cc",
    "backends/sim/ept_walker.cc",
    "backends/sim/exit.cc",
    "backends/sim/flush_oracle.cc",
    "backends/sim/guest_rights.cc",
    "backends/sim/guest_rules.cc",
    "backends/sim/guest_walker.cc",
    "backends/sim/probe.cc",
    "backends/sim/sub_page.cc",
    "backends/sim/table_reach.cc",
    "backends/sim/virtualization_exception.cc",
]
INTERFACE = "judge/tdp_judge.h"
# Included where TDP_FREESTANDING is defined, as it never is here.
FREESTANDING_ONLY = "tdp/base/platform.h"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"].*$')
ANONYMOUS = re.compile(r"^namespace \{$(.*?)^\}  // namespace$", re.M | re.S)
# The name that an unindented line of code declares.
DECLARED = re.compile(
    r"^(?:[A-Za-z_].*?[\s*&])?(\w+)(?:\[[^\]]*\])*\s*(?:\(|=|\{|;)")

HEAD = """// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge of libtdp in one file, made by scripts/amalgamate.py: do not edit. Its interface is
// tdp_judge.h beside it, its manual docs/judge.md of libtdp. Compile it with -std=c++20, and never
// with the options that instrument the subject.

#define TDP_JUDGE_AMALGAMATED
"""


def private_names(text):
    """Names that a source declares in its anonymous namespaces."""
    names = set()
    for block in ANONYMOUS.findall(text):
        for line in block.split("\n"):
            match = DECLARED.match(line)
            if match:
                names.add(match.group(1))
    return names


def own_names(parts):
    """The parts, with a suffix to each private name that several sources have."""
    owners = {}
    for path, text in parts:
        for name in private_names(text):
            owners.setdefault(name, []).append(path)
    renamed = []
    for path, text in parts:
        for name in private_names(text):
            if len(owners[name]) > 1:
                suffix = re.sub(r"\W", "_", path[:-len(".cc")])
                text = re.sub(rf"(?<![.>:\w]){name}\b", f"{name}_{suffix}", text)
        renamed.append((path, text))
    return renamed


class Amalgamation:
    def __init__(self, root):
        self.root = root
        self.done = set()
        self.parts = []
        self.system = set()

    def resolve(self, name):
        """The project's file that an include names, or None for the compiler's own headers."""
        if name.startswith("tdp/"):
            return name[len("tdp/"):]
        if name.startswith("absl/"):
            return "base/freestanding/" + name
        return None

    def add(self, path):
        if path in self.done:
            return
        self.done.add(path)
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            text = file.read()
        kept = []
        for line in text.split("\n"):
            match = INCLUDE.match(line)
            if not match:
                kept.append(line)
                continue
            name = match.group(2)
            if name == FREESTANDING_ONLY:
                continue
            inner = self.resolve(name)
            if inner == INTERFACE:
                continue
            if inner is not None:
                self.add(inner)
            else:
                self.system.add(name)
        self.parts.append((path, "\n".join(kept)))

    def text(self):
        lines = [HEAD]
        lines += [f"#include <{name}>" for name in sorted(self.system)]
        lines += ['#include "tdp_judge.h"', "", "#define tdp tdp_judge_internal"]
        for path, text in own_names(self.parts):
            body = re.sub(r"^// SPDX-License-Identifier: [^\n]*\n(//[^\n]*\n)*", "", text)
            lines += [f"// ===== {path} =====", body.strip("\n"), ""]
        return "\n".join(lines)


def judge_sources(root):
    folder = os.path.join(root, "judge")
    return sorted("judge/" + name for name in os.listdir(folder)
                  if name.endswith(".cc") and name not in ("main.cc", "fuzz_entry.cc"))


def last_sources():
    """What is compiled or not as the user of the file defines macros."""
    return ["judge/fuzz_entry.cc", "judge/main.cc"]


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default=".")
    parser.add_argument("output")
    options = parser.parse_args(argv[1:])
    made = Amalgamation(options.root)
    for path in SOURCES + judge_sources(options.root) + last_sources():
        made.add(path)
    os.makedirs(options.output, exist_ok=True)
    with open(os.path.join(options.root, INTERFACE), encoding="utf-8") as file:
        interface = file.read()
    for name, text in (("tdp_judge.h", interface), ("tdp_judge.cc", made.text())):
        with open(os.path.join(options.output, name), "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
