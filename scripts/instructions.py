#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Counts the instructions of the engine's operations and compares them with their budgets.

Times depend on the machine and its neighbours, instructions hardly at all: what valgrind counts of
one binary is the same in every run. So this is the check that fails when an operation gets slower.
The harness and the host of //benchmarks:instructions do not count.

Usage: instructions.py PROGRAM BUDGETS [--write | --lines ROW]
  --write      writes what was counted as the new budgets
  --lines ROW  says in which functions the instructions of ROW go
"""

import collections
import glob
import os
import re
import subprocess
import sys
import tempfile

# What an operation may take beyond its budget before that is a failure.
TOLERANCE = 0.03

# Functions of the harness and of the hosts it uses, whether or not a return type stands in front.
HARNESS = re.compile(r"^(?:tdp_measured|(?:[^(]* )?(?:tdp::(?:bench::|MinimalBackend::)|"
                     r"absl::(?:\w+::)?functional_internal::.*tdp::bench::))")


def count_by_function(text):
    """The instructions that each function executes itself, of the text of one dump."""
    counts = collections.Counter()
    function, inclusive = None, False
    for line in text.split("\n"):
        if line.startswith("fn="):
            function = line[3:]
        elif line.startswith("calls="):
            inclusive = True  # the next line is what the callee took
        elif line[:1] and line[0] in "0123456789+-*":
            if not inclusive:
                counts[function] += int(line.split()[1])
            inclusive = False
    return counts


def engine_part(counts):
    return {name: count for name, count in counts.items() if not HARNESS.search(name)}


def rows_of(output, dumps):
    """[(name, items, counts by function)] of what the program said and valgrind wrote."""
    rows = [line.split("\t") for line in output.split("\n") if line]
    if len(rows) != len(dumps):
        raise ValueError(f"{len(rows)} rows, but {len(dumps)} dumps")
    return [(name, int(items), engine_part(count_by_function(dump)))
            for (name, items), dump in zip(rows, dumps)]


def run(program):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--quiet", "--compress-strings=no",
             "--compress-pos=no", "--toggle-collect=tdp_measured", "--dump-after=tdp_measured",
             f"--callgrind-out-file={folder}/out", program],
            check=True, stdout=subprocess.PIPE, text=True)
        files = sorted(glob.glob(f"{folder}/out.*"), key=lambda f: int(f.rsplit(".", 1)[1]))
        dumps = []
        for file in files:
            with open(file, encoding="utf-8") as dump:
                dumps.append(dump.read())
        # The last dump is of the rest of the program, of which nothing is collected.
        return rows_of(done.stdout, dumps[:done.stdout.count("\n")])


def read_budgets(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    return {name: float(budget) for name, budget in lines}


def compare(counted, budgets):
    """Lines of the table, and what is wrong."""
    lines, wrong = [], []
    for name, count in counted.items():
        budget = budgets.get(name)
        lines.append(f"{name:32} {count:12.1f} {budget if budget is not None else '-':>12}")
        if budget is None:
            wrong.append(f"{name}: {count:.1f} instructions, and no budget")
        elif count > budget * (1 + TOLERANCE):
            wrong.append(f"{name}: {count:.1f} instructions, the budget is {budget}")
    wrong += [f"{name}: has a budget, but was not counted" for name in budgets if
              name not in counted]
    return lines, wrong


def write_budgets(path, counted):
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Instructions of one operation, by './run bench --instructions --write'.\n")
        for name, count in counted.items():
            file.write(f"{name}\t{count:.1f}\n")


def print_lines(rows, wanted):
    for name, items, counts in rows:
        if name == wanted:
            for function, count in sorted(counts.items(), key=lambda pair: -pair[1]):
                print(f"{count / items:10.2f}  {function}")


def main(argv):
    program, budgets, options = argv[1], argv[2], argv[3:]
    rows = run(os.path.abspath(program))
    counted = {name: sum(counts.values()) / items for name, items, counts in rows}
    if options[:1] == ["--write"]:
        write_budgets(budgets, counted)
    if options[:1] == ["--lines"]:
        print_lines(rows, options[1])
        return 0
    lines, wrong = compare(counted, read_budgets(budgets))
    print(f"{'operation':32} {'instructions':>12} {'budget':>12}")
    print("\n".join(lines))
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
