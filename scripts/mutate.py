#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Plants the mistakes of tests/mutations/ one at a time and sees which tests find them.

Usage: mutate.py [--list] [--resume] [--jobs N] [--timeout SECONDS] [N | FROM-TO | NAME | LIST]...

Bazel builds and runs the tests without a mistake first. Then each mistake is written into a copy of
its file in .mutate/, the objects that read this file are compiled again, and the tests are linked
from them and from what Bazel has built: the tree itself is never touched. Results go to
.mutate/results.tsv and, summed up, to .mutate/summary.txt. A mistake is

    killed      one of its tests failed, hung or crashed
    survived    all of its tests passed
    broken      it does not compile: its entry needs work
    equivalent  no test can tell it from the code: it is not run

--resume leaves out what results.tsv has an answer for. The exit status is 1 if any survived or is
broken.
"""

import argparse
import concurrent.futures
import hashlib
import os
import queue
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import mutations

FOLDER = ".mutate"
RESULTS = os.path.join(FOLDER, "results.tsv")
SUMMARY = os.path.join(FOLDER, "summary.txt")

BAZEL_OPTIONS = ("--config=opt", "--show_result=0", "--noshow_progress", "--color=no",
                 "--test_output=errors")
# As --config=opt, but for the level: the tests are short, and the compiler takes longer than they.
# The scheduler's build keeps its own: its scenarios are many runs.
COMPILE = ("g++", "-std=c++20", "-O1", "-g0", "-DNDEBUG", "-w", "-ffunction-sections",
           "-fdata-sections", "-c")
OUR_OBJECT = re.compile(r"^bazel-out/[^/]+/bin/(?!external/).*\.o$")

# A test of the lists that is a scenario of the explorer: "explore:KIND/OPERATION+OPERATION". It has
# so many seconds of CPU.
SCENARIO_SECONDS = 20

FAILED_CASE = re.compile(r"\[  FAILED  \] ([\w/]+\.[\w/]+)")
LAST_CASE = re.compile(r"\[ RUN      \] ([\w/]+\.[\w/]+)")


@dataclass
class Result:
    name: str
    verdict: str  # killed, survived, broken, equivalent
    by: str = ""


class Broken(Exception):
    """The mistake does not compile or link."""


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# --- what Bazel has built ---


@dataclass
class Layout:
    """Where Bazel keeps things: the folder that its relative paths start from."""
    execution_root: str

    def path(self, name):
        return os.path.join(self.execution_root, name)

    def test_folder(self, target):
        package, _, name = target.partition(":")
        if mutations.is_explored(target):
            name = "explore" if mutations.is_scenario(target) else name
            return "bazel-out/k8-opt-explore/bin/tests/explore", name
        return os.path.join("bazel-out/k8-opt/bin/tests", package), name

    def link_arguments(self, target):
        folder, name = self.test_folder(target)
        return read(self.path(f"{folder}/{name}-2.params")).split("\n")

    def runfiles(self, target):
        folder, name = self.test_folder(target)
        return self.path(f"{folder}/{name}.runfiles/libtdp")


def source_and_inputs(layout, obj):
    """The source of an object and whatever files of the project it was made from."""
    words = read(layout.path(obj[:-2] + ".d")).replace("\\\n", " ").split()
    inputs = set()
    for word in words[1:]:
        virtual = re.search(r"/_virtual_includes/[^/]+/tdp/(.*)$", word)
        inputs.add(virtual.group(1) if virtual else word)
    return words[1], inputs


def objects_with(layout, target, path, known):
    """The objects of a test's link that were made from the file `path`."""
    found = []
    for argument in layout.link_arguments(target):
        if not OUR_OBJECT.match(argument):
            continue
        if argument not in known:
            known[argument] = source_and_inputs(layout, argument)
        if path in known[argument][1]:
            found.append(argument)
    return found


