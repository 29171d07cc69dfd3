/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* Dirty logging by D bits (docs/locking.md): two pages below an upper entry that lost W as
 * logging was switched on, with D bits from before; two CPUs that cache the upper entry and
 * the leaves apart; a thread that harvests twice meanwhile and once at the end, and copies
 * what it takes.
 *
 * Holds: in the end the copies are what was written.
 * Wrong, and shown to fail:
 *   NAIVE      a harvest goes below the upper entry only if its A is set
 *   NO_FLUSH   a harvest hands out without a flush
 *   NO_CLAIM   two faults push the same protection down at once
 *   WRITE_FIRST  a push gives W to the upper entry before it takes D from the leaves
 *   NOTE_ONCE  who clears A without a flush (here: looks for cold tables) leaves a note for one
 *              harvest, not two
 *   LOG_FIRST  a harvest takes the log before it looks at the tables, and hands that out
 */

#define WRITES 2

bool upper_writable, upper_pushing, upper_accessed;
byte upper_revisit;       /* harvests that go below whatever A says */
bool dirty[2] = true;
bool marked[2];           /* the log */
bool upper_cached[2];
bool tlb[2];              /* each CPU writes one page and caches its leaf with W and D */
byte data[2], copy[2];

bool in_guest[2], flush_asked[2];
byte running = 2;

inline enter_guest(id) {
  atomic {
    in_guest[id] = true;
    if
    :: flush_asked[id] -> tlb[id] = false; upper_cached[id] = false; flush_asked[id] = false
    :: else
    fi
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
#ifdef NO_CLAIM
  if :: !upper_writable -> claimed = true :: else fi;
#else
  atomic {
    if
    :: !upper_writable && !upper_pushing -> upper_pushing = true; claimed = true
    :: else
    fi
  }
#endif
  if
  :: claimed ->
#ifdef WRITE_FIRST
    upper_writable = true;
#endif
    dirty[0] = false;
    dirty[1] = false;
    atomic { upper_writable = true; upper_pushing = false }
  :: else
  fi
}

inline fault(id) {
  in_guest[id] = false;
  upper_cached[id] = false;  /* a violation drops what led to it */
  if :: !upper_writable -> push_down() :: else fi;
  if
  :: upper_writable -> dirty[id] = true; marked[id] = true
  :: else  /* another fault is pushing: the guest tries again */
  fi;
  enter_guest(id)
}

/* A write. Between its steps the CPU answers no kick. */
inline access(id) {
  violation = false;
  if
  :: tlb[id]
  :: else ->
    if
    :: upper_cached[id]
    :: else ->
      atomic {
        if
        :: upper_writable -> upper_accessed = true; upper_cached[id] = true
        :: else -> violation = true
        fi
      }
    fi;
    if
    :: !violation -> dirty[id] = true; tlb[id] = true
    :: else
    fi
  fi;
  if
  :: !violation -> data[id]++; written++
  :: else
  fi
}

proctype Cpu(byte id) {
  byte written;
  bool violation, claimed;
  enter_guest(id);
  do
  :: written == WRITES -> break
  :: flush_asked[id] -> enter_guest(id)  /* a kick */
  :: written < WRITES ->
    access(id);
    if :: violation -> fault(id) :: else fi
  od;
  atomic { in_guest[id] = false; running-- }
}

inline take_log() {
  for (p : 0 .. 1) {
    atomic { word[p] = marked[p]; marked[p] = false }
  }
}

inline harvest() {
#ifdef LOG_FIRST
  take_log();
#endif
  atomic {
    below = false;
    if
    :: upper_writable && upper_accessed ->
      upper_accessed = false; upper_revisit = 1; below = true
#ifndef NAIVE
    :: upper_writable && !upper_accessed && upper_revisit > 0 -> upper_revisit--; below = true
#endif
    :: else
    fi
  }
  if
  :: below ->
    for (p : 0 .. 1) {
      atomic { found = dirty[p]; dirty[p] = false }
      if :: found -> marked[p] = true :: else fi
    }
  :: else
  fi;
#ifndef NO_FLUSH
  flush();
#endif
#ifndef LOG_FIRST
  take_log();
#endif
  for (p : 0 .. 1) {
    if :: word[p] -> copy[p] = data[p] :: else fi
  }
}

proctype Taker() {
  bool word[2];
  bool below, found;
  byte p, round;
  for (round : 1 .. 2) { harvest() }
  running == 0;
  harvest();
  assert(copy[0] == data[0] && copy[1] == data[1])
}

/* Once, at any time: A is cleared, and nothing flushed. */
proctype ColdTables() {
  atomic {
    if
    :: upper_accessed ->
      upper_accessed = false;
#ifdef NOTE_ONCE
      upper_revisit = 1
#else
      upper_revisit = 2
#endif
    :: else
    fi
  }
}

init {
  atomic { run Cpu(0); run Cpu(1); run Taker(); run ColdTables() }
}
