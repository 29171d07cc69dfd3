#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Checks every #include of the project against its layers (docs/design.md).

A folder includes only from itself and from the folders below; our headers are named
"tdp/<folder>/<file>.h"; a public header, which an embedder includes, brings public headers alone;
and the core, which must build for bare metal, includes no header of an operating system. Bazel's
visibility says the first of these of targets, this script of lines.

Usage: check_layers.py [ROOT]
"""

import os
import re
import subprocess
import sys

# What the parts of the engine need of its face: the seams to the embedder, not Vm and Vcpu.
SEAMS = (r"^tdp/mmu/(backend|guest_memory_types|mappings|page_fault|paging_kind|pending_flush|"
         r"stats|vm_options)\.h$")
# Where bits stand is known to mmu/format alone; the rest of the engine goes by its names.
NAMES = r"^(?!tdp/mmu/format/ept_format\.h$)"


def all_of(*folders):
    return {folder: NAMES if folder == "mmu/format" else "" for folder in folders}


# What the upper folders of the engine may all include.
LOWER = {**all_of("base", "memslot", "rmap", "mmu/format", "mmu/sync", "mmu/tables", "mmu/policy"),
         "mmu": SEAMS}
SHADOW = {**LOWER, **all_of("mmu/guest", "mmu/reverse_mapped")}
SPACE = {**SHADOW, **all_of("mmu/dirty", "mmu/shadow")}
ENGINE = {**SPACE, **all_of("mmu/space")}
FAULT = {**ENGINE, **all_of("mmu/engine")}
EVERYTHING = {**FAULT, **all_of("mmu/fault", "mmu")}

# Lowest first. A folder may include itself and what stands here, and of a folder with a pattern the
# headers alone that match it. Of a path the longest folder named here counts.
MAY_INCLUDE = {
    "base": {},
    "memslot": all_of("base"),
    "rmap": all_of("base"),
    "mmu/format": all_of("base"),
    "mmu/sync": {**all_of("base", "mmu/format"), "mmu": SEAMS},
    "mmu/tables": {**all_of("base", "mmu/format", "mmu/sync"), "mmu": SEAMS},
    "mmu/policy": {**all_of("base", "memslot", "mmu/format", "mmu/sync", "mmu/tables"),
                   "mmu": SEAMS},
    "mmu/dirty": all_of("base", "memslot", "mmu/format", "mmu/sync", "mmu/tables"),
    "mmu/guest": {**all_of("base", "memslot", "mmu/format", "mmu/sync", "mmu/policy"),
                  "mmu": SEAMS},
    "mmu/reverse_mapped": LOWER,
    "mmu/shadow": SHADOW,
    "mmu/space": SPACE,
    "mmu/engine": ENGINE,
    "mmu/fault": FAULT,
    "mmu/vm": EVERYTHING,
    # The last two for the lookups of walker.h, which are inline.
    "mmu": {**all_of("base", "memslot", "mmu/format", "mmu/policy"),
            "mmu/sync": r"/mmu_lock\.h$", "mmu/tables": r"/direct_mmu\.h$"},
    # Beside the tables, not above the engine.
    "backends": {**all_of("base", "memslot"), "mmu/format": "", "mmu": r"^tdp/mmu/backend\.h$"},
    "judge": {"base": "", "mmu/format":
              r"/(ept_\w+|eptp|entry|exit_qualification|memory_type)\.h$",
              "backends": r"^tdp/backends/sim/"},
    "tools": {**EVERYTHING, **all_of("mmu/vm", "backends"), "mmu/format": ""},
}
# Nothing may include these; they may include everything.
TOP = {"examples", "benchmarks", "tests"}

# The headers of the core that an embedder includes. What works behind them is none of these.
PUBLIC = re.compile(
    r"^(base/(access|address|level|platform|status_macros|sync|version)|"
    r"memslot/(dirty_pages|dirty_ring|guest_memory|memory_region)|"
    r"memslot/(flat_view|region|region_slots|slot_plan)|"
    r"mmu/(?!option_pairs|paging_kind|walker)\w+|"
    r"mmu/format/(ept_\w+|eptp|exit_qualification|guest_format|guest_paging|memory_type)|"
    r"mmu/guest/guest_walk|mmu/vm/change|"
    r"mmu/shadow/(nested_fault|nested_vcpu|paging_fault|shadow_registers|shadow_vcpu))\.h$")
# Small parts of them that nobody has a reason to include.
OF_PUBLIC = re.compile(r"^(base/(absl_mutex|check|explored_sync|ordered_map)|"
                       r"mmu/format/table_block)\.h$")

JUDGE_INTERFACE = "tdp_judge.h"

CORE = {folder for folder in MAY_INCLUDE if folder.split("/")[0] in
        {"base", "memslot", "rmap", "mmu"}}
NOT_IN_CORE = re.compile(r"^(sys|linux|asm|netinet|arpa|gtest|gmock|benchmark|nlohmann)/|"
                         r"^(unistd|pthread|fcntl|signal|sched|dlfcn|poll|zstd)\.h$|"
                         r"^(iostream|fstream|filesystem|regex)$")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def folder_of(path):
    """The folder with rules of its own that `path` lies in, or its first folder."""
    parts = path.split("/")
    inner = "/".join(parts[:2])
    return inner if len(parts) > 2 and inner in MAY_INCLUDE else parts[0]


def check_include(folder, header):
    """What is wrong with a file of `folder` including `header`, or None."""
    parts = header.split("/")
    known = set(MAY_INCLUDE) | TOP
    if header == JUDGE_INTERFACE:
        return None  # plain C, which its users find beside their own files
    if parts[0] in TOP and folder in TOP:
        return None  # a helper of tests is no public header: no prefix needed
    if parts[0] in known or header.startswith(".") or len(parts) == 1 and header.endswith(".inc"):
        return f'"{header}" must be named "tdp/<folder>/<file>.h"'
    if parts[0] == "tdp":
        target = folder_of(header[len("tdp/"):]) if len(parts) > 2 else ""
        if target not in known:
            return f'"{header}": there is no layer "{target}"'
        if folder in TOP or target == folder:
            return None
        if target not in MAY_INCLUDE[folder]:
            allowed = ", ".join(sorted(MAY_INCLUDE[folder])) or "nothing of ours"
            return f'{folder}/ may not include "{header}" (only {allowed})'
        if not re.search(MAY_INCLUDE[folder][target], header):
            return f'{folder}/ may not include "{header}" (of {target}/ only part)'
        return None
    if folder in CORE and NOT_IN_CORE.search(header):
        return f"{folder}/ is part of the core, which may not include <{header}>"
    return None


def check_public(path, header):
    """What is wrong with `path` including `header` if `path` is public, or None."""
    if not PUBLIC.search(path) or not header.startswith("tdp/"):
        return None
    included = header[len("tdp/"):]
    if PUBLIC.search(included) or OF_PUBLIC.search(included):
        return None
    return f'"{header}" is no public header, and {path} is one'


def check_text(path, text):
    """All violations in one file, as "path:line: what is wrong"."""
    folder = folder_of(path)
    if folder not in MAY_INCLUDE and folder not in TOP:
        return []
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        match = INCLUDE.match(line)
        header = match.group(1) if match else ""
        problem = header and (check_include(folder, header) or check_public(path, header))
        if problem:
            problems.append(f"{path}:{number}: {problem}")
    return problems


def source_files(root):
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard",
         "*.h", "*.cc"],
        check=True, stdout=subprocess.PIPE, text=True)
    return [path for path in listed.stdout.split("\n")
            if path and os.path.exists(os.path.join(root, path))]


def main(argv):
    root = argv[1] if len(argv) > 1 else "."
    problems = []
    for path in source_files(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            problems += check_text(path, file.read())
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
