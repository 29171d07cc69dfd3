#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Measures the shape of the engine, and holds it to limits that may only be lowered.

What is measured, of mmu/ and its folders:
  mode tests      places that ask which kind of tables a VM has, outside of the files that decide
                  it, and the files that those places are in
  vm.h            headers of ours, and their lines, that come with the public face
  private         functions that public classes show in their private parts
  entries         files of a folder
  floors          the longest chain of headers in one folder that include one another
  length          lines of the longest source file, and of the longest test

And of tests/: classes that own a `Vm` (worlds), and classes that are a `Backend` of their own.
Folders that must stand alone are left out; tests/world/README.md says why.

Where a goal is not reached the limit is what holds today. Whoever gets better lowers it.

Usage: check_shape.py [--print] [ROOT]
"""

import os
import re
import sys

# name: (limit, goal)
LIMITS = {
    "mode tests": (8, 8),
    "files with mode tests": (2, 2),
    "headers behind vm.h": (21, 21),
    "lines behind vm.h": (2500, 2500),
    "private functions shown": (0, 0),
    "entries of the largest folder": (20, 20),
    "floors of the highest folder": (5, 5),
    "lines of the longest file": (600, 600),
    "lines of the longest test": (600, 600),
    "worlds of the tests": (3, 3),
    "backends of the tests": (6, 6),
}

# Where options are read and said to go together or not, and where tables are made by them. There is
# no Vm yet.
DECIDES = {"mmu/paging_kind.h", "mmu/paging_kind.cc", "mmu/space/address_space.h",
           "mmu/space/address_space.cc", "mmu/option_pairs.cc", "mmu/vm_options.h",
           "mmu/vm_options.cc"}
MODE_TEST = re.compile(
    r"\bPaging::k|\bPagingKind::k|\b(?:HasEpt|HasShadowPages|KeepsReverseMap)\(|"
    r"\boptions(?:_|\(\))?\.(?:paging|reverse_map|nested)\b|"
    r"\b(?:shadow|nested|reverse_mapped|side)_?(?:\([^()]*\))? [!=]= nullptr|"
    r"\bif \([A-Za-z]+\* \w+ = (?:\w+(?:\.|->))?(?:shadow|nested|reverse_mapped)\(")

FACE = "mmu/vm.h"
PUBLIC_CLASSES = {"mmu/vm.h": ["Vm"], "mmu/vcpu.h": ["Vcpu", "GuestEntry"],
                  "mmu/shadow/shadow_vcpu.h": ["ShadowVcpu"],
                  "mmu/shadow/nested_vcpu.h": ["NestedVcpu"]}

# Tests whose machine is another one, or that show what an embedder writes.
STAND_ALONE = ("tests/consumers/", "tests/embedding/", "tests/explore/", "tests/judge/",
               "tests/relacy/", "tests/vtx/")
CLASS = re.compile(r"\b(?:class|struct) (\w+)(?: final)?(?: : ([^{;]*))?\s*\{")
OWNS_VM = re.compile(r"\bunique_ptr<Vm> \w+(?: = [^;]*)?;")
IS_BACKEND = re.compile(r"\bpublic (?:\w+::)*\w*(?:Backend|TestHost)\b")

INCLUDE = re.compile(r'^\s*#\s*include\s*"tdp/([^"]+)"', re.MULTILINE)


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def mode_tests(files):
    """How many mode tests each of `files`, a dict of texts by path, has: a list of pairs."""
    found = [(path, len(MODE_TEST.findall(without_comments(text))))
             for path, text in sorted(files.items()) if path not in DECIDES]
    return [(path, count) for path, count in found if count]


def count_mode_tests(files):
    return sum(count for _, count in mode_tests(files))


def headers_behind(path, files):
    """The headers that `path` brings, itself left out."""
    found, rest = set(), [path]
    while rest:
        for header in INCLUDE.findall(files.get(rest.pop(), "")):
            if header not in found and header != path:
                found.add(header)
                rest.append(header)
    return found


def class_body(name, text):
    """The text between the braces of class `name`, or an empty string."""
    start = re.search(r"\b(?:class|struct)\s+(?:\[\[\w+\]\]\s+)?%s\b[^;{]*\{" % name, text)
    if not start:
        return ""
    depth, end = 1, start.end()
    while depth and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start.end():end - 1]


def declarations(body):
    """The declarations of a class body, with what stands in braces taken out."""
    depth, current = 0, ""
    for char in body:
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0 and ("(" in current or current.lstrip().startswith(("struct", "enum"))):
                yield current
                current = ""
        elif depth == 0:
            if char == ";":
                yield current
                current = ""
            else:
                current += char


def count_private_functions(name, text):
    """Functions that class `name` declares in its private parts, its constructors left out."""
    count = 0
    sections = re.split(r"\b(public|protected|private):", class_body(name, without_comments(text)))
    for access, body in zip(sections[1::2], sections[2::2]):
        if access != "private":
            continue
        for line in declarations(body):
            line = re.sub(r"\bABSL_[A-Z_]+\([^()]*(?:\([^()]*\)[^()]*)*\)|\bABSL_[A-Z_]+", "", line)
            line = line.split("=")[0] if "operator" not in line else line
            called = re.search(r"([\w:]+)\s*\(", line)
            skip = re.match(r"\s*(?:friend|using|struct|class|enum|static_assert)\b", line)
            if called and not skip and called.group(1) != name and "FunctionRef" not in called[1]:
                count += 1
    return count


def test_classes(files):
    """Bases and body of each class of the tests that share a world."""
    for path, text in files.items():
        if not path.startswith("tests/") or path.startswith(STAND_ALONE):
            continue
        text = without_comments(text)
        for found in CLASS.finditer(text):
            yield found.group(2) or "", class_body(found.group(1), text[found.start():])


def count_worlds(files):
    return sum(bool(OWNS_VM.search(body)) for _, body in test_classes(files))


def count_backends(files):
    return sum(bool(IS_BACKEND.search(bases)) for bases, _ in test_classes(files))


def longest(sources):
    return max((text.count("\n") for text in sources.values()), default=0)


def folder_files(files):
    """The files of mmu/ and of each of its folders, by folder."""
    folders = {}
    for path in files:
        folders.setdefault(os.path.dirname(path), []).append(path)
    return folders


def floors(paths, files):
    """The longest chain of headers among `paths` of which each includes the next."""
    heights = {}

    def height(path):
        if path not in heights:
            heights[path] = 1  # for a circle, which the compiler would refuse
            below = [height(h) for h in INCLUDE.findall(files[path]) if h in paths and h != path]
            heights[path] = 1 + max(below, default=0)
        return heights[path]

    return max((height(p) for p in paths if p.endswith(".h")), default=0)


def measure(files):
    """What LIMITS names, of `files`: the sources of ours by path, with all entries of mmu/."""
    sources = {p: t for p, t in files.items() if p.endswith((".h", ".cc"))}
    tests = {p: t for p, t in sources.items() if p.startswith("tests/")}
    core = {p: t for p, t in sources.items() if p not in tests}
    engine = {p: t for p, t in sources.items() if p.startswith("mmu/")}
    behind = headers_behind(FACE, sources)
    folders = folder_files({p: t for p, t in files.items() if p.startswith("mmu/")})
    return {
        "mode tests": count_mode_tests(engine),
        "files with mode tests": len(mode_tests(engine)),
        "headers behind vm.h": len(behind),
        "lines behind vm.h": sum(sources.get(p, "").count("\n") for p in behind | {FACE}),
        "private functions shown": sum(count_private_functions(name, sources.get(path, ""))
                                       for path, names in PUBLIC_CLASSES.items() for name in names),
        "entries of the largest folder": max(map(len, folders.values()), default=0),
        "floors of the highest folder": max((floors(set(paths), files)
                                             for paths in folders.values()), default=0),
        "lines of the longest file": longest(core),
        "lines of the longest test": longest(tests),
        "worlds of the tests": count_worlds(tests),
        "backends of the tests": count_backends(tests),
    }


def read_tree(root):
    files = {}
    for top in ("base", "memslot", "rmap", "mmu", "tests"):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in names:
                if top == "tests" and not name.endswith((".h", ".cc")):
                    continue
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    files[os.path.relpath(path, root)] = file.read()
    return files


def main(argv):
    arguments = [a for a in argv[1:] if a != "--print"]
    files = read_tree(arguments[0] if arguments else ".")
    found = measure(files)
    failed = False
    for name, (limit, goal) in LIMITS.items():
        over = found[name] > limit
        failed |= over
        if over or "--print" in argv:
            mark = "  OVER THE LIMIT" if over else ""
            print(f"{name:32}{found[name]:6}   limit {limit:5}   goal {goal:5}{mark}")
            if name == "mode tests":
                for path, count in mode_tests({p: t for p, t in files.items()
                                               if p.startswith("mmu/")}):
                    print(f"  {path:30}{count:6}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
