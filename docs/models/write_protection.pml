/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* Dirty logging by write-protection (docs/locking.md): two pages below an upper entry that
 * lost W as logging was switched on; two CPUs that write them, fault, and push the protection
 * down; a thread that takes the log twice meanwhile and once at the end, and copies what it
 * takes.
 *
 * Holds: in the end the copies are what was written.
 * Wrong, and shown to fail:
 *   MARK_FIRST     a fault marks the page before it makes it writable
 *   PROTECT_FIRST  a take protects a page before it takes its mark
 *   NO_FLUSH       a take hands out without a flush
 *   PARENT_FIRST   a push gives W to the upper entry before it takes it from the leaves
 */

#define WRITES 2

bool upper_writable, upper_pushing;
bool writable[2] = true;  /* the leaves: written before logging was switched on */
bool marked[2];
bool tlb[2];              /* each CPU writes one page and caches its leaf with W */
byte data[2], copy[2];

bool in_guest[2], flush_asked[2];
byte running = 2;

/* Entering the guest pays the flush that was asked for meanwhile. */
inline enter_guest(id) {
  atomic {
    in_guest[id] = true;
    if :: flush_asked[id] -> tlb[id] = false; flush_asked[id] = false :: else fi
  }
}

inline flush() {
  flush_asked[0] = true;
  flush_asked[1] = true;
  !flush_asked[0] || !in_guest[0];
  !flush_asked[1] || !in_guest[1]
}

inline push_down() {
  claimed = false;
  atomic {
    if
    :: !upper_writable && !upper_pushing -> upper_pushing = true; claimed = true
    :: else
    fi
  }
  if
  :: claimed ->
#ifdef PARENT_FIRST
    upper_writable = true;
#endif
    writable[0] = false;
    writable[1] = false;
    atomic { upper_writable = true; upper_pushing = false }
  :: else
  fi
}

inline fault(id) {
  in_guest[id] = false;
  if :: !upper_writable -> push_down() :: else fi;
  if
  :: upper_writable ->
#ifdef MARK_FIRST
    marked[id] = true;
    writable[id] = true
#else
    writable[id] = true;
    marked[id] = true
#endif
  :: else  /* another fault is pushing: the guest tries again */
  fi;
  enter_guest(id)
}

proctype Cpu(byte id) {
  byte written;
  bool hit, claimed;
  enter_guest(id);
  do
  :: written == WRITES -> break
  :: flush_asked[id] -> enter_guest(id)  /* a kick */
  :: written < WRITES ->
    atomic {
      if
      :: tlb[id] -> hit = true
      :: !tlb[id] && upper_writable && writable[id] -> tlb[id] = true; hit = true
      :: else -> hit = false
      fi;
      if :: hit -> data[id]++; written++ :: else fi
    }
    if :: !hit -> fault(id) :: else fi
  od;
  atomic { in_guest[id] = false; running-- }
}

inline take() {
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
  flush();
#endif
  for (p : 0 .. 1) {
    if :: word[p] -> copy[p] = data[p] :: else fi
  }
}

proctype Taker() {
  bool word[2];
  byte p, round;
  for (round : 1 .. 2) { take() }
  running == 0;
  take();
  assert(copy[0] == data[0] && copy[1] == data[1])
}

init {
  atomic { run Cpu(0); run Cpu(1); run Taker() }
}
