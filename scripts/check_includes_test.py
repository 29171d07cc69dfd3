# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import unittest

import check_includes


class CheckIncludes(unittest.TestCase):

    def problems(self, text, own_header=""):
        return check_includes.check_text("mmu/a.cc", text, own_header)

    def test_a_name_without_its_header_is_told_with_its_line(self):
        self.assertEqual(
            ["mmu/a.cc:3: std::move needs #include <utility>"],
            self.problems("#include <string>\n\nauto a = std::move(b);\n"))
        self.assertEqual(
            ['mmu/a.cc:1: absl::StatusOr needs #include "absl/status/statusor.h"'],
            self.problems("absl::StatusOr<int> F();\n"))

    def test_a_name_with_its_header_is_fine(self):
        self.assertEqual([], self.problems("#include <utility>\nauto a = std::move(b);\n"))
        self.assertEqual([], self.problems("#include <stdint.h>\nuint64_t a;\n"))
        self.assertEqual([], self.problems("#include <vector>\nsize_t a;\n"))

    def test_a_source_has_what_its_own_header_includes(self):
        self.assertEqual([], self.problems("uint64_t a;\n", "#include <cstdint>\n"))

    def test_words_in_comments_and_texts_and_parts_of_names_count_for_nothing(self):
        self.assertEqual([], self.problems(
            '// std::move\n/* std::map\n */ const char* a = "std::set";\nint uint64_type;\n'))

    def test_a_line_is_counted_behind_a_comment_of_several(self):
        self.assertEqual(["mmu/a.cc:3: uint8_t needs #include <cstdint>"],
                         self.problems("/* one\n two */\nuint8_t a;\n"))


if __name__ == "__main__":
    unittest.main()
