#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# The guest's first and only program: it computes what is known already, again and again, and says
# whether anything came out wrong. `passes` and `cpus` come from the kernel's command line; DATA_SUM
# and SORTED_SUM are put in when the initramfs is made.

export PATH=/bin

copy_and_compare() {
  cp /data "/tmp/a$1" && cp "/tmp/a$1" "/tmp/b$2" && cmp /data "/tmp/b$2" &&
    [ "$(sha256sum <"/tmp/b$2")" = "DATA_SUM  -" ]
}

sort_and_sum() { [ "$(seq 1500 -1 1 | sort -n | sha256sum)" = "SORTED_SUM  -" ]; }

if [ "$1" = work ]; then # PASS CPU: its share of a pass, in a process of its own
  copy_and_compare "$2-$3" "$3" && sort_and_sum
  exit
fi

mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
found=$(grep -c ^processor /proc/cpuinfo)
echo "INIT: $(uname -sr), $(awk '/MemTotal/ { print $2 }' /proc/meminfo) kB, $found CPU(s)"
wrong=

check() { # NAME COMMAND...: what the host's changes of memory must never show in
  name=$1
  shift
  "$@" || wrong="$wrong $name"
}

# The same on every CPU at once.
on_each_cpu() {
  workers=
  for cpu in $(seq 0 $((cpus - 1))); do
    taskset -c "$cpu" /init work "$1" "$cpu" &
    workers="$workers $!"
  done
  for worker in $workers; do wait "$worker" || return 1; done
}

# The last CPU leaves and comes back: it is started anew.
restart_cpu() {
  [ -d /sys/devices ] || mount -t sysfs sysfs /sys
  online=/sys/devices/system/cpu/cpu$((cpus - 1))/online
  echo 0 >$online && [ "$(grep -c ^processor /proc/cpuinfo)" = $((cpus - 1)) ] &&
    echo 1 >$online && [ "$(grep -c ^processor /proc/cpuinfo)" = "$cpus" ]
}

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

check cpus [ "$found" = "$cpus" ]
pass=1
while [ $pass -le "${passes:-6}" ]; do
  if [ "$cpus" = 1 ]; then
    check "copy-$pass" copy_and_compare $pass 0
    check "sort-$pass" sort_and_sum
  else
    check "pass-$pass" on_each_cpu $pass
    check "restart-$pass" restart_cpu
  fi
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