def execution_root():
    info = subprocess.run(["bazel", "info", "--config=opt", "execution_root"], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return info.stdout.strip()


# --- one mistake ---


class Workshop:
    """Compiles, links and runs tests with one file replaced."""

    def __init__(self, layout, timeout, name):
        self.layout = layout
        self.timeout = timeout
        self.known = {}
        folder = os.path.join(FOLDER, name)
        self.includes = os.path.join(folder, "include")
        self.overlay = os.path.join(folder, "overlay")
        self.objects = os.path.join(folder, "objects")
        os.makedirs(self.includes, exist_ok=True)
        link = os.path.join(self.includes, "tdp")
        if not os.path.islink(link):
            os.symlink(os.path.abspath("."), link)

    def run(self, mistake):
        shutil.rmtree(self.overlay, ignore_errors=True)
        shutil.rmtree(self.objects, ignore_errors=True)
        text = mutations.apply(mistake, read(mistake.file))
        write(os.path.join(self.overlay, "tdp", mistake.file), text)
        try:
            return self.judge(mistake)
        except Broken as error:
            return Result(mistake.name, "broken", str(error).replace("\n", " ")[:200])

    def judge(self, mistake):
        compiled = {}
        for target in mistake.tests:
            objects = objects_with(self.layout, target, mistake.file, self.known)
            if not objects:
                continue
            for obj in objects:
                if obj not in compiled:
                    compiled[obj] = self.compile(obj, mistake)
            by = self.test(target, self.link(target, compiled))
            if by is not None:
                return Result(mistake.name, "killed", f"{target} {by}".strip())
        if not compiled:
            raise Broken(f"none of its tests is made from {mistake.file}")
        return Result(mistake.name, "survived", digest_of_tests(mistake))

    def compile(self, obj, mistake):
        source, _ = self.known[obj]
        changed = source == mistake.file
        where = os.path.join(self.overlay, "tdp", source) if changed else source
        out = os.path.abspath(os.path.join(self.objects, obj.replace("/", "_")))
        os.makedirs(self.objects, exist_ok=True)
        deps = os.path.join(".deps", "googletest")
        options = ("-O2", "-DTDP_EXPLORE", "-UNDEBUG") if "-explore/" in obj else ()
        # Not -I: the headers of a folder may have names of the system's, as features.h has.
        beside = os.path.join(self.includes, "tdp", os.path.dirname(source))
        self.call([*COMPILE, *options, where, "-o", out, "-iquote", beside, "-I", self.overlay,
                   "-I", self.includes, "-I", ".",
                   "-isystem", ".deps/abseil", "-isystem", f"{deps}/googletest/include",
                   "-isystem", f"{deps}/googlemock/include"], os.getcwd())
        return out

    def link(self, target, compiled):
        out = os.path.abspath(os.path.join(self.objects, "test"))
        arguments = [compiled.get(a, a) for a in self.layout.link_arguments(target) if a]
        arguments[arguments.index("-o") + 1] = out
        params = out + ".params"
        write(params, "\n".join(arguments) + "\n")
        self.call(["g++", "@" + params], self.layout.execution_root)
        return out

    def call(self, command, folder):
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            error = re.search(r"^.*(error|undefined|multiple).*$", done.stdout, re.MULTILINE)
            raise Broken(error.group(0) if error else done.stdout[-300:])

    def test(self, target, program):
        """How the test failed, or None."""
        folder = self.layout.runfiles(target)
        arguments = ["--gtest_fail_fast"]
        if mutations.is_scenario(target):
            arguments = [target.partition(":")[2], str(SCENARIO_SECONDS)]
        log = os.path.join(self.objects, "log")
        environment = {**os.environ, "TEST_SRCDIR": os.path.dirname(folder),
                       "TEST_WORKSPACE": "libtdp", "TEST_TMPDIR": os.path.abspath(self.objects)}
        with open(log, "w", encoding="utf-8") as out:
            try:
                status = subprocess.run(
                    [program, *arguments], cwd=folder, env=environment, stdout=out,
                    stderr=subprocess.STDOUT, timeout=self.timeout, check=False).returncode
            except subprocess.TimeoutExpired:
                status = None
        if status == 0:
            return None
        text = read(log)
        if mutations.is_scenario(target) and status == 2:
            raise Broken(text.strip())
        if mutations.is_scenario(target):
            return text.split("\n")[0][:100]
        failed = FAILED_CASE.search(text)
        last = LAST_CASE.findall(text)
        if failed:
            return failed.group(1)
        return (last[-1] if last else "") + (" (hangs)" if status is None else " (aborts)")


# --- all of them ---


def key_of(mistake):
    """What an answer holds for: another text, or other tests, need another run."""
    return "|".join([mistake.name, mutations.compact(mistake.old + mistake.new)[0],
                     " ".join(mistake.tests)])


def digest_of_tests(mistake):
    """What the answer of a survivor holds for: tests that have learnt more need another run."""
    digest = hashlib.sha256()
    for target in mistake.tests:
        package, _, name = target.partition(":")
        path = os.path.join("tests", package, name + ".cc")
        if os.path.isfile(path):
            digest.update(read(path).encode())
    return "tests " + digest.hexdigest()[:12]


def is_answered(mistake, results):
    result = results.get(key_of(mistake))
    return result is not None and (
        result.verdict != "survived" or result.by == digest_of_tests(mistake))


def load_results(path):
    results = {}
    if os.path.isfile(path):
        for line in read(path).split("\n"):
            if line:
                key, name, verdict, by = line.split("\t")
                results[key] = Result(name, verdict, by)
    return results


def save_results(path, results):
    lines = ["\t".join([key, r.name, r.verdict, r.by]) for key, r in results.items()]
    write(path, "".join(line + "\n" for line in lines))


def run_sound(chosen):
    """Builds the tests of `chosen` as they are and runs them; True if all pass."""
    tests = {t for m in chosen for t in m.tests}
    targets = sorted("//tests/" + t for t in tests if not mutations.is_explored(t))
    commands = [["bazel", "test", *BAZEL_OPTIONS, *targets]] if targets else []
    # In a folder of its own: those of --config=opt are needed beside it.
    explored = ["--config=explore", "--platform_suffix=-explore", *BAZEL_OPTIONS[1:]]
    if any(map(mutations.is_scenario, tests)):
        commands.append(["bazel", "build", *explored, "//tests/explore:explore"])
    targets = sorted("//tests/" + t for t in tests
                     if mutations.is_explored(t) and not mutations.is_scenario(t))
    if targets:
        commands.append(["bazel", "test", *explored, *targets])
    return all(subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0
               for command in commands)


def summarise(chosen, results):
    """The lines of the summary."""
    lines = []
    areas = {}
    for mistake in chosen:
        result = results.get(key_of(mistake))
        verdict = result.verdict if result else "not run"
        areas.setdefault(mutations.area(mistake), []).append(verdict)
        if verdict in ("survived", "broken"):
            lines.append(f"{verdict}: {mistake.name} ({mistake.where}) {result.by}".rstrip())
    lines.append(f"{'list':<16}{'all':>6}{'killed':>8}{'survived':>10}{'equivalent':>12}"
                 f"{'broken':>8}{'not run':>9}")
    areas["together"] = [v for verdicts in areas.values() for v in verdicts]
    for name, verdicts in areas.items():
        count = verdicts.count
        lines.append(f"{name:<16}{len(verdicts):>6}{count('killed'):>8}{count('survived'):>10}"
                     f"{count('equivalent'):>12}{count('broken'):>8}{count('not run'):>9}")
    ran = [v for v in areas["together"] if v in ("killed", "survived")]
    if ran:
        share = 100 * ran.count("killed") / len(ran)
        lines.append(f"{share:.1f} % of the {len(ran)} that were run and are not equivalent die")
    return lines


def run_all(chosen, results, arguments):
    """Runs those of `chosen` that have no answer yet."""
    waiting = [m for m in chosen if not is_answered(m, results)]
    for mistake in waiting:
        if mistake.equivalent:
            results[key_of(mistake)] = Result(mistake.name, "equivalent", mistake.equivalent)
    waiting = [m for m in waiting if not m.equivalent]
    if not waiting:
        return True
    if not run_sound(waiting):
        print("mutate: a test fails without a mistake: see above", file=sys.stderr)
        return False
    os.nice(15)  # the rest takes hours
    layout = Layout(execution_root())
    workshops = queue.SimpleQueue()
    for number in range(arguments.jobs):
        workshops.put(Workshop(layout, arguments.timeout, f"workshop{number}"))

    def run_in_one(mistake):
        workshop = workshops.get()
        try:
            return workshop.run(mistake)
        finally:
            workshops.put(workshop)

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(run_in_one, mistake): mistake for mistake in waiting}
        for number, done in enumerate(concurrent.futures.as_completed(running), start=1):
            mistake, result = running[done], done.result()
            results[key_of(mistake)] = result
            save_results(RESULTS, results)
            print(f"{number}/{len(waiting)} {result.verdict:<9} {mistake.name}  {result.by}",
                  flush=True)
    return True


