# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of record.py, with a valgrind and a packer that only pretend."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest

RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "record.py")

# Logs as lackey would for `programs` programs, one after the other. Runs nothing.
VALGRIND = """\
    #!{python}
    import socket, sys
    address = next(a for a in sys.argv if a.startswith("--log-socket=")).split("=")[1]
    host, port = address.split(":")
    open("ran", "w").close()
    for program in range(int(sys.argv[-1])):
        log = socket.create_connection((host, int(port)))
        log.sendall(b"==%d== Lackey\\n==%d== Command: prog%d\\n==%d==\\n" % ((70, 70, program, 70)))
        for i in range(program + 1):
            log.sendall(b" S 00001000,8\\n")
        log.close()
    sys.exit(7)
"""

# A program that goes on until it is killed; it says when what it has done is in the log, and that
# it was asked to end. Ends by itself if it is called "polite".
ENDLESS = """\
    #!{python}
    import os, signal, socket, sys
    address = next(a for a in sys.argv if a.startswith("--log-socket=")).split("=")[1]
    host, port = address.split(":")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    log = socket.create_connection((host, int(port)))
    log.sendall(b"==%d== Command: endless\\n S 00001000,8\\n S 00002000,8\\n S 000" % os.getpid())
    print("going", flush=True)
    while signal.sigwait([signal.SIGTERM]):
        print("asked", flush=True)
        if sys.argv[-1] == "polite":
            log.sendall(b"03000,8\\n")
            os._exit(0)
"""

# Keeps what comes, and counts stores.
PACKER = """\
    #!{python}
    import sys
    log = sys.stdin.read()
    if "full" in sys.argv[-1]:
        print("tdp pack: no room", file=sys.stderr)
        sys.exit(2)
    open(sys.argv[-1], "w").write(log)
    print("%s: %d accesses" % (sys.argv[-1], log.count(" S ")))
"""


class RecordTest(unittest.TestCase):
    """Each test has a folder of its own, with the two programs first in PATH."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        os.mkdir(os.path.join(self.folder, "bin"))
        self.install("valgrind", VALGRIND)
        self.install("tdp", PACKER)

    def install(self, name, text):
        """Puts a program into PATH."""
        path = os.path.join(self.folder, "bin", name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text).format(python=sys.executable))
        os.chmod(path, 0o755)

    def start(self, *arguments):
        """The process, in a session of its own."""
        path = os.path.join(self.folder, "bin")
        return subprocess.Popen(
            [sys.executable, RECORD, "--tdp", os.path.join(path, "tdp"), *arguments],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": path + os.pathsep + os.environ["PATH"]},
            start_new_session=True)

    def record(self, *arguments):
        """The finished process."""
        process = self.start(*arguments)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start_endless(self, *arguments):
        """The process, with a program in it that has made two accesses."""
        self.install("valgrind", ENDLESS)
        process = self.start(*arguments)
        self.assertEqual(process.stdout.readline(), "going\n")
        return process

    def read(self, name):
        """The text of a file."""
        with open(os.path.join(self.folder, name), encoding="utf-8") as file:
            return file.read()

    def test_a_program_is_a_trace_in_the_callers_folder(self):
        done = self.record("--", "prog", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.exists(os.path.join(self.folder, "prog.trace.zst")))
        self.assertIn("prog.trace.zst: 1 accesses of prog0", done.stdout)
        self.assertIn("million a second; the command ended with status 7", done.stdout)

    def test_each_child_has_a_trace_of_its_own(self):
        done = self.record("-o", "all.trc.zst", "--", "prog", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        traces = sorted(name for name in os.listdir(self.folder) if name.startswith("all"))
        self.assertEqual(len(traces), 3)
        self.assertIn("6 accesses in", done.stdout)

    def test_a_wrong_output_is_told_before_the_command_runs(self):
        for output, message in (("/no/such/x", "there is no folder /no/such"),
                                (self.folder, "is a folder")):
            done = self.record("-o", output, "--", "prog", "1")
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertFalse(os.path.exists(os.path.join(self.folder, "ran")))

    def test_a_packer_that_fails_is_told(self):
        done = self.record("-o", "full.trc", "--", "prog", "1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no room", done.stdout)

    def test_a_recording_that_is_ended_keeps_what_was_done(self):
        process = self.start_endless("-o", "ended", "--", "prog", "polite")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, err)
        self.assertIn("ended: 3 accesses of endless", out)
        self.assertIn("stopped by SIGTERM", err)
        self.assertIn(" S 00003000,8\n", self.read("ended"))

    def test_a_second_signal_kills_and_half_a_line_is_no_access(self):
        process = self.start_endless("-o", "killed", "--", "prog", "stubborn")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.stdout.readline(), "asked\n")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, err)
        self.assertIn("killed: 2 accesses of endless", out)
        self.assertTrue(self.read("killed").endswith(" S 00002000,8\n"))

    def test_a_recorder_that_is_killed_leaves_what_was_done(self):
        for name in ("pipe", "begun"):
            os.mkfifo(os.path.join(self.folder, name))
        # Says when two accesses have come.
        self.install("tdp", PACKER.replace(
            "log = sys.stdin.read()",
            """log = "".join(sys.stdin.readline() for _ in range(3))
    open("begun", "w").close()
    log += sys.stdin.read()"""))
        process = self.start_endless("-o", "pipe", "--", "prog", "stubborn")
        self.read("begun")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # Ends when the packer has written all.
        self.assertTrue(self.read("pipe").endswith(" S 00001000,8\n S 00002000,8\n"))

    def test_a_program_that_ends_at_once_is_recorded(self):
        # Its connection may come after its end was heard of.
        for _ in range(20):
            done = self.record("-o", "short", "--", "prog", "1")
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
