#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Checks of every file that need no compiler: licence line, size, width, header guard, bad words,
and comments of the library and its tests that begin with half a sentence.

Usage: check_files.py [ROOT]
"""

import os
import re
import subprocess
import sys

SOURCE = re.compile(r"\.(h|cc|S|s|ld|bzl|py|sh|pml)$|(^|/)(BUILD\.bazel(\.in)?|WORKSPACE|MODULE\.bazel|run)$")
CXX = re.compile(r"\.(h|cc)$")
CORE = re.compile(r"^(base|memslot|rmap|mmu)/.*\.(h|cc)$")
OVER_ABSEIL = re.compile(r"^(?!base/(absl_mutex|freestanding/)|tests/base/stand_ins_test).*\.(h|cc)$")
BUILD_FILE = re.compile(r"^(?!bazel/offline/).*(BUILD\.bazel(\.in)?|\.bzl)$")
NATIVE_RULE = re.compile(r"^(?:    native\.)?((?:cc|java|py|sh)_\w+)\(", re.MULTILINE)
SPDX = "SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause"
SPDX_WITHIN_LINES = 3

# Readers are owed this: a comment is a sentence about the thing below it. One that begins so mostly
# has its verb elsewhere: "What is mapped.", "Whether it is.", "The same of a page."
IN_SENTENCES = re.compile(
    r"^(base|memslot|rmap|mmu|backends|tests|tools|judge|examples|benchmarks)/.*\.(h|cc)$")
HALF_SENTENCE = re.compile(r"\s*// (What|Whether|The same|Of|As)\b")

MAX_COLUMNS = 100
MAX_PROSE_COLUMNS = 120
MAX_LINES = 700
MAX_TEST_LINES = 1200
MAX_BYTES = 16 << 20

# What reviewers would send back, by the files it applies to.
BAD_WORDS = [
    (SOURCE, re.compile(r"\b(TODO|FIXME|XXX)\b"), "unfinished work belongs in a tracker"),
    (CXX, re.compile(r"^#pragma once"), "use a header guard"),
    (CXX, re.compile(r"^using namespace\b"), "name what you use"),
    (CXX, re.compile(r"\b(SleepFor|sleep_for|sleep_until|usleep|nanosleep)\b"),
     "a sleep is no synchronisation"),
    (CXX, re.compile(r"\bDISABLED_"), "a test runs, or says with GTEST_SKIP why it cannot"),
    (CXX, re.compile(r"\bGTEST_SKIP\(\)\s*;"), "GTEST_SKIP needs its reason"),
    (CXX, re.compile(r"NOLINT(NEXTLINE)?(?!(NEXTLINE)?\([a-z])"), "NOLINT names its check"),
    (CORE, re.compile(r"\b(dynamic_cast|typeid)\b"), "the core links into builds without RTTI"),
    (OVER_ABSEIL, re.compile(r"\babsl::MutexLock\b"),
     "AbslMutexLock compiles with every release of Abseil and warns with none"),
    (SOURCE, re.compile(r"(?<![\w.])/(home|root)/\w"), "no path of one machine"),
    (SOURCE, re.compile(r"^(<{7}|>{7}) "), "unresolved merge"),
]


def guard_of(path):
    return "TDP_" + re.sub(r"[^A-Za-z0-9]", "_", path).upper() + "_"


def check_guard(path, text):
    guard = guard_of(path)
    if f"\n#ifndef {guard}\n#define {guard}\n" not in text:
        return [f"{path}: the header guard must be {guard}"]
    return []


def check_rules(path, text):
    """Rules that were built into Bazel once, and are not in 9, must be loaded."""
    return [f"{path}: Bazel 9 has no {rule}: load it, from @rules_cc for instance"
            for rule in sorted(set(NATIVE_RULE.findall(text)))
            if not re.search(rf'load\([^)]*"{rule}"', text)]


def check_lines(path, lines):
    problems = []
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_COLUMNS:
            problems.append(f"{path}:{number}: {len(line)} columns, more than {MAX_COLUMNS}")
        if line != line.rstrip():
            problems.append(f"{path}:{number}: blanks at the end of the line")
        for applies_to, pattern, why in BAD_WORDS:
            if applies_to.search(path) and pattern.search(line):
                problems.append(f"{path}:{number}: {pattern.search(line).group(0).strip()!r}: {why}")
    return problems


def check_comments(path, lines):
    """Comments, and paragraphs of them, that begin with half a sentence."""
    problems = []
    for number, (before, line) in enumerate(zip([""] + lines, lines), start=1):
        found = HALF_SENTENCE.match(line)
        if found and not before.strip().startswith("// "):
            problems.append(f"{path}:{number}: {found.group(1)!r} begins half a sentence: say what "
                            "the thing below is or does")
    return problems


def check_source(path, text):
    """All problems of one source file, as "path[:line]: what is wrong"."""
    problems = []
    lines = text.split("\n")
    if SPDX not in "\n".join(lines[:SPDX_WITHIN_LINES]):
        problems.append(f"{path}: no '{SPDX}' in its first {SPDX_WITHIN_LINES} lines")
    if not text.endswith("\n") or text.endswith("\n\n"):
        problems.append(f"{path}: must end with exactly one newline")
    limit = MAX_TEST_LINES if path.startswith("tests/") else MAX_LINES
    if len(lines) - 1 > limit:
        problems.append(f"{path}: {len(lines) - 1} lines, more than {limit}: split it by concept")
    if path.endswith(".h"):
        problems += check_guard(path, text)
    if IN_SENTENCES.search(path):
        problems += check_comments(path, lines)
    if BUILD_FILE.search(path):
        problems += check_rules(path, text)
    return problems + check_lines(path, lines)


def check_prose(path, text):
    """Lines of Markdown that are too wide; tables, code and links cannot be broken."""
    problems = []
    in_code = False
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        unbreakable = in_code or line.startswith(("|", "    ")) or "](" in line or "://" in line
        if len(line) > MAX_PROSE_COLUMNS and not unbreakable:
            problems.append(f"{path}:{number}: {len(line)} columns, more than {MAX_PROSE_COLUMNS}")
    return problems


def check_file(root, path):
    full = os.path.join(root, path)
    size = os.path.getsize(full)
    if size > MAX_BYTES:
        return [f"{path}: {size} bytes, more than {MAX_BYTES}"]
    # The checks' own words would trip over themselves.
    prose = path.endswith(".md")
    if not (prose or SOURCE.search(path)) or path.startswith("scripts/check_files"):
        return []
    with open(full, encoding="utf-8") as file:
        text = file.read()
    return check_prose(path, text) if prose else check_source(path, text)


def project_files(root):
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"],
        check=True, stdout=subprocess.PIPE, text=True)
    return [path for path in listed.stdout.split("\n")
            if path and os.path.isfile(os.path.join(root, path))]


def main(argv):
    root = argv[1] if len(argv) > 1 else "."
    problems = [p for path in project_files(root) for p in check_file(root, path)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
