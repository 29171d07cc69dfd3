/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* MmuLock (docs/locking.md): two faults, and zaps that detach a table, free it and link a new one.
 * A writer looks at listed readers alone, and strikes off one that two writers in a row have found
 * outside.
 *
 * Holds: no fault installs into a table that was detached.
 * Wrong, and shown to fail:
 *   READER_LOOKS_FIRST  a reader looks at the writer's flag before it raises its own
 *   WRITER_LOOKS_FIRST  the writer looks at the readers' flags before it raises its own
 *   STAYS_UNLISTED      a reader that was struck off goes in all the same
 *   STRIKES_UNSEEN      a reader is struck off without another look at its word
 */

#define OUTSIDE 0
#define INSIDE 1
#define RESTING 2
#define UNLISTED 3

bool writer, mutex;
byte state[2] = UNLISTED;
bool listed[2];
bool linked = true;
bool detached;

#ifdef STAYS_UNLISTED
#define MAY_STAY (!seen)
#else
#define MAY_STAY (!seen && before != UNLISTED)
#endif

inline go_in(id) {
#ifdef READER_LOOKS_FIRST
  seen = writer;
#endif
  atomic { before = state[id]; state[id] = INSIDE }
#ifndef READER_LOOKS_FIRST
  seen = writer
#endif
}

inline enter(id) {
  go_in(id);
  do
  :: MAY_STAY -> break
  :: else ->
    state[id] = OUTSIDE;
    atomic { !mutex -> mutex = true };
    listed[id] = true;
    mutex = false;
    go_in(id)
  od
}

proctype Fault(byte id) {
  bool seen, found;
  byte i, before;
  for (i : 1 .. 2) {
    enter(id);
    found = linked;
    if
    :: found -> assert(!detached)  /* the compare-exchange into the table */
    :: else
    fi;
    state[id] = OUTSIDE
  }
}

/* Returns when the reader is outside. */
inline wait_for(id) {
  do
  :: !listed[id] -> break
  :: listed[id] && state[id] == OUTSIDE ->
    atomic {
      if
      :: state[id] == OUTSIDE -> state[id] = RESTING; break
      :: else
      fi
    }
  :: listed[id] && state[id] == RESTING ->
#ifdef STRIKES_UNSEEN
    state[id] = UNLISTED; listed[id] = false; break
#else
    atomic {
      if
      :: state[id] == RESTING -> state[id] = UNLISTED; listed[id] = false; break
      :: else
      fi
    }
#endif
  od
}

proctype Zap() {
  byte i;
  for (i : 1 .. 3) {
    atomic { !mutex -> mutex = true };
#ifdef WRITER_LOOKS_FIRST
    wait_for(0);
    wait_for(1);
    writer = true;
#else
    writer = true;
    wait_for(0);
    wait_for(1);
#endif
    linked = false;
    detached = true;
    atomic { detached = false; linked = true };
    writer = false;
    mutex = false
  }
}

init {
  atomic { run Fault(0); run Fault(1); run Zap() }
}
