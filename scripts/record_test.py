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
    if sys.argv[-1] == "-":
        sys.stdout.write(log)
    else:
        open(sys.argv[-1], "w").write(log)
    said = sys.stderr if sys.argv[-1] == "-" else sys.stdout
    print("%s: %d accesses" % (sys.argv[-1], log.count(" S ")), file=said)
"""

# Writes each line as it comes, and after two accesses its own process number into a file.
STREAMING_PACKER = """\
    #!{python}
    import os, sys
    for number, line in enumerate(sys.stdin):
        sys.stdout.write(line)
        sys.stdout.flush()
        if number == 2:
            open("packer", "w").write(str(os.getpid()))
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
                                (self.folder, "is a folder"),
                                ("n" * 240, "its name has more than 228 bytes")):
            done = self.record("-o", output, "--", "prog", "1")
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertFalse(os.path.exists(os.path.join(self.folder, "ran")))

    def test_a_packer_that_fails_is_told(self):
        self.install("tdp", """\
            #!{python}
            import sys
            print("tdp pack: no room", file=sys.stderr)
            sys.exit(2)
            """)
        done = self.record("-o", "full.trc", "--", "prog", "1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("full.trc: tdp pack: no room\n", done.stdout)
        # It had written nothing, so that there is nothing to keep.
        self.assertEqual(sorted(os.listdir(self.folder)), ["bin", "ran"])

    def test_a_packer_that_is_killed_leaves_what_it_had_packed(self):
        self.install("tdp", """\
            #!{python}
            import os, signal, sys
            sys.stdout.write(sys.stdin.readline())
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            """)
        for piece in ("my trc.70.part", "my trc.70-2.part"):
            done = self.record("-o", "my trc", "--", "prog", "1")
            self.assertEqual(done.returncode, 2)
            self.assertIn("my trc: its packer was killed by SIGKILL; what it had packed by then is "
                          "kept, to be made a trace of by: "
                          f"tdp pack --salvage '{piece}' 'my trc'\n", done.stdout)
            self.assertEqual(self.read(piece), "==70== Lackey\n")
            self.assertFalse(os.path.exists(os.path.join(self.folder, "my trc")))

    def test_even_if_all_are_killed_a_piece_is_left(self):
        self.install("tdp", STREAMING_PACKER)
        os.mkfifo(os.path.join(self.folder, "packer"))
        process = self.start_endless("-o", "lost", "--", "prog", "stubborn")
        packer = int(self.read("packer"))
        os.kill(process.pid, signal.SIGKILL)
        os.kill(packer, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pieces = [name for name in os.listdir(self.folder) if name.endswith(".part")]
        self.assertEqual(len(pieces), 1)
        self.assertTrue(self.read(pieces[0]).endswith(" S 00001000,8\n S 00002000,8\n"))

    def test_a_trace_takes_the_place_and_the_permissions_of_the_one_before(self):
        old = os.path.join(self.folder, "old")
        with open(old, "w", encoding="utf-8") as file:
            file.write("yesterday's")
        os.chmod(old, 0o640)
        os.symlink("old", os.path.join(self.folder, "link"))
        done = self.record("-o", "link", "--", "prog", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.islink(os.path.join(self.folder, "link")))
        self.assertTrue(self.read("old").endswith(" S 00001000,8\n"))
        self.assertEqual(os.stat(old).st_mode & 0o777, 0o640)

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
