/* SPDX-License-Identifier: Apache-2.0 */

/* Dirty logging by write-protection (docs/locking.md): a page below an upper entry from which W was taken as logging was
 * switched on; a CPU that writes it, faults, and pushes the protection down; a thread that takes the log twice while it
 * does and once at the end, copying what it takes.
 *
 * Holds: in the end the copies are what was written.
 * Wrong, and shown to fail:
 *   MARK_FIRST     a fault marks the page before it makes it writable
 *   PROTECT_FIRST  a harvest protects the page before it takes the word
 *   NO_FLUSH       a harvest hands out without a flush
 *   PARENT_FIRST   a push gives W to the upper entry before it takes it from the leaves
 */

#define WRITES 2

bool upper_writable;
bool writable[2] = true;  /* leaves, written before logging was on */
bool marked[2];
bool tlb_writable[2];
byte data[2], copy[2];
bool flush_asked;
bool cpu_done;

inline answer_flush() {
  atomic {
    if
    :: flush_asked -> tlb_writable[0] = false; tlb_writable[1] = false; flush_asked = false
    :: else
    fi
  }
}

inline fault(p) {
  if
  :: !upper_writable ->
#ifdef PARENT_FIRST
    upper_writable = true;
    atomic { if :: writable[0] && tlb_writable[0] :: else fi }
    writable[0] = false;
    writable[1] = false;
#else
    writable[0] = false;
    writable[1] = false;
    upper_writable = true;
#endif
  :: else
  fi;
#ifdef MARK_FIRST
  marked[p] = true;
  writable[p] = true
#else
  writable[p] = true;
  marked[p] = true
#endif
}

/* One CPU writes page 0, another page 1; both have one TLB here, which only makes more of it stale. */
proctype Cpu(byte p) {
  byte done;
  do
  :: done < WRITES ->
    answer_flush();
    atomic {
      if
      :: tlb_writable[p] -> data[p]++; done++; goto written
      :: !tlb_writable[p] && upper_writable && writable[p] -> tlb_writable[p] = true; goto written
      :: else
      fi
    }
    /* An exit: what needs this CPU's answer has it, since it is not in the guest. */
    fault(p);
written: skip
  :: else -> break
  od;
  atomic { cpu_done = true }
}

inline harvest() {
  for (p : 0 .. 1) {
#ifdef PROTECT_FIRST
    if :: marked[p] -> writable[p] = false :: else fi;
    atomic { word[p] = marked[p]; marked[p] = false }
#else
    atomic { word[p] = marked[p]; marked[p] = false }
    if :: word[p] -> writable[p] = false :: else fi
#endif
  }
#ifndef NO_FLUSH
  /* A CPU out of the guest flushes as it enters: as good as at once. */
  flush_asked = true;
  if
  :: !flush_asked
  :: timeout_or_done -> atomic { tlb_writable[0] = false; tlb_writable[1] = false; flush_asked = false }
  fi;
#endif
  for (p : 0 .. 1) {
    if :: word[p] -> copy[p] = data[p] :: else fi
  }
}

#define timeout_or_done (running == 0)
byte running = 2;

proctype Harvester() {
  bool word[2];
  byte p, round;
  for (round : 1 .. 2) { harvest() }
  running == 0;
  harvest();
  assert(copy[0] == data[0] && copy[1] == data[1])
}

init { skip }
