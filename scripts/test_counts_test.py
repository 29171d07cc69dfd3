# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import io
import os
import tempfile
import unittest

import test_counts

SUITE = """<?xml version="1.0"?><testsuites><testsuite name="S">
<testcase name="Passes" status="run" result="completed" classname="S"/>
<testcase name="Skips" status="run" result="skipped" classname="S">
<skipped message="a_test.cc:3&#x0A;no such machine&#x0A;"/></testcase>
{extra}</testsuite></testsuites>"""

FAILURE = '<testcase name="Fails" classname="S"><failure message="x"/></testcase>'


class TestCounts(unittest.TestCase):

    def setUp(self):
        self.log = io.StringIO()
        handle, self.path = tempfile.mkstemp(suffix=".xml")
        os.close(handle)
        self.addCleanup(os.unlink, self.path)

    def event(self, status, xml=None, attempt=1):
        if xml is not None:
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(xml)
        return {"id": {"testResult": {"label": "//a:a_test", "run": 1, "attempt": attempt}},
                "testResult": {"status": status, "testActionOutput":
                               [{"name": "test.xml", "uri": "file://" + self.path}]}}

    def counts(self, events, bazel_status):
        counts = test_counts.count(events, bazel_status, self.log)
        return counts.passed, counts.failed, counts.skipped

    def test_cases_are_counted_and_skips_give_their_reason(self):
        self.assertEqual((1, 0, 1), self.counts([self.event("PASSED", SUITE.format(extra=""))], 0))
        self.assertEqual("skipped: //a:a_test S.Skips: no such machine\n", self.log.getvalue())

    def test_a_failed_case_is_one_failure(self):
        self.assertEqual((1, 1, 1),
                         self.counts([self.event("FAILED", SUITE.format(extra=FAILURE))], 3))

    def test_a_program_that_fails_after_its_cases_is_one_failure(self):
        self.assertEqual((1, 1, 1), self.counts([self.event("FAILED", SUITE.format(extra=""))], 3))

    def test_a_crash_without_a_report_is_one_failure(self):
        self.assertEqual((0, 1, 0), self.counts([self.event("TIMEOUT", "")], 3))

    def test_a_broken_build_is_one_failure(self):
        self.assertEqual((1, 1, 1), self.counts([self.event("PASSED", SUITE.format(extra=""))], 1))

    def test_a_run_without_tests_is_one_failure(self):
        self.assertEqual((0, 1, 0), self.counts([], 4))
        self.assertEqual((0, 1, 0), self.counts([], 0))


if __name__ == "__main__":
    unittest.main()
