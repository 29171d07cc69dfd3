# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import unittest

import check_freestanding as check

PAGE = """
| `elsewhere` | not in the section |
## Freestanding
| symbol | what |
|---|---|
| `tdp_platform_yield` | a function |
| `memcpy`, `memset` | two more |
"""


class CheckFreestanding(unittest.TestCase):

    def test_the_page_lists_symbols_in_the_first_column(self):
        self.assertEqual({"tdp_platform_yield", "memcpy", "memset"}, check.listed_symbols(PAGE))

    def test_what_one_member_needs_and_another_has_is_not_undefined(self):
        nm = "a.o:\n                 U f\n0000000000000000 T g\nb.o:\n" \
             "0000000000000000 W f\n                 U memcpy\n"
        self.assertEqual({"memcpy"}, check.undefined_symbols(nm))

    def test_more_and_fewer_symbols_than_listed_are_problems(self):
        nm = "                 U memcpy\n                 U abort\n"
        self.assertEqual(["it needs abort, which docs/embedding.md does not list",
                          "docs/embedding.md lists tdp_platform_yield, which it does not need"],
                         check.symbol_problems(nm, PAGE))

    def test_constructors_and_thread_local_data_are_named(self):
        objdump = "  0 .text         00000010  0\n  1 .init_array.5 00000008  0\n  2 .tbss 4 0\n"
        self.assertEqual(["it has a section .init_array.5", "it has a section .tbss"],
                         check.section_problems(objdump))

    def test_vector_registers_and_fs_are_named(self):
        objdump = "  0:\tmov %rax,%rbx\n  3:\tmovaps %xmm0,(%rdi)\n  6:\tmov %fs:0x28,%rax\n"
        self.assertEqual(2, len(check.instruction_problems(objdump)))

    def test_code_of_the_shadow_engine_is_found_and_its_names_in_others_are_not(self):
        nm = ("                 U tdp::ShadowTables<tdp::EptEntry>::Commit(tdp::ShadowZap&&)\n"
              "0000000000000000 T tdp::Vm::SetRmap(std::shared_ptr<tdp::SlotRmap>)\n")
        self.assertEqual(1, len(check.shadow_problems(nm)))

    def test_text_beyond_the_limit_is_a_problem(self):
        size = "   text\t   data\n 1000\t 5\n"
        self.assertEqual([], check.text_problems(size, 1000))
        self.assertEqual(1, len(check.text_problems(size, 999)))


if __name__ == "__main__":
    unittest.main()
