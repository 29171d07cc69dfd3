#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Writes the guest's initramfs: a newc cpio archive of busybox, the init script and its data.

Usage: make_initramfs.py BUSYBOX INIT OUTPUT

Neither root rights nor the kernel's tools are needed: the archive is written byte by byte
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import hashlib
import stat
import sys

APPLETS = ("sh mount uname awk cp cmp sha256sum seq sort yes dd rm dmesg grep reboot cat echo "
           "sleep taskset").split()
DATA_BYTES = 128 * 1024
SORTED_LINES = 1500


class Archive:
    """A cpio archive under construction."""

    def __init__(self):
        self.out = bytearray()
        self.inode = 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        self.out += b"070701" + b"".join(b"%08X" % field for field in fields)
        self.out += name.encode() + b"\0"
        self.pad()
        self.out += content
        self.pad()

    def pad(self):
        self.out += b"\0" * (-len(self.out) % 4)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.out)


def data():
    """Bytes that do not repeat, the same on every machine."""
    blocks = (hashlib.sha256(b"libtdp %d" % i).digest() for i in range(DATA_BYTES // 32))
    return b"".join(blocks)


def init_script(text):
    lines = "".join(f"{i}\n" for i in range(1, SORTED_LINES + 1))
    text = text.replace("DATA_SUM  -", hashlib.sha256(data()).hexdigest() + "  -")
    return text.replace("SORTED_SUM  -", hashlib.sha256(lines.encode()).hexdigest() + "  -")


def build(busybox, script):
    archive = Archive()
    for directory in ("bin", "dev", "proc", "sys", "tmp"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    archive.add("dev/zero", stat.S_IFCHR | 0o666, device=(1, 5))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox)
    for applet in APPLETS:
        archive.add("bin/" + applet, stat.S_IFLNK | 0o777, b"busybox")
    archive.add("data", stat.S_IFREG | 0o644, data())
    archive.add("init", stat.S_IFREG | 0o755, init_script(script).encode())
    return archive.finish()


def main(argv):
    busybox, script, output = argv
    with open(busybox, "rb") as file:
        busybox = file.read()
    with open(script, encoding="utf-8") as file:
        script = file.read()
    with open(output, "wb") as file:
        file.write(build(busybox, script))


if __name__ == "__main__":
    main(sys.argv[1:])
