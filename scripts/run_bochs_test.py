#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of backends/vtx/boot/run_bochs.py that need no emulator."""

import contextlib
import io
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
        finder = run_bochs.ProgramLines()
        text = b"Bochs is here\n\x02hello\n000i[CPU0] reset\nalert\x02RESULT PASS"
        self.assertEqual(finder.feed(text) + finder.end(), ["hello", "RESULT PASS"])

    def test_a_line_is_seen_when_it_is_complete_however_it_is_cut(self):
        finder = run_bochs.ProgramLines()
        self.assertEqual(finder.feed(b"\x02he"), [])
        self.assertEqual(finder.feed(b"llo\n\x02a\n\x02b"), ["hello", "a"])
        self.assertEqual(finder.end(), ["b"])

    def test_lines_are_printed_while_the_emulator_runs_and_a_late_one_is_killed(self):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            lines, how = run_bochs.stream(
                ["sh", "-c", "printf '\\002one\\nnoise\\n'; exec sleep 1000"], 1)
        self.assertEqual((lines, how), (["one"], None))
        self.assertEqual(printed.getvalue(), "one\n")

    def test_an_emulator_that_stops_by_itself_says_how(self):
        self.assertEqual(run_bochs.stream(["sh", "-c", "exit 3"], 100), ([], "status 3"))
        self.assertEqual(run_bochs.stream(["sh", "-c", "kill -9 $$"], 100),
                         ([], "signal 9 killed it"))

    def test_files_lie_on_pages_behind_the_image_and_must_fit(self):
        with tempfile.TemporaryDirectory() as directory:
            path = lambda name: os.path.join(directory, name)
            for name, size in (("image", 5000), ("a", 3), ("b", 4096)):
                with open(path(name), "wb") as file:
                    file.write(name[:1].encode() * size)
            options = run_bochs.parse_arguments(
                ["--rom=r", "--image=" + path("image"), "--file=x=" + path("a"),
                 "--file=unneeded=/nowhere", "--file=y=" + path("b"), "--needs=x", "--needs=y"])
            self.assertEqual(run_bochs.attach_files(options, path("out")),
                             ["x=0x102000,3", "y=0x103000,4096"])
            with open(path("out"), "rb") as file:
                self.assertEqual(file.read()[0x2000:0x2004], b"aaa\0")
            os.truncate(path("b"), 31 << 20)
            with self.assertRaisesRegex(ValueError, "there is room for 32505856"):
                run_bochs.attach_files(options, path("out"))

    def test_the_serial_port_and_more_lines_reach_the_configuration(self):
        options = run_bochs.parse_arguments(["--rom=r", "--image=i", "--com1=f", "--bochsrc=x: 1"])
        self.assertEqual(run_bochs.more_configuration(options),
                         "x: 1\ncom1: enabled=1, mode=file, dev=f\n")

    def test_the_arguments_are_written_as_the_loader_reads_them(self):
        options = run_bochs.parse_arguments(
            ["--name=x", "--rom=r", "--image=i", "--cpus=2", "--memory=64", "--ips=5000000",
             "--", "--flag=1", "b c"])
        self.assertEqual(run_bochs.arguments_image(options), b"2 64 5000000 3 x\0--flag=1\0b c\0")


if __name__ == "__main__":
    unittest.main()
