#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Records the memory accesses of a command and of the programs that it starts.

Valgrind's lackey runs the command and connects to a socket once for each program; what it writes
goes straight into `tdp pack`, a trace for each. A child that goes on without starting a program (a
fork without exec) is not recorded: lackey does not say which of its lines are whose.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import threading
import time

# What lackey says of itself before the first access is shorter.
HEAD = 4096


def die(message):
    """Says in one line what is wrong, and ends with the status of bad input."""
    print(f"record: {message}", file=sys.stderr)
    sys.exit(2)


def check_output(path):
    """Dies unless a trace can be written to `path`; nothing has been run then."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        die(f"{path}: is a folder")
    if not os.path.isdir(folder):
        die(f"{path}: there is no folder {folder}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        die(f"{path}: may not be written")


def name_for(path, number, pid):
    """`path` for the first program; with the process number before the ending for the others."""
    if number == 0:
        return path
    folder, name = os.path.split(path)
    stem, dot, ending = name.partition(".")
    return os.path.join(folder, f"{stem}.{pid}{dot}{ending}")


def head_of(connection):
    """The first bytes of a program's log, up to its first access or the end of the log."""
    head = b""
    while len(head) < HEAD and not re.search(rb"^(I | [LSM]) ", head, re.MULTILINE):
        more = connection.recv(HEAD)
        if not more:
            break
        head += more
    return head


def program_of(head):
    """Process number and command line, as lackey's first lines have them."""
    pid = re.search(rb"^==(\d+)==", head, re.MULTILINE)
    command = re.search(rb"^==\d+== Command: (.*)$", head, re.MULTILINE)
    return (
        pid.group(1).decode() if pid else "0",
        command.group(1).decode(errors="replace") if command else "",
    )


class Recorder:
    """Takes the logs of programs as they come, each in a thread of its own."""

    def __init__(self, tdp, output):
        self._tdp = tdp
        self._output = output
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = []
        self._lock = threading.Lock()
        self._names = set()
        self.results = []  # (name, accesses or None, message)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        """Where valgrind is to connect."""
        return "127.0.0.1:%d" % self._listener.getsockname()[1]

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                number = len(self._threads)
                thread = threading.Thread(target=self._pack, args=(connection, number))
                self._threads.append(thread)
                thread.start()

    def _unique(self, name):
        """A process that starts one program after the other has one number for all of them."""
        with self._lock:
            unique, again = name, 2
            while unique in self._names:
                stem, dot, ending = os.path.basename(name).partition(".")
                unique = os.path.join(os.path.dirname(name), f"{stem}-{again}{dot}{ending}")
                again += 1
            self._names.add(unique)
            return unique

    def _pack(self, connection, number):
        head = head_of(connection)
        pid, command = program_of(head)
        name = self._unique(name_for(self._output, number, pid))
        packer = subprocess.Popen(
            [self._tdp, "pack", "--format", "lackey", "--program", command, "-", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        errors = []
        reader = threading.Thread(target=lambda: errors.append(packer.stderr.read()))
        reader.start()
        try:
            while head:
                packer.stdin.write(head)
                head = connection.recv(1 << 16)
            packer.stdin.close()
        except BrokenPipeError:  # the packer has said why
            while connection.recv(1 << 16):
                pass
        said = packer.stdout.read().decode(errors="replace")
        status = packer.wait()
        reader.join()
        count = re.search(r": (\d+) accesses", said)
        message = errors[0].decode(errors="replace").strip() if status else command
        with self._lock:
            self.results.append((name, int(count.group(1)) if count and not status else None,
                                 message))

    def finish(self):
        """Waits for all logs to end. The listener stays open until the last has come."""
        while True:
            with self._lock:
                waiting = [thread for thread in self._threads if thread.is_alive()]
            if not waiting:
                break
            for thread in waiting:
                thread.join()
        self._listener.close()
        self.results.sort()


def main():
    """Records as the command line says; the status is that of bad input, or 0."""
    parser = argparse.ArgumentParser(
        prog="./run record", description="Record a command as a trace for each program of it.")
    parser.add_argument("--tdp", required=True, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", help="the trace (COMMAND.trace.zst); those of children "
                        "have their process number in the name")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run")
    arguments = parser.parse_args()
    output = arguments.output or os.path.basename(arguments.command[0]) + ".trace.zst"
    check_output(output)
    recorder = Recorder(arguments.tdp, output)
    start = time.monotonic()
    status = subprocess.call(
        ["valgrind", "--tool=lackey", "--trace-mem=yes", "--trace-children=yes",
         "--child-silent-after-fork=yes", f"--log-socket={recorder.address}"]
        + arguments.command)
    recorder.finish()
    seconds = time.monotonic() - start
    good = [result for result in recorder.results if result[1] is not None]
    for name, accesses, message in recorder.results:
        text = f"{accesses:,} accesses of {message}" if accesses is not None else message
        print(f"{name}: {text}")
    if not good:
        die("no trace could be written")
    total = sum(accesses for _, accesses, _ in good)
    print(f"{total:,} accesses in {seconds:.1f} s, {total / seconds / 1e6:.2f} million a second; "
          f"the command ended with status {status}; replay with 'tdp replay {good[0][0]}'")
    return 0 if len(good) == len(recorder.results) else 2


if __name__ == "__main__":
    sys.exit(main())
