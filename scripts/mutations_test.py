# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import os
import unittest

import mutations

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")

LIST = """# A comment.

file: a/b.cc
tests: a:b_test a:c_test

mistake: first
guest: It stops.
- x = 1;
+ x = 2;

mistake: second
file: a/c.cc
in: void F()
guest: It stops.
equivalent: Nobody reads x.
- x = 1;
- y = 1;
"""

SOURCE = """void F() {
  if (x) {
    y = 1;
  }
  x =
      1;
}

void G() { x = 1; }
"""


class Mutations(unittest.TestCase):

    def test_a_list_gives_defaults_to_the_mistakes_below(self):
        first, second = mutations.parse("l.txt", LIST)
        self.assertEqual(("first", "a/b.cc", ["a:b_test", "a:c_test"], "x = 1;", "x = 2;"),
                         (first.name, first.file, first.tests, first.old, first.new))
        self.assertEqual(("a/c.cc", "void F()", "Nobody reads x.", "x = 1;\ny = 1;", ""),
                         (second.file, second.scope, second.equivalent, second.old, second.new))

    def mistake(self, **fields):
        return mutations.Mistake(name="m", where="l.txt:1", file="f.cc", **fields)

    def test_white_space_does_not_count(self):
        self.assertIn("  }\n  }\n", mutations.apply(
            self.mistake(scope="void F()", old="x = 1; }", new="}"), SOURCE))

    def test_a_text_that_stands_twice_needs_the_function_around_it(self):
        with self.assertRaisesRegex(mutations.ListError, "stands 2 times"):
            mutations.apply(self.mistake(old="x = 1;"), SOURCE)
        self.assertIn("void G() { x = 3; }", mutations.apply(
            self.mistake(scope="void G()", old="x = 1;", new="x = 3;"), SOURCE))

    def test_a_text_that_is_gone_is_named_with_its_list(self):
        with self.assertRaisesRegex(mutations.ListError, "^l.txt:1: m: .*stands 0 times in f.cc"):
            mutations.apply(self.mistake(old="z = 1;"), SOURCE)
        with self.assertRaisesRegex(mutations.ListError, "'void H' does not stand"):
            mutations.apply(self.mistake(scope="void H", old="x = 1;"), SOURCE)

    def test_a_scope_ends_with_the_brace_that_is_indented_like_its_line(self):
        with self.assertRaisesRegex(mutations.ListError, "stands 0 times"):
            mutations.apply(self.mistake(scope="if (x)", old="x = 1;"), SOURCE)

    def test_a_mistake_that_lacks_something_is_refused(self):
        for gone in ("guest: It stops.\n", "- x = 1;\n", "file: a/b.cc\n", "+ x = 2;\n"):
            text = LIST.replace(gone, "+ x = 1;\n" if gone[0] == "+" else "", 1)
            with self.assertRaises(mutations.ListError, msg=gone):
                mutations.parse("l.txt", text)
        with self.assertRaisesRegex(mutations.ListError, "l.txt:7: 'gist"):
            mutations.parse("l.txt", LIST.replace("guest", "gist", 1))

    def test_mistakes_are_chosen_by_number_range_name_and_list(self):
        all_of_them = mutations.parse("tests/mutations/l.txt", LIST)
        choose = lambda *words: [m.name for m in mutations.select(all_of_them, words)]
        self.assertEqual(["first", "second"], choose())
        self.assertEqual(["second"], choose("2"))
        self.assertEqual(["first", "second"], choose("1-9"))
        self.assertEqual(["second", "first"], choose("second", "l"))
        with self.assertRaisesRegex(mutations.ListError, "'third' names none of the 2"):
            choose("third")


class TheLists(unittest.TestCase):

    def test_every_mistake_still_has_its_place_in_the_code(self):
        problems = mutations.check_places(ROOT, mutations.load(ROOT))
        self.assertEqual([], problems, "\n" + "\n".join(problems))

    def test_every_test_that_a_mistake_names_exists(self):
        for target in sorted({t for m in mutations.load(ROOT) for t in m.tests}):
            package, _, name = target.partition(":")
            if mutations.is_scenario(target):
                self.assert_scenario(name)
                continue
            path = os.path.join(ROOT, "tests", package, name + ".cc")
            self.assertTrue(os.path.isfile(path), target)

    def assert_scenario(self, name):
        kind, _, operations = name.partition("/")
        folder = os.path.join(ROOT, "tests", "explore")
        with open(os.path.join(folder, "world.cc"), encoding="utf-8") as source:
            self.assertIn(f'"{kind.removesuffix(".small")}"', source.read(), name)
        with open(os.path.join(folder, "operations.cc"), encoding="utf-8") as source:
            text = source.read()
        # Scenarios are named in the order of the table of operations.
        places = [text.find(f'{{"{operation}"') for operation in operations.split("+")]
        self.assertNotIn(-1, places, name)
        self.assertEqual(sorted(places), places, name)


if __name__ == "__main__":
    unittest.main()
