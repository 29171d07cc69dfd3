#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Boots an image under the Bochs emulator, without a display, and ends with the program's status.

Usage: run_bochs.py --rom=FILE --image=FILE [OPTION…] -- [PROGRAM ARGUMENT…]

The program's output goes to stdout line by line, as it comes. As a Bazel test (XML_OUTPUT_FILE is
set) each GoogleTest case is reported as a case; a machine without Bochs, or without a file that the
program needs, gives one skipped case that says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import xml.sax.saxutils

EMULATOR = "bochs-bin"
ARGUMENTS_ADDRESS = 0x80000
IMAGE_ADDRESS = 0x100000
IMAGE_END = 0x2000000  # the ROM prepares memory up to here, and programs begin here
PAGE = 4096
LINE_MARK = b"\x02"  # the loader puts it before each line, the emulator never

CONFIGURATION = """\
display_library: rfb, options="timeout=0, hideIPS"
config_interface: textconfig
cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=0
memory: guest={memory}, host={memory}
romimage: file={rom}
optramimage1: file={arguments}, address={arguments_address:#x}
optramimage2: file={image}, address={image_address:#x}
port_e9_hack: enabled=1
panic: action=fatal
error: action=ignore
log: {log}
plugin_ctrl: speaker=0, gameport=0, parallel=0
{more}"""

CASE = re.compile(r"^\[\s+(OK|FAILED|SKIPPED)\s+\] (\w[\w/]*)\.([\w/]+)(?:[, ].*)?$")


def parse_arguments(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--name", default="program")
    parser.add_argument("--rom", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--cpu-model", default="tigerlake")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--timeout", type=int, default=120, help="seconds")
    parser.add_argument("--ips", type=int, default=100_000_000,
                        help="emulated instructions that make a second of the machine's clocks")
    parser.add_argument("--com1", metavar="FILE", help="what the first serial port sends goes here")
    parser.add_argument("--bochsrc", action="append", default=[], metavar="LINE",
                        help="one more line for the emulator's configuration")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH",
                        help="a file that programs may need")
    parser.add_argument("--needs", action="append", default=[], metavar="NAME",
                        help="the --file of this name lies in memory when the program starts, "
                             "which gets the argument NAME=ADDRESS,BYTES (hexadecimal, decimal)")
    options = parser.parse_args(argv[:split])
    options.program_arguments = [options.name] + argv[split + 1:]
    given = dict(item.split("=", maxsplit=1) for item in options.file)
    options.files = {name: given[name] for name in options.needs if name in given}
    return options


def arguments_image(options):
    """What the loader reads: processors, MiB, ips, number of arguments, arguments."""
    head = f"{options.cpus} {options.memory} {options.ips} {len(options.program_arguments)} "
    return head.encode() + b"".join(a.encode() + b"\0" for a in options.program_arguments)


def attach_files(options, path):
    """Writes image and needed files to `path`, each file on a page of its own; arguments for them.

    ValueError if they do not fit where the loader looks.
    """
    arguments = []
    with open(path, "wb") as out:
        with open(options.image, "rb") as image:
            shutil.copyfileobj(image, out)
        for name, source in options.files.items():
            out.write(b"\0" * (-out.tell() % PAGE))
            start = out.tell()
            with open(source, "rb") as file:
                shutil.copyfileobj(file, out)
            arguments.append(f"{name}={IMAGE_ADDRESS + start:#x},{out.tell() - start}")
        if IMAGE_ADDRESS + out.tell() > IMAGE_END:
            raise ValueError(f"program and files take {out.tell()} bytes, and there is room for "
                             f"{IMAGE_END - IMAGE_ADDRESS}")
    return arguments


def more_configuration(options):
    lines = list(options.bochsrc)
    if options.com1:
        lines.append(f"com1: enabled=1, mode=file, dev={options.com1}")
    return "".join(line + "\n" for line in lines)


