#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of instructions.py."""

import unittest

import instructions

DUMP = """version: 1
events: Ir

fn=void tdp::bench::(anonymous namespace)::Measured<int>(int)
0 40
cfn=tdp::Vm::Zap()
calls=10 0
0 1000

fn=tdp::Vm::Zap()
0 300
+3 100
cfn=tdp::MinimalBackend::Kick()
calls=10 0
0 600

fn=tdp::MinimalBackend::Kick()
0 600

totals: 1040
"""


class InstructionsTest(unittest.TestCase):
    def test_a_function_has_its_own_instructions_and_not_those_of_what_it_calls(self):
        self.assertEqual(instructions.count_by_function(DUMP)["tdp::Vm::Zap()"], 400)

    def test_harness_and_host_do_not_count(self):
        self.assertEqual(instructions.rows_of("zap\t10\n", [DUMP]),
                         [("zap", 10, {"tdp::Vm::Zap()": 400})])

    def test_a_row_without_its_dump_is_an_error(self):
        with self.assertRaises(ValueError):
            instructions.rows_of("zap\t10\nfault\t1\n", [DUMP])

    def test_three_in_a_hundred_beyond_the_budget_is_wrong(self):
        self.assertEqual(instructions.compare({"zap": 103}, {"zap": 100})[1], [])
        self.assertEqual(len(instructions.compare({"zap": 104}, {"zap": 100})[1]), 1)

    def test_a_row_without_a_budget_and_a_budget_without_a_row_are_wrong(self):
        self.assertEqual(len(instructions.compare({"zap": 1}, {"fault": 1})[1]), 2)


if __name__ == "__main__":
    unittest.main()
