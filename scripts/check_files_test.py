# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import unittest

import check_files

GOOD = """// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#ifndef TDP_MMU_VM_H_
#define TDP_MMU_VM_H_

#endif  // TDP_MMU_VM_H_
"""


class CheckFiles(unittest.TestCase):

    def test_a_good_header_has_no_problem(self):
        self.assertEqual([], check_files.check_source("mmu/vm.h", GOOD))

    def one_problem(self, path, text, word):
        problems = check_files.check_source(path, text)
        self.assertEqual(1, len(problems), problems)
        self.assertIn(word, problems[0])

    def test_each_fault_is_named(self):
        self.one_problem("mmu/vm.h", GOOD.replace("BSD-3-Clause", "MIT"), "SPDX")
        self.one_problem("mmu/vm2.h", GOOD, "TDP_MMU_VM2_H_")
        self.one_problem("mmu/vm.h", GOOD.rstrip("\n"), "newline")
        self.one_problem("mmu/vm.h", GOOD + "// " + "x" * 98 + "\n", "101 columns")
        self.one_problem("mmu/vm.h", GOOD + "int x; \n", "blanks")
        self.one_problem("mmu/vm.h", GOOD + "// x\n" * 700, "706 lines")
        self.one_problem("mmu/vm.h", GOOD + "// TODO\n", "vm.h:7: 'TODO'")
        self.one_problem("mmu/vm.h", GOOD + "f();  // NOLINT\n", "NOLINT")
        self.one_problem("mmu/vm.h", GOOD + "dynamic_cast<B*>(a);\n", "RTTI")
        self.one_problem("tests/a.h", GOOD.replace("MMU_VM", "TESTS_A") + "GTEST_SKIP();\n", "reason")

    def test_a_comment_does_not_begin_with_half_a_sentence(self):
        for half in ("What is mapped.", "Whether it is.", "The same of a page.", "Of a slot.",
                     "It is.\n//\n// As above."):
            self.one_problem("mmu/vm.h", GOOD + f"int x;\n  // {half}\n", "half a sentence")
            alone = GOOD.split("\n")[0] + f"\n\n// {half}\n"
            for path in ("tests/a.cc", "tests/explore/world.cc", "tests/mmu/views_test.cc",
                         "tools/a.cc", "tools/trace/a.cc", "judge/a.cc", "examples/linux/a.cc",
                         "benchmarks/a.cc"):
                self.one_problem(path, alone, "half a sentence")
            for path in ("tests/a.py", "scripts/a.py"):
                self.assertEqual([], check_files.check_source(path, alone))
        whole = "// It says\n// What is mapped.\nint a;  // Of a slot.\n// Whatever.\n// Ask.\n"
        self.assertEqual([], check_files.check_source("mmu/vm.h", GOOD + whole))

    def test_a_nolint_with_its_check_is_fine(self):
        self.assertEqual([], check_files.check_source(
            "mmu/vm.h", GOOD + "f();  // NOLINT(google-x)\n// NOLINTNEXTLINE(google-x)\n"))

    def test_rules_that_bazel_9_lacks_are_loaded(self):
        head = f"# {check_files.SPDX}\n"
        rule = 'cc_library(\n    name = "a",\n)\n'
        load = 'load("@rules_cc//cc:defs.bzl", "cc_library")\n'
        self.one_problem("mmu/BUILD.bazel", head + rule, "cc_library")
        self.one_problem("bazel/a.bzl", head + "def f():\n    native.py_binary()\n", "py_binary")
        self.assertEqual([], check_files.check_source("mmu/BUILD.bazel", head + load + rule))
        self.assertEqual([], check_files.check_source("bazel/offline/a/BUILD.bazel", head + rule))

    def test_abseils_lock_with_two_spellings_is_refused(self):
        lock = GOOD + "absl::MutexLock lock(&mutex_);\n"
        self.one_problem("mmu/vm.h", lock, "AbslMutexLock")
        self.assertEqual([], check_files.check_source(
            "base/freestanding/absl/a.h", lock.replace("MMU_VM", "BASE_FREESTANDING_ABSL_A")))

    def test_prose_is_held_to_its_width_but_not_tables_and_code(self):
        wide = "word " * 25
        self.assertEqual([], check_files.check_prose(
            "docs/a.md", f"| {wide}|\n    {wide}\n```\n{wide}\n```\nshort\n"))
        self.assertIn("a.md:2: ", check_files.check_prose("docs/a.md", f"short\n{wide}\n")[0])


if __name__ == "__main__":
    unittest.main()
