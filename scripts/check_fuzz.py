#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Checks that clang takes the fuzz targets, which every other build leaves to gcc.

Usage: check_fuzz.py [--all]

Each tests/fuzz/*_fuzz.cc goes through clang's front end with our warnings and those of thread
safety as errors; with --all also each source of the tests beside a header that one of them
includes, and what a stranger may want to build or copy: the examples, tools and benchmarks.
No code is made. What a source was found to read is kept in .fuzz/checked: it is looked at again
when one of these files is newer.
"""

import argparse
import concurrent.futures
import glob
import hashlib
import os
import re
import subprocess
import sys

COMPILER = "clang++-14"
CHECKED = ".fuzz/checked"
INCLUDES = ("-I.", f"-I{CHECKED}/include", "-isystem", ".deps/abseil",
            "-isystem", ".deps/googletest/googletest/include",
            "-isystem", ".deps/googletest/googlemock/include",
            "-isystem", ".deps/benchmark/include")
# Sources that are no fuzz targets, but that clang is to take, too.
BESIDES = ("benchmarks/**/*.cc", "examples/**/*.cc", "tools/**/*.cc")
# Targets for which each shared access asks a scheduler.
EXPLORED = ("tests/fuzz/threads_fuzz.cc",)


def warnings(rules):
    """The compiler's options that bazel/tdp.bzl, whose text `rules` is, has as _WARNINGS."""
    listed = re.search(r"^_WARNINGS = \[(.*?)^\]", rules, re.MULTILINE | re.DOTALL).group(1)
    return re.findall(r'^ *"(-W[^"]+)",', listed, re.MULTILINE)


def files_of(rule):
    """The files that a make rule, as clang writes it, says its target depends on."""
    return rule.replace("\\\n", " ").partition(": ")[2].split()


def sources_beside(files):
    """Of the tests' own headers among `files`, the sources of the same name. Paths may lead through
    the folder by which headers are "tdp/…"."""
    own = (re.sub(r"^(\./)?(.*/include/tdp/)?", "", file) for file in files)
    beside = (file[:-2] + ".cc" for file in own if re.match(r"tests/.*\.h$", file))
    return [source for source in beside if os.path.exists(source)]


class Checker:
    def __init__(self, command):
        self.command = command
        self.key = hashlib.sha256(repr(command).encode()).hexdigest()

    def checked(self, place):
        """The files that were read when the source was last found good, or None if one is newer."""
        try:
            with open(place, encoding="utf-8") as file:
                key, _, rule = file.read().partition("\n")
            files = files_of(rule)
            since = os.path.getmtime(place)
            is_good = key == self.key and all(os.path.getmtime(f) <= since for f in files)
            return files if is_good else None
        except OSError:
            return None

    def check(self, source, explored):
        """What clang says against the source, and the files that were read."""
        name = source.replace("/", "-") + (".explored" if explored else "")
        place = os.path.join(CHECKED, name)
        files = self.checked(place)
        if files is not None:
            return "", files
        options = ["-DTDP_EXPLORE", "-UNDEBUG"] if explored else []
        rule = place + ".new"
        done = subprocess.run([*self.command, *options, "-MD", "-MF", rule, source], check=False,
                              text=True, stderr=subprocess.PIPE)
        if done.returncode != 0:
            return done.stderr or f"{source}: {COMPILER} has failed\n", []
        with open(rule, encoding="utf-8") as file:
            text = file.read()
        os.remove(rule)
        with open(place, "w", encoding="utf-8") as file:
            file.write(f"{self.key}\n{text}")
        return "", files_of(text)

    def check_all(self, first, follow):
        """Checks the sources `first`, pairs with whether they are explored, and if `follow` all
        that they lead to; the complaints and how many sources there were."""
        seen = set(first)
        complaints = []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = {pool.submit(self.check, *pair): pair for pair in first}
            while waiting:
                for done in concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED").done:
                    _, explored = waiting.pop(done)
                    complaint, files = done.result()
                    if complaint:
                        complaints.append(complaint)
                    beside = sources_beside(files) if follow else []
                    for pair in ((source, explored) for source in beside):
                        if pair not in seen:
                            seen.add(pair)
                            waiting[pool.submit(self.check, *pair)] = pair
        return complaints, len(seen)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    follow = parser.parse_args().all
    os.makedirs(f"{CHECKED}/include", exist_ok=True)
    link = f"{CHECKED}/include/tdp"
    if not os.path.lexists(link):
        os.symlink(os.getcwd(), link)
    with open("bazel/tdp.bzl", encoding="utf-8") as file:
        options = warnings(file.read())
    command = (COMPILER, "-std=c++20", "-fsyntax-only", *options, "-Wthread-safety", "-Werror",
               *INCLUDES)
    targets = [(s, s in EXPLORED) for s in sorted(glob.glob("tests/fuzz/*_fuzz.cc"))]
    besides = [(source, False) for pattern in BESIDES if follow
               for source in sorted(glob.glob(pattern, recursive=True))]
    complaints, count = Checker(command).check_all(targets + besides, follow)
    sys.stdout.write("".join(complaints))
    if complaints or not targets:
        sys.exit(f"{len(complaints)} of {count} sources are not as clang wants")
    print(f"{COMPILER} takes {len(targets)} fuzz targets, and {count} sources in all")


if __name__ == "__main__":
    main()