def isolation():
    """A command prefix that keeps the emulator's display server off the machine's network.

    Each emulator then has a port 5900 of its own. Where namespaces are refused it takes the next
    free one.
    """
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            done = subprocess.run(prefix + ["true"], stderr=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                return prefix
        except OSError:
            break
    print("run_bochs.py: no network namespace to be had; the emulator opens a port of this machine",
          file=sys.stderr)
    return []


class ProgramLines:
    """Finds the program's lines in what the emulator writes, piece by piece."""

    def __init__(self):
        self.rest = b""

    def feed(self, piece):
        """The lines that are complete now."""
        *parts, self.rest = (self.rest + piece).split(b"\n")
        return [self.line_of(part) for part in parts if LINE_MARK in part]

    def end(self):
        """The last line, if it has no end of its own."""
        return [self.line_of(self.rest)] if LINE_MARK in self.rest else []

    @staticmethod
    def line_of(part):
        return part.split(LINE_MARK)[-1].decode(errors="replace")


def is_result(line):
    return line.startswith("RESULT ")


def stream(command, timeout):
    """Runs the command and prints the program's lines; (lines, how it ended, None: not in time)."""
    finder = ProgramLines()
    lines = []

    def take(found):
        for line in found:
            lines.append(line)
            if not is_result(line):
                print(line, flush=True)

    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        late = threading.Event()
        timer = threading.Timer(timeout, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            while piece := os.read(process.stdout.fileno(), 65536):
                take(finder.feed(piece))
            process.wait()  # its output has ended, and so does it
        finally:
            timer.cancel()
            process.kill()
    take(finder.end())
    return lines, None if late.is_set() else ending(process.returncode)


def ending(status):
    """A process's end in words: one that was killed has a negative status."""
    return f"signal {-status} killed it" if status < 0 else f"status {status}"


def boot(options, directory):
    """Runs the emulator; (program's output, what went wrong or None)."""
    path = lambda name: os.path.join(directory, name)
    image = options.image
    if options.files:
        image = path("image")
        options.program_arguments += attach_files(options, image)
    with open(path("arguments"), "wb") as file:
        file.write(arguments_image(options))
    with open(path("configuration"), "w", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(
            model=options.cpu_model, cpus=options.cpus, memory=options.memory, rom=options.rom,
            image=image, arguments=path("arguments"), log=path("log"), ips=options.ips,
            arguments_address=ARGUMENTS_ADDRESS, image_address=IMAGE_ADDRESS,
            more=more_configuration(options)))
    with open(path("commands"), "w", encoding="utf-8") as file:
        file.write("c\nq\n")  # the debugger is built in: continue, and quit at the end
    command = isolation() + [EMULATOR, "-q", "-f", path("configuration"), "-rc", path("commands")]
    text, how = stream(command, options.timeout)
    if text and is_result(text[-1]):
        last = text.pop()
        return text, None if last == "RESULT PASS" else last[len("RESULT FAIL "):]
    if how is None:
        return text, f"no result after {options.timeout} s"
    return text, f"the emulator stopped ({how}): " + last_lines(path("log"))


def last_lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return " | ".join(line.strip() for line in file.readlines()[-3:])
    except OSError:
        return "it wrote no log"


def write_xml(path, name, lines, why):
    """The cases of GoogleTest's output as test.xml; `why` is a failure outside of them."""
    attribute = xml.sax.saxutils.quoteattr
    cases = []
    before = []
    for line in lines:
        match = CASE.match(line)
        if not match or any(match.group(2, 3) == case[1:3] for case in cases):
            before = [] if line.startswith("[ RUN ") else before + [line]
            continue
        cases.append(match.groups() + ("\n".join(before),))
        before = []
    if why and not any(case[0] == "FAILED" for case in cases):
        cases.append(("FAILED", name, "Boot", why))
    elif not cases:
        cases.append(("OK", name, "Boot", ""))
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"<testsuites><testsuite name={attribute(name)}>\n")
        for outcome, suite, case, message in cases:
            element = {"OK": "", "FAILED": "failure", "SKIPPED": "skipped"}[outcome]
            inside = f"<{element} message={attribute(message)}/>" if element else ""
            file.write(f"<testcase classname={attribute(suite)} name={attribute(case)}"
                       f" status=\"run\">{inside}</testcase>\n")
        file.write("</testsuite></testsuites>\n")


def skip(options, reason):
    """As a test: one skipped case. By hand: an error."""
    path = os.environ.get("XML_OUTPUT_FILE")
    if not path:
        print(f"{options.name}: {reason}", file=sys.stderr)
        return 1
    print(f"SKIPPED: {reason}")
    with open(path, "w", encoding="utf-8") as file:
        name = xml.sax.saxutils.quoteattr(options.name)
        message = xml.sax.saxutils.quoteattr(reason)
        file.write(f"<testsuites><testsuite name={name}><testcase classname={name} name=\"Boot\">"
                   f"<skipped message={message}/></testcase></testsuite></testsuites>\n")
    return 0


def main(argv):
    options = parse_arguments(argv)
    if shutil.which(EMULATOR) is None:
        return skip(options, f"{EMULATOR} is not installed; on Debian: "
                             "apt-get install bochs bochs-term bochsbios vgabios")
    missing = [name for name in options.needs if name not in options.files]
    if missing and os.environ.get("XML_OUTPUT_FILE"):
        return skip(options, "no --file was given for " + ", ".join(missing) +
                    "; './run test' has what can be had")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as directory:
        lines, why = boot(options, directory)
    if why:
        print(f"{options.name}: failed: {why}")
    if os.environ.get("XML_OUTPUT_FILE"):
        write_xml(os.environ["XML_OUTPUT_FILE"], options.name, lines, why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
