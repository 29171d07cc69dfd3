#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Counts the test cases of one `bazel test`, from its build events and the test.xml files.

Usage: test_counts.py NAME BAZEL_STATUS EVENTS.json

Prints "NAME PASSED FAILED SKIPPED" on stdout; what failed or was skipped, and why, on stderr. What
cannot be counted as a test case is one failure: a target that did not build, a program that crashed
or leaked after its last case, a run without any test.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

# Exit codes of `bazel test`: all passed, and some test failed.
EXPECTED_STATUSES = (0, 3)


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def xml_path(result):
    for output in result.get("testActionOutput", []):
        if output["name"] == "test.xml":
            return urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
    return None


def last_attempts(events):
    """The last attempt at each shard of each test: {(label, shard, run): testResult}."""
    results = {}
    for event in events:
        key = event.get("id", {}).get("testResult")
        if key:
            results[(key["label"], key.get("shard", 0), key.get("run", 0))] = event["testResult"]
    return results


def skip_reason(skipped):
    message = (skipped.get("message") or skipped.text or "").strip()
    # GoogleTest puts "file:line" on a line of its own before the words of GTEST_SKIP().
    return " ".join(message.split("\n")[1:]).strip() or message


def count_cases(label, tree, counts, log):
    """Adds the cases of one test.xml; returns how many of them failed."""
    failed = 0
    for case in tree.iter("testcase"):
        name = f"{label} {case.get('classname', '')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            print(f"failed: {name}", file=log)
        elif skipped is not None:
            counts.skipped += 1
            print(f"skipped: {name}: {skip_reason(skipped) or 'no reason given'}", file=log)
        elif case.get("status") != "notrun":
            counts.passed += 1
    counts.failed += failed
    return failed


def count_result(label, result, counts, log):
    path = xml_path(result)
    failed = 0
    if path:
        try:
            failed = count_cases(label, ElementTree.parse(path), counts, log)
        except (OSError, ElementTree.ParseError) as error:
            print(f"{label}: no readable test.xml: {error}", file=log)
    if result["status"] != "PASSED" and failed == 0:
        counts.failed += 1
        print(f"failed: {label}: {result['status']} outside its test cases", file=log)


def count(events, bazel_status, log):
    counts = Counts()
    results = last_attempts(events)
    for (label, _, _), result in sorted(results.items(), key=lambda item: item[0]):
        count_result(label, result, counts, log)
    if bazel_status not in EXPECTED_STATUSES:
        counts.failed += 1
        print(f"failed: bazel ended with status {bazel_status}, see its message above", file=log)
    elif counts.passed + counts.failed == 0:
        counts.failed += 1
        print("failed: not one test ran", file=log)
    return counts


def main(argv):
    name, bazel_status, path = argv[1:]
    with open(path, encoding="utf-8") as lines:
        events = [json.loads(line) for line in lines]
    counts = count(events, int(bazel_status), sys.stderr)
    print(name, counts.passed, counts.failed, counts.skipped)
    return 0 if counts.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
