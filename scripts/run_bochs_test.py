#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of backends/vtx/boot/run_bochs.py that need no emulator."""

import os
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "backends", "vtx", "boot"))
import run_bochs  # noqa: E402 (found through the line above)


class RunBochsTest(unittest.TestCase):
    def cases(self, lines, why):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "test.xml")
            run_bochs.write_xml(path, "some_test", lines, why)
            return {case.get("classname") + "." + case.get("name"):
                    [(child.tag, child.get("message")) for child in case]
                    for case in ElementTree.parse(path).iter("testcase")}

    def test_each_case_is_reported_with_its_outcome_and_message(self):
        lines = ["[ RUN      ] A.Passes", "[       OK ] A.Passes (3 ms)",
                 "[ RUN      ] A.Skips", "a.cc:7: Skipped", "no such <CPU>",
                 "[  SKIPPED ] A.Skips (0 ms)",
                 "[ RUN      ] P/A.Fails/1", "a.cc:9: Failure",
                 "[  FAILED  ] P/A.Fails/1, where GetParam() = 1 (2 ms)",
                 "[  FAILED  ] P/A.Fails/1, where GetParam() = 1"]
        self.assertEqual(self.cases(lines, "status 1"), {
            "A.Passes": [],
            "A.Skips": [("skipped", "a.cc:7: Skipped\nno such <CPU>")],
            "P/A.Fails/1": [("failure", "a.cc:9: Failure")]})

    def test_a_crash_after_passed_cases_is_a_failure(self):
        lines = ["[ RUN      ] A.Passes", "[       OK ] A.Passes (3 ms)", "[ RUN      ] A.Crashes"]
        self.assertEqual(self.cases(lines, "exception 14"),
                         {"A.Passes": [], "some_test.Boot": [("failure", "exception 14")]})

    def test_a_program_without_cases_is_one_case(self):
        self.assertEqual(self.cases(["hello"], None), {"some_test.Boot": []})
        self.assertEqual(self.cases([], "no result"),
                         {"some_test.Boot": [("failure", "no result")]})

    def test_only_marked_lines_are_the_programs(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"Bochs is here\n\x02hello\n000i[CPU0] reset\n\x02RESULT PASS\n")
            file.flush()
            self.assertEqual(run_bochs.program_lines(file.name), ["hello", "RESULT PASS"])

    def test_the_arguments_are_written_as_the_loader_reads_them(self):
        options = run_bochs.parse_arguments(
            ["--name=x", "--rom=r", "--image=i", "--cpus=2", "--memory=64",
             "--", "--flag=1", "b c"])
        self.assertEqual(run_bochs.arguments_image(options), b"2 64 3 x\0--flag=1\0b c\0")


if __name__ == "__main__":
    unittest.main()
