#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import os
import re
import unittest

import doxygen_filter

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


class DoxygenFilter(unittest.TestCase):

    def filtered(self, *lines):
        return doxygen_filter.filtered("\n".join(lines)).split("\n")

    def test_the_first_block_describes_the_file(self):
        self.assertEqual(
            ["/// \\file", "///", "/// What it holds.", "", "int x;"],
            self.filtered("// SPDX-License-Identifier: X", "//", "// What it holds.", "", "int x;"))

    def test_a_comment_describes_what_follows_it(self):
        self.assertEqual(["int a;", "  /// Of b.", "  int b;"],
                         self.filtered("int a;", "  // Of b.", "  int b;"))

    def test_a_comment_behind_code_describes_that_code(self):
        self.assertEqual(["  int a = 0;  ///< of a", "  int b;"],
                         self.filtered("  int a = 0;  // of a", "  int b;"))

    def test_the_end_of_a_namespace_says_nothing_of_it(self):
        self.assertEqual(["int a;", "}  // namespace tdp"],
                         self.filtered("int a;", "}  // namespace tdp"))

    def test_signs_that_doxygen_would_interpret_are_escaped_outside_code(self):
        self.assertEqual(["int a;", "/// A \\#VE or \\<x\\>, `a<b>` kept."],
                         self.filtered("int a;", "// A #VE or <x>, `a<b>` kept."))

    def test_code_is_left_alone(self):
        self.assertEqual(["#define X 1", "int a = b / c;"],
                         self.filtered("#define X 1", "int a = b / c;"))

    def test_every_input_of_the_reference_is_there(self):
        with open(os.path.join(ROOT, "docs/api/Doxyfile"), encoding="utf-8") as file:
            inputs = re.findall(r"\$\(TDP_INCLUDE\)/tdp/(\S+)", file.read())
        self.assertIn("mmu", inputs)
        self.assertEqual([], [path for path in inputs
                              if not os.path.exists(os.path.join(ROOT, path))])


if __name__ == "__main__":
    unittest.main()