def positive(word):
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="./run mutate", description=__doc__.split("\n")[0])
    parser.add_argument("which", nargs="*", metavar="N | FROM-TO | NAME | LIST")
    parser.add_argument("--list", action="store_true", help="list the mistakes, run none")
    parser.add_argument("--resume", action="store_true", help="leave out what has an answer")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), metavar="N",
                        help="how many to try at a time (default: the number of CPUs)")
    parser.add_argument("--timeout", type=positive, default=300, metavar="SECONDS",
                        help="what runs longer hangs (default 300)")
    return parser.parse_args(words)


def print_list(every, chosen):
    for number, mistake in enumerate(every, start=1):
        if mistake in chosen:
            mark = " (equivalent)" if mistake.equivalent else ""
            print(f"{number:4} {mistake.name}{mark}: {mistake.guest}")


def main(argv):
    arguments = parse_arguments(argv[1:])
    try:
        every = mutations.load(".")
        chosen = mutations.select(every, arguments.which)
        problems = mutations.check_places(".", chosen)
    except mutations.ListError as error:
        problems = [str(error)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if arguments.list:
        print_list(every, chosen)
        return 0
    results = load_results(RESULTS)
    if not arguments.resume:
        again = set(map(key_of, chosen))
        results = {key: result for key, result in results.items() if key not in again}
    if not run_all(chosen, results, arguments):
        return 1
    save_results(RESULTS, results)
    lines = summarise(chosen, results)
    write(SUMMARY, "\n".join(lines) + "\n")
    print("\n".join(lines))
    return 1 if any(line.startswith(("survived", "broken")) for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
