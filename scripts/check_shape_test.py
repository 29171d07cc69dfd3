# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import unittest

import check_shape


class CheckShapeTest(unittest.TestCase):
    def test_a_question_for_the_kind_of_tables_is_counted_wherever_it_is_asked(self):
        for line in ["if (options_.paging == Paging::kEpt) f();", "if (shadow_ != nullptr) f();",
                     "return options().nested;", "if (HasEpt(kind)) f();",
                     "if (side() == nullptr) f();",
                     "if (engine.reverse_mapped(slot.address_space) == nullptr) f();",
                     "if (View* view = engine.nested(space)) f();"]:
            self.assertGreater(check_shape.count_mode_tests({"mmu/vm.cc": line}), 0, line)
            self.assertEqual(check_shape.count_mode_tests({"mmu/paging_kind.cc": line}), 0, line)

    def test_files_that_ask_are_counted_once_each_and_those_that_decide_are_not(self):
        text = "if (shadow_ != nullptr) f();\nif (nested_ != nullptr) g();\n"
        files = {"mmu/a.cc": text, "mmu/b.cc": text, "mmu/c.cc": "f();\n",
                 "mmu/vm_options.cc": text, "memslot/a.cc": text}
        self.assertEqual(check_shape.measure(files)["mode tests"], 4)
        self.assertEqual(check_shape.measure(files)["files with mode tests"], 2)

    def test_comments_and_other_pointers_are_no_questions(self):
        text = "// options.nested says so\nif (slot != nullptr) f();\n"
        self.assertEqual(check_shape.count_mode_tests({"mmu/vm.cc": text}), 0)

    def test_headers_come_through_others_and_count_once(self):
        files = {"mmu/vm.h": '#include "tdp/mmu/a.h"\n#include "tdp/base/b.h"\n#include <map>\n',
                 "mmu/a.h": '#include "tdp/base/b.h"\n', "base/b.h": "int b;\n"}
        self.assertEqual(check_shape.headers_behind("mmu/vm.h", files), {"mmu/a.h", "base/b.h"})
        self.assertEqual(check_shape.measure(files)["lines behind vm.h"], 5)

    def test_private_functions_are_counted_and_data_is_not(self):
        text = """
class Vm : public Base {
 public:
  void Face(int);
 private:
  friend class Vcpu;
  Vm(int);
  struct Inner { void F(); };
  void Hidden(std::function<void(int)> f);
  template <typename T>
  bool AlsoHidden(T t) const ABSL_LOCKS_EXCLUDED(mutex_);
  int Short() const { return f(1); }
  int data_ = 3;
  std::vector<int> more_ ABSL_GUARDED_BY(mutex_);  // (of these)
};
class Other { private: void F(); };
"""
        self.assertEqual(check_shape.count_private_functions("Vm", text), 3)
        self.assertEqual(check_shape.count_private_functions("Vcpu", text), 0)

    def test_floors_are_the_longest_chain_within_one_folder(self):
        files = {"mmu/a.h": '#include "tdp/mmu/b.h"\n#include "tdp/base/z.h"\n',
                 "mmu/b.h": '#include "tdp/mmu/c.h"\n', "mmu/c.h": "", "mmu/d.h": "",
                 "base/z.h": ""}
        self.assertEqual(
            check_shape.floors({"mmu/a.h", "mmu/b.h", "mmu/c.h", "mmu/d.h"}, files), 3)

    def test_a_class_that_owns_a_vm_is_a_world_and_one_that_inherits_it_is_none(self):
        world = "class World {\n  std::unique_ptr<Vm> vm_;\n};\nclass Guest : public World {\n};\n"
        self.assertEqual(check_shape.count_worlds({"tests/mmu/world.h": world}), 1)
        self.assertEqual(check_shape.count_worlds({"tests/explore/world.h": world}), 0)
        self.assertEqual(check_shape.count_worlds({"mmu/world.h": world}), 0)
        local = "TEST(A, B) {\n  const std::unique_ptr<Vm> vm = Make();\n}\n"
        self.assertEqual(check_shape.count_worlds({"tests/mmu/a_test.cc": local}), 0)

    def test_backends_are_counted_wherever_a_test_derives_one(self):
        text = """
class TestHost : public MinimalBackend {
};
TEST(A, B) {
  struct Slow final : public sim::SimBackend {
  };
}
class Moving : public TestHost {
};
class Guest : public SimWorld {
  HookedBackend backend_;
};
"""
        self.assertEqual(check_shape.count_backends({"tests/mmu/a_test.cc": text}), 3)
        self.assertEqual(check_shape.count_backends({"tests/judge/a.h": text}), 0)

    def test_the_longest_test_is_measured_apart(self):
        found = check_shape.measure({"mmu/a.cc": "\n" * 3, "tests/a_test.cc": "\n" * 7})
        self.assertEqual(found["lines of the longest file"], 3)
        self.assertEqual(found["lines of the longest test"], 7)

    def test_each_measure_has_a_limit_that_is_no_better_than_its_goal(self):
        self.assertEqual(set(check_shape.measure({})), set(check_shape.LIMITS))
        for name, (limit, goal) in check_shape.LIMITS.items():
            self.assertGreaterEqual(limit, goal, name)


if __name__ == "__main__":
    unittest.main()
