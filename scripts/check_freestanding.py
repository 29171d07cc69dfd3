#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Checks that archives of the freestanding core ask for their platform and for nothing else.

Their undefined symbols, taken together, are those that docs/embedding.md lists; they have no
constructors to run before main() and no thread-local data, and no instruction touches a vector or
x87 register or the FS segment. With --without-shadow there is no code of the shadow engine either.
With --program, a linked program has at most --most-text bytes of code and constants (size(1)).

Usage: check_freestanding.py [--without-shadow] [--program FILE --most-text N] ARCHIVE…
"""

import argparse
import os
import re
import subprocess
import sys

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                    "docs", "embedding.md")
LISTED = re.compile(r"^\| `(\w+)`((?:, `\w+`)*) \|", re.M)
FORBIDDEN_SECTIONS = re.compile(r"^\.(init_array|ctors|preinit_array|fini_array|dtors|tdata|tbss)")
FORBIDDEN_REGISTERS = re.compile(r"%([xyz]mm\d+|mm\d+|st\b|k[0-7]|fs:)")
SHADOW = re.compile(r"\btdp::(Shadow|Nested|ReverseMapped|Descriptor|SlotRmap|RmapList)\w*(<|::)")


def listed_symbols(page):
    """What the table of the page names: `name`, or `name`, `name`, ... in the first column."""
    begin = page.index("## Freestanding")
    names = set()
    for first, rest in LISTED.findall(page[begin:]):
        names.add(first)
        names.update(re.findall(r"\w+", rest))
    return names


def undefined_symbols(nm):
    """Names that some member of the archive needs and none has, from `nm` without demangling."""
    needed, defined = set(), set()
    for line in nm.splitlines():
        match = re.match(r"^[0-9a-f]*\s+([A-Za-z]) (\S+)$", line)
        if match:
            (needed if match.group(1) in "Uvw" else defined).add(match.group(2))
    return needed - defined - {"_GLOBAL_OFFSET_TABLE_"}  # which every linker makes


def symbol_problems(nm, page):
    needed, listed = undefined_symbols(nm), listed_symbols(page)
    return ([f"it needs {name}, which docs/embedding.md does not list"
             for name in sorted(needed - listed)] +
            # What the compiler calls by itself differs from one to the next.
            [f"docs/embedding.md lists {name}, which it does not need"
             for name in sorted(listed - needed) if name.startswith("tdp_platform_")])


def section_problems(objdump):
    names = {match.group(1) for match in re.finditer(r"^ *\d+ (\.\S+) ", objdump, re.M)}
    return [f"it has a section {name}" for name in sorted(names)
            if FORBIDDEN_SECTIONS.match(name)]


def instruction_problems(objdump, most=5):
    lines = [line.strip() for line in objdump.splitlines() if FORBIDDEN_REGISTERS.search(line)]
    return [f"it has the instruction {line}" for line in lines[:most]]


def shadow_problems(nm):
    names = {match.group(1) for match in re.finditer(r"^[0-9a-f]*\s+[A-Za-z] (.*)$", nm, re.M)}
    # Parameters may name types of the shadow engine; functions are not its code for that.
    return [f"it refers to {name}" for name in sorted(names)
            if SHADOW.search(name.split("(", 1)[0])]


def text_problems(size, most):
    text = int(size.splitlines()[1].split()[0])
    return [f"the program has {text} bytes of text, more than {most}"] if text > most else []


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--without-shadow", action="store_true")
    parser.add_argument("--program")
    parser.add_argument("--most-text", type=int)
    parser.add_argument("archives", nargs="+")
    options = parser.parse_args(argv[1:])
    with open(PAGE, encoding="utf-8") as file:
        problems = symbol_problems(run("nm", *options.archives), file.read())
    problems += section_problems(run("objdump", "-h", *options.archives))
    problems += instruction_problems(run("objdump", "-d", "--no-show-raw-insn", *options.archives))
    if options.without_shadow:
        problems += shadow_problems(run("nm", "-C", *options.archives))
    if options.program:
        size = run("size", options.program)
        print(size, end="")
        problems += text_problems(size, options.most_text)
    for problem in problems:
        print(f"{options.archives[0]}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
