#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Checks that a file includes the headers of the names that it uses.

Standard libraries and Abseil's releases differ in what their headers bring besides, so that a file
which leaves a header to the others compiles here and not elsewhere. A source has what the header of
its own name includes. Looked at are the folders that others compile, and the names in NAMES.

Usage: check_includes.py [ROOT]
"""

import os
import re
import subprocess
import sys

FOLDERS = ("backends", "base", "judge", "memslot", "mmu", "rmap")
# Stand-ins for Abseil, and programs without an operating system, go their own ways.
NOT_CHECKED = re.compile(r"^(base/freestanding|backends/vtx/boot)/")

# Each header, or several of which one is enough, and a pattern of the names it declares.
NAMES = [
    ("cstdint stdint.h", r"(std::)?(u?int(8|16|32|64|ptr)_t|U?INT(8|16|32|64)_(MAX|MIN|C))"),
    ("cstddef stddef.h string string_view vector array span cstring cstdlib cstdio",
     r"(std::)?(size_t|ptrdiff_t)"),
    ("cstddef", r"std::byte|offsetof"),
    ("utility", r"std::(move|forward|swap|exchange|make_pair|declval|as_const|in_place|"
                r"(make_)?(index|integer)_sequence|to_underlying)"),
    ("utility map", r"std::pair"),
    ("algorithm", r"std::(ranges::)?(min|max|minmax|clamp|sort|stable_sort|find|find_if|fill|"
                  r"fill_n|copy|copy_n|copy_backward|any_of|all_of|none_of|count|count_if|reverse|"
                  r"lower_bound|upper_bound|equal|equal_range|remove_if|unique|transform|rotate|"
                  r"min_element|max_element|for_each|partition_point|push_heap|pop_heap)"),
    ("memory", r"std::((unique|shared|weak)_ptr|make_(unique|shared)|addressof|destroy_at|"
               r"construct_at|allocator)"),
    ("string", r"std::(string|to_string|getline)"),
    ("iterator", r"std::(back_inserter|inserter|distance|next|prev|advance|\w+_iterator_tag|"
                 r"istreambuf_iterator|make_move_iterator|reverse_iterator)"),
    ("optional", r"std::(optional|nullopt|nullopt_t|make_optional)"),
    ("variant", r"std::(variant|visit|holds_alternative|get_if|monostate)"),
    ("tuple", r"std::(tuple|tie|make_tuple)"),
    ("atomic", r"std::(atomic|atomic_ref|memory_order|memory_order_\w+|atomic_\w+_fence)"),
    ("mutex", r"std::(mutex|lock_guard|unique_lock|scoped_lock|call_once|once_flag)"),
    ("thread", r"std::(thread|this_thread)"),
    ("functional", r"std::(function|greater|plus|bind|invoke|reference_wrapper|c?ref|identity)"),
    ("bit", r"std::(bit_cast|popcount|count[lr]_(zero|one)|bit_(width|ceil|floor)|"
            r"has_single_bit|rotl|rotr|endian)"),
    ("compare", r"std::(strong|weak|partial)_ordering|operator<=>"),
    ("concepts", r"std::(same_as|derived_from|convertible_to|(un)?signed_integral|integral|"
                 r"invocable|predicate)"),
    ("type_traits", r"std::(is_\w+_v|\w+_t<|conditional_t|remove_\w+_t|underlying_type_t|"
                    r"invoke_result_t|make_unsigned_t|true_type|false_type|integral_constant)"),
    ("limits", r"std::numeric_limits"),
    ("numeric", r"std::(accumulate|iota|gcd|lcm|midpoint)"),
    ("cstring", r"std::(mem(cpy|set|cmp|move|chr)|str(len|error|n?cmp|r?chr|str))"),
    ("cstdlib", r"std::(abort|malloc|free|_?exit|getenv|atexit|strto\w+)"),
    ("cstdio", r"std::(FILE|f?printf|snprintf|fopen|fclose|fputs|puts|fflush|fwrite|fread)"),
    ("new", r"std::(launder|align_val_t|nothrow|bad_alloc)"),
    ("initializer_list vector string map set", r"std::initializer_list"),
    ("charconv", r"std::(from|to)_chars"),
    ("cmath", r"std::(sqrt|pow|log2?|exp|floor|ceil|round|l?lround|isnan|isfinite)"),
    ("random", r"std::(mt19937(_64)?|\w+_distribution)"),
    ("cerrno errno.h", r"errno"),
    ("absl/base/attributes.h", r"ABSL_ATTRIBUTE_\w+"),
    ("absl/base/optimization.h", r"ABSL_PREDICT_(TRUE|FALSE)"),
    ("absl/base/thread_annotations.h",
     r"ABSL_((PT_)?GUARDED_BY|\w*LOCKS?_(REQUIRED|EXCLUDED|FUNCTION)|\w*LOCKABLE|"
     r"NO_THREAD_SAFETY_ANALYSIS)"),
    ("absl/status/status.h", r"absl::(Status|StatusCode|OkStatus|\w+Error|"
                             r"Is(NotFound|InvalidArgument|ResourceExhausted|Unavailable|"
                             r"AlreadyExists|FailedPrecondition))"),
    ("absl/status/statusor.h", r"absl::StatusOr"),
    ("absl/strings/str_format.h", r"absl::(Str(Append)?Format|F?PrintF|FormatSpec)"),
    ("absl/strings/str_cat.h", r"absl::(StrCat|StrAppend|Hex)"),
    ("absl/strings/str_split.h", r"absl::(StrSplit|MaxSplits|SkipEmpty)"),
    ("absl/synchronization/mutex.h", r"absl::(Mutex|Condition)"),
    ("absl/memory/memory.h", r"absl::WrapUnique"),
    ("absl/types/span.h", r"absl::(Span|MakeSpan|MakeConstSpan)"),
    ("absl/functional/function_ref.h", r"absl::FunctionRef"),
] + [(name, rf"std::{name}") for name in
     ("array", "vector", "map", "set", "unordered_map", "unordered_set", "deque", "list", "span",
      "bitset", "chrono", "string_view")] + [
         (f"absl/container/{header}.h", rf"absl::{name}") for header, name in
         (("flat_hash_map", "flat_hash_map"), ("flat_hash_set", "flat_hash_set"),
          ("inlined_vector", "InlinedVector"))]

RULES = [(headers.split(), re.compile(rf"(?<![\w:.>])({names})(?![\w:])"))
         for headers, names in NAMES]
NOT_CODE = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def check_text(path, text, own_header=""):
    """The headers that `path` should include, as "path:line: NAME needs #include <HEADER>"."""
    included = set(INCLUDE.findall(text) + INCLUDE.findall(own_header))
    # Lines stay where they are.
    code = NOT_CODE.sub(lambda match: "\n" * match.group().count("\n"), text)
    problems = []
    for headers, names in RULES:
        if included.intersection(headers):
            continue
        match = names.search(code)
        if match:
            line = code.count("\n", 0, match.start()) + 1
            header = f'"{headers[0]}"' if "/" in headers[0] else f"<{headers[0]}>"
            problems.append(f"{path}:{line}: {match.group(1)} needs #include {header}")
    return problems


def check_tree(root):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *FOLDERS], cwd=root,
                            capture_output=True, text=True, check=True)
    problems = []
    for path in sorted(listed.stdout.split()):
        full = os.path.join(root, path)
        if not path.endswith((".h", ".cc")) or NOT_CHECKED.search(path) or not os.path.exists(full):
            continue
        own = full[:-len(".cc")] + ".h" if path.endswith(".cc") else ""
        own_header = ""
        if own and os.path.exists(own):
            with open(own, encoding="utf-8") as file:
                own_header = file.read()
        with open(full, encoding="utf-8") as file:
            problems += check_text(path, file.read(), own_header)
    return problems


if __name__ == "__main__":
    found = check_tree(sys.argv[1] if len(sys.argv) > 1 else ".")
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
