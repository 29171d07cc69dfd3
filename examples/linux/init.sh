#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# The guest's first and only program: it computes what is known already, again and again, and says
# whether anything came out wrong. `passes` comes from the kernel's command line; DATA_SUM and
# SORTED_SUM are put in when the initramfs is made.

export PATH=/bin
mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
echo "INIT: $(uname -sr), $(awk '/MemTotal/ { print $2 }' /proc/meminfo) kB"
wrong=

check() { # NAME COMMAND...: what the host's changes of memory must never show in
  name=$1
  shift
  "$@" || wrong="$wrong $name"
}

copy_and_compare() {
  cp /data "/tmp/a$1" && cp "/tmp/a$1" /tmp/b && cmp /data /tmp/b &&
    [ "$(sha256sum </tmp/b)" = "DATA_SUM  -" ]
}

sort_and_sum() { [ "$(seq 1500 -1 1 | sort -n | sha256sum)" = "SORTED_SUM  -" ]; }

# A quarter of what is free, written, read back and given away.
press() {
  kib=$(awk '/MemFree/ { print int($2 / 4) }' /proc/meminfo)
  yes libtdp | dd of=/tmp/full bs=1024 count=2048 iflag=fullblock 2>/dev/null
  copies=0
  while [ $copies -lt $((kib / 8192)) ]; do
    cp /tmp/full "/tmp/full.$copies"
    copies=$((copies + 1))
  done
  for copy in /tmp/full.*; do cmp /tmp/full "$copy" || return 1; done
  rm -f /tmp/full /tmp/full.*
}

pass=1
while [ $pass -le "${passes:-6}" ]; do
  check "copy-$pass" copy_and_compare $pass
  check "sort-$pass" sort_and_sum
  echo "INIT: pass $pass of ${passes:-6}"
  pass=$((pass + 1))
done
check pressure press
if dmesg | grep -E 'WARNING|BUG|Oops|segfault|orrupt'; then wrong="$wrong kernel-log"; fi
if [ -z "$wrong" ]; then
  echo "INIT: done"
else
  echo "INIT: wrong:$wrong"
fi
reboot -f
