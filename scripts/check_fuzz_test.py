# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import os
import shutil
import tempfile
import time
import unittest

import check_fuzz

RULES = """
_WARNINGS = [
    "-Wall",
    # Why not the other.
    "-Wno-other",
]
_CORE = ["-fno-exceptions"]
"""


class NamesTest(unittest.TestCase):
    def test_warnings_are_those_of_the_build(self):
        self.assertEqual(check_fuzz.warnings(RULES), ["-Wall", "-Wno-other"])

    def test_a_rule_names_files_over_several_lines(self):
        self.assertEqual(check_fuzz.files_of("a.o: a.cc \\\n  b.h \\\n  c.h\n"),
                         ["a.cc", "b.h", "c.h"])


class CheckerTest(unittest.TestCase):
    def setUp(self):
        self.before = os.getcwd()
        self.folder = tempfile.mkdtemp()
        os.chdir(self.folder)
        os.makedirs(f"{check_fuzz.CHECKED}/include")
        os.makedirs("tests/fuzz")
        os.symlink(self.folder, f"{check_fuzz.CHECKED}/include/tdp")

    def tearDown(self):
        os.chdir(self.before)
        shutil.rmtree(self.folder)

    def write(self, path, text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        # Older than any answer that follows.
        os.utime(path, (time.time() - 10, time.time() - 10))

    def check(self, follow=True):
        # Another compiler will do where there is no clang: it writes the same rules.
        command = ["g++", "-fsyntax-only", "-Werror", "-Wall", f"-I{check_fuzz.CHECKED}/include"]
        return check_fuzz.Checker(command).check_all([("tests/fuzz/a_fuzz.cc", False)], follow)

    def test_a_target_with_a_mistake_is_complained_of(self):
        self.write("tests/fuzz/a_fuzz.cc", "int f() { int unused; return 0; }\n")
        complaints, count = self.check()
        self.assertEqual(count, 1)
        self.assertIn("unused", complaints[0])

    def test_a_source_beside_a_header_counts_if_it_is_asked_for(self):
        self.write("tests/fuzz/a_fuzz.cc", '#include "tdp/tests/fuzz/b.h"\n')
        self.write("tests/fuzz/b.h", "int b();\n")
        self.write("tests/fuzz/b.cc", '#include "b.h"\nint b() { return c; }\n')
        complaints, count = self.check()
        self.assertEqual((len(complaints), count), (1, 2))
        self.assertEqual(self.check(follow=False), ([], 1))

    def test_what_was_good_is_looked_at_again_when_a_header_is_newer(self):
        self.write("tests/fuzz/a_fuzz.cc", '#include "b.h"\n')
        self.write("tests/fuzz/b.h", "int b();\n")
        self.assertEqual(self.check(), ([], 1))
        self.write("tests/fuzz/b.h", "int b()\n")
        self.assertEqual(self.check(), ([], 1))  # it looks as old as before
        os.utime("tests/fuzz/b.h", (time.time() + 10, time.time() + 10))
        self.assertEqual(len(self.check()[0]), 1)


if __name__ == "__main__":
    unittest.main()
