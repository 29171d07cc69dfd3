# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of record.py, with a valgrind and a packer that only pretend."""

import os
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
        for name, text in (("valgrind", VALGRIND), ("tdp", PACKER)):
            path = os.path.join(self.folder, "bin", name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(textwrap.dedent(text).format(python=sys.executable))
            os.chmod(path, 0o755)

    def record(self, *arguments):
        """The finished process."""
        path = os.path.join(self.folder, "bin")
        return subprocess.run(
            [sys.executable, RECORD, "--tdp", os.path.join(path, "tdp"), *arguments],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": path + os.pathsep + os.environ["PATH"]})

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


if __name__ == "__main__":
    unittest.main()
