#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Times the emulator's two-dimensional page walks: see walk_speed.cc.

A run's time is start-up, instructions and walks. Two runs of different length take the start-up
away; a loop of the same instructions that stays on one page takes the instructions away.
"""

import resource
import subprocess
import sys

LOADS_A_ROUND = 4096
SHORT, LONG = 50, 2050


def cpu_seconds(program, rounds, stride):
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([program, str(rounds), str(stride)], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start


def nanoseconds_a_load(program, stride):
    longer = cpu_seconds(program, LONG, stride) - cpu_seconds(program, SHORT, stride)
    return longer * 1e9 / ((LONG - SHORT) * LOADS_A_ROUND)


def main(program):
    walked = nanoseconds_a_load(program, 4096)
    cached = nanoseconds_a_load(program, 0)
    print(f"a load with a walk of 24 references: {walked:.0f} ns")
    print(f"the same without a walk:             {cached:.0f} ns")
    print(f"the walk:                            {walked - cached:.0f} ns")


if __name__ == "__main__":
    main(sys.argv[1])
