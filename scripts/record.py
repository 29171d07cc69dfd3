#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Records the memory accesses of a command and of the programs that it starts.

Valgrind's lackey runs the command and connects to a socket once for each program; what it writes
goes straight into `tdp pack`, a trace for each. A child that goes on without starting a program (a
fork without exec) is not recorded: lackey does not say which of its lines are whose.

A signal that ends the recording (Ctrl-C, SIGTERM, SIGHUP) is passed on to the programs, a second
one kills them: what they did until then is in their traces. The packers have a session of their
own, so that what ends all the others, SIGKILL for one, is for them only the end of the log. A
packer that is killed itself, or has no room left, leaves what it has written until then in
TRACE.PID.part, of which `tdp pack --salvage` makes a trace.
"""

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

# What lackey says of itself before the first access is shorter.
HEAD = 4096

# Bytes of a file's name that leave room for two process numbers and ".part".
LONGEST_NAME = 255 - len("-1234567-10.1234567-10.part")


def die(message):
    """Says in one line what is wrong, and ends with the status of bad input."""
    print(f"record: {message}", file=sys.stderr)
    sys.exit(2)


def check_output(path):
    """Dies unless a trace can be written to `path`; nothing has been run then."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        die(f"{path}: is a folder")
    if len(os.fsencode(os.path.basename(path))) > LONGEST_NAME:
        die(f"{path}: its name has more than {LONGEST_NAME} bytes")
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


def may_be_pieced(path):
    """Whether a trace can come to `path` by a rename: not to a pipe or a device."""
    return not os.path.exists(path) or os.path.isfile(path)


def target_of(path):
    """What a symbolic link leads to, and everything else itself."""
    return os.path.realpath(path) if os.path.islink(path) else path


def open_piece(path, pid):
    """A new file beside `path` for what is packed, and its name. One that is there already holds
    what an earlier recording has left."""
    target, number = target_of(path), 1
    while True:
        name = f"{target}.{pid}{'' if number == 1 else f'-{number}'}.part"
        with contextlib.suppress(FileExistsError):
            return open(name, "xb"), name
        number += 1


def put_in_place(piece, path):
    """The whole trace takes the place, and the permissions, of what was there."""
    target = target_of(path)
    if os.path.exists(target):
        os.chmod(piece, stat.S_IMODE(os.stat(target).st_mode))
    os.replace(piece, target)


def what_is_left(status, said, piece, path):
    """Says why there is no trace at `path`, and what to do with the piece that there is."""
    reason = said.strip()
    if status < 0:
        reason = f"its packer was killed by {signal.Signals(-status).name}"
    if piece and os.path.getsize(piece) == 0:
        os.unlink(piece)
        piece = None
    if piece:
        reason += ("; what it had packed by then is kept, to be made a trace of by: "
                   f"tdp pack --salvage {shlex.quote(piece)} {shlex.quote(path)}")
    return reason


class Log:
    """The log of one program: its lines, as they come, and the process that writes them."""

    def __init__(self, connection):
        self._connection = connection
        self._head = head_of(connection)
        pid, self.command = program_of(self._head)
        self.pid = int(pid)
        self._ended = False

    def lines(self):
        """Pieces of the log, each of whole lines: a program that is killed leaves half a line."""
        rest, more = b"", self._head
        while more:
            whole, newline, rest = (rest + more).rpartition(b"\n")
            yield whole + newline
            more = self._connection.recv(1 << 16)
        self._ended = True

    def drain(self):
        """Reads to the end what nobody takes any more."""
        while self._connection.recv(1 << 16):
            pass
        self._ended = True

    def send(self, number):
        """Passes a signal on to the program, which is alive as long as it has its log open."""
        if not self._ended and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def cut(self):
        """Ends the log here. A child that never wrote to it may have it open still."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)


class Recorder:
    """Takes the logs of programs as they come, each in a thread of its own."""

    def __init__(self, tdp, output):
        self._tdp = tdp
        self._output = output
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = []
        self._logs = []
        self._lock = threading.Lock()
        self._names = set()
        self._stops = 0
        self._mark = None  # the address of a connection that says that all before it have come
        self._marked = threading.Event()
        self.results = []  # (name, accesses or None, message)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        """Where valgrind is to connect."""
        return "127.0.0.1:%d" % self._listener.getsockname()[1]

    def _accept(self):
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            if peer == self._mark:
                connection.close()
                self._marked.set()
                continue
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
        log = Log(connection)
        with self._lock:
            self._logs.append(log)
            if self._stops > 1:
                log.cut()
        name = self._unique(name_for(self._output, number, log.pid))
        program = ["--program", log.command] if log.command else []
        output, piece = open_piece(name, log.pid) if may_be_pieced(name) else (None, None)
        packer = subprocess.Popen(
            [self._tdp, "pack", "--format", "lackey", *program, "--", "-", "-" if piece else name],
            stdin=subprocess.PIPE, stdout=output or subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)
        if output:
            output.close()
        errors = []
        reader = threading.Thread(target=lambda: errors.append(packer.stderr.read()))
        reader.start()
        try:
            for lines in log.lines():
                packer.stdin.write(lines)
                packer.stdin.flush()
            packer.stdin.close()
        except BrokenPipeError:  # the packer has said why
            log.drain()
        said = b"" if piece else packer.stdout.read()
        status = packer.wait()
        reader.join()
        said = (said + errors[0]).decode(errors="replace")
        count = re.search(r": (\d+) accesses", said)
        if status:
            message = what_is_left(status, said, piece, name)
        else:
            message = log.command
            if piece:
                put_in_place(piece, name)
        with self._lock:
            self.results.append((name, int(count.group(1)) if count and not status else None,
                                 message))

    def stop(self, number):
        """Passes the signal on to the programs; from the second one on they are killed."""
        self._stops += 1
        for log in list(self._logs):
            log.send(number if self._stops == 1 else signal.SIGKILL)
            if self._stops > 1:
                log.cut()

    def _all_came(self):
        """Waits until every connection up to now was accepted; the number of programs."""
        self._marked.clear()
        with socket.socket() as mark:
            mark.bind(("127.0.0.1", 0))
            self._mark = mark.getsockname()
            mark.connect(self._listener.getsockname())
            self._marked.wait()
        return len(self._threads)

    def finish(self):
        """Waits for all logs to end. The listener stays open until the last has come."""
        ended = -1
        while ended != (came := self._all_came()):
            for thread in self._threads[:came]:
                thread.join()
            ended = came
        self._listener.close()
        self.results.sort()


def wait_for(command):
    """Returns the status of `command`. A handler of Python's does not run inside a wait without an
    end, if the signal came just before it."""
    while True:
        try:
            return command.wait(timeout=1)
        except subprocess.TimeoutExpired:
            pass


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
    signals = []
    command = None

    def stop(number, _frame):
        signals.append(number)
        if command is None:
            return
        if command.poll() is None:
            command.send_signal(number if len(signals) == 1 else signal.SIGKILL)
        recorder.stop(number)

    # Before there is a program to pass them on to: one that comes by then is kept for it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with subprocess.Popen(
            ["valgrind", "--tool=lackey", "--trace-mem=yes", "--trace-children=yes",
             "--child-silent-after-fork=yes", f"--log-socket={recorder.address}"]
            + arguments.command) as command:
        if signals:
            command.send_signal(signals[-1])
        status = wait_for(command)
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
    if signals:
        print(f"record: stopped by {signal.Signals(signals[0]).name}: the traces end there",
              file=sys.stderr)
        return 128 + signals[0]
    return 0 if len(good) == len(recorder.results) else 2


if __name__ == "__main__":
    sys.exit(main())
