#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots an image under the Bochs emulator, without a display, and ends with the program's status.

Usage: run_bochs.py --rom=FILE --image=FILE [OPTION…] -- [PROGRAM ARGUMENT…]

The program's output goes to stdout. As a Bazel test (XML_OUTPUT_FILE is set) each GoogleTest case
is reported as a case; a machine without Bochs gives one skipped case that says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.sax.saxutils

EMULATOR = "bochs-bin"
ARGUMENTS_ADDRESS = 0x80000
IMAGE_ADDRESS = 0x100000
LINE_MARK = b"\x02"  # the loader puts it before each line, the emulator never

CONFIGURATION = """\
display_library: rfb, options="timeout=0, hideIPS"
config_interface: textconfig
cpu: model={model}, count={cpus}, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=0
memory: guest={memory}, host={memory}
romimage: file={rom}
optramimage1: file={arguments}, address={arguments_address:#x}
optramimage2: file={image}, address={image_address:#x}
port_e9_hack: enabled=1
panic: action=fatal
error: action=ignore
log: {log}
plugin_ctrl: speaker=0, gameport=0, parallel=0
"""

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
    options = parser.parse_args(argv[:split])
    options.program_arguments = [options.name] + argv[split + 1:]
    return options


def arguments_image(options):
    """What the loader reads: processors, MiB, number of arguments, arguments."""
    head = f"{options.cpus} {options.memory} {len(options.program_arguments)} "
    return head.encode() + b"".join(a.encode() + b"\0" for a in options.program_arguments)


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


def boot(options, directory):
    """Runs the emulator; (program's output, what went wrong or None)."""
    path = lambda name: os.path.join(directory, name)
    with open(path("arguments"), "wb") as file:
        file.write(arguments_image(options))
    with open(path("configuration"), "w", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(
            model=options.cpu_model, cpus=options.cpus, memory=options.memory, rom=options.rom,
            image=options.image, arguments=path("arguments"), log=path("log"),
            arguments_address=ARGUMENTS_ADDRESS, image_address=IMAGE_ADDRESS))
    with open(path("commands"), "w", encoding="utf-8") as file:
        file.write("c\nq\n")  # the debugger is built in: continue, and quit at the end
    command = isolation() + [EMULATOR, "-q", "-f", path("configuration"), "-rc", path("commands")]
    why = None
    with open(path("output"), "wb") as output:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output,
                           stderr=subprocess.STDOUT, timeout=options.timeout, check=False)
        except subprocess.TimeoutExpired:
            why = f"no result after {options.timeout} s"
    text = program_lines(path("output"))
    if text and text[-1].startswith("RESULT "):
        last = text.pop()
        return text, None if last == "RESULT PASS" else last[len("RESULT FAIL "):]
    return text, why or "the emulator stopped: " + last_lines(path("log"))


def program_lines(path):
    with open(path, "rb") as file:
        parts = file.read().split(LINE_MARK)[1:]
    return [part.split(b"\n")[0].decode(errors="replace") for part in parts]


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
    with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as directory:
        lines, why = boot(options, directory)
    print("\n".join(lines))
    if why:
        print(f"{options.name}: failed: {why}")
    if os.environ.get("XML_OUTPUT_FILE"):
        write_xml(os.environ["XML_OUTPUT_FILE"], options.name, lines, why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
