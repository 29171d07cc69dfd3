/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* MmuLock (docs/locking.md): two faults and a zap that detaches and frees a table.
 *
 * Holds: no fault installs into a table that was detached.
 * Wrong, and shown to fail:
 *   READER_LOOKS_FIRST  a reader looks at the writer's flag before it raises its own
 *   WRITER_LOOKS_FIRST  the writer looks at the readers' flags before it raises its own
 */

bool writer;
bool inside[2];
bool linked = true;
bool detached;

inline enter(id) {
  do
  ::
#ifdef READER_LOOKS_FIRST
    seen = writer;
    inside[id] = true;
#else
    inside[id] = true;
    seen = writer;
#endif
    if
    :: !seen -> break
    :: else -> inside[id] = false; !writer
    fi
  od
}

proctype Fault(byte id) {
  bool seen, found;
  byte i;
  for (i : 1 .. 2) {
    enter(id);
    found = linked;
    if
    :: found -> assert(!detached)  /* the compare-exchange into the table */
    :: else
    fi;
    inside[id] = false
  }
}

proctype Zap() {
#ifdef WRITER_LOOKS_FIRST
  !inside[0];
  !inside[1];
  writer = true;
#else
  writer = true;
  !inside[0];
  !inside[1];
#endif
  linked = false;
  detached = true;
  writer = false
}

init {
  atomic { run Fault(0); run Fault(1); run Zap() }
}
