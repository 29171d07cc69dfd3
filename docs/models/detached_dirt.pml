/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* D bits of what is taken away while a slot logs (docs/locking.md). Page 0 goes with its whole
 * table, page 1 as a single leaf on the edge of the range. A CPU writes both and goes on
 * through what it has cached; a thread takes the log twice meanwhile, and once when the CPU is
 * done, even if the zap is still under way.
 *
 * Holds: in the end the copies are what was written.
 * Wrong, and shown to fail:
 *   RETIRE_OUTSIDE   a detached table goes to the clock after the section that detached it
 *   READ_EARLY       the D bits of a detached table are read before its flush
 *   NO_WAIT          a take does not wait for a reclaim that another thread has begun
 *   NO_SECOND_FLUSH  a take hands out what an edge has marked since its own flush
 */

#define WRITES 2

bool linked = true;      /* the table of page 0 */
bool table_dirty;        /* D in that table */
bool leaf = true;        /* the leaf of page 1 */
bool leaf_dirty;
bool mapped[2];          /* what faults map afterwards */
bool new_dirty[2];
bool marked[2];
bool upper_cached, tlb[2];
byte data[2], copy[2];

byte generation;
bool in_guest, flush_asked;
bool cpu_done;

bool retired;            /* waits in the clock for its flush */
bool flushed;            /* which has been */
byte reclaiming;

byte readers;
bool writing;

inline enter_guest() {
  atomic {
    in_guest = true;
    if
    :: flush_asked -> tlb[0] = false; tlb[1] = false; upper_cached = false; flush_asked = false
    :: else
    fi
  }
}

inline flush(own) {
  d_step { flush_asked = true; generation++; own = generation }
  !flush_asked || !in_guest
}

/* What was there is gone: a fault maps the page anew, with D, and marks it; then the CPU walks. */
inline write_anew(p) {
  if
  :: !mapped[p] ->
    in_guest = false;
    atomic { mapped[p] = true; new_dirty[p] = true }
    marked[p] = true;
    enter_guest()
  :: else
  fi;
  new_dirty[p] = true
}

inline write_0() {
  if
  :: tlb[0]
  :: else ->
    if
    :: upper_cached -> table_dirty = true
    :: !upper_cached ->
      atomic { upper_cached = linked }
      if
      :: upper_cached -> table_dirty = true
      :: else -> write_anew(0)
      fi
    fi;
    tlb[0] = true
  fi;
  data[0]++
}

inline write_1() {
  if
  :: tlb[1]
  :: else ->
    atomic {
      found = leaf;
      if :: found -> leaf_dirty = true :: else fi
    }
    if :: !found -> write_anew(1) :: else fi;
    tlb[1] = true
  fi;
  data[1]++
}

proctype Cpu() {
  byte written;
  bool found;
  enter_guest();
  do
  :: written == WRITES -> break
  :: flush_asked -> enter_guest()
  :: written < WRITES -> write_0(); written++
  :: written < WRITES -> write_1(); written++
  od;
  atomic { in_guest = false; cpu_done = true }
}

inline read_table() {
  if :: table_dirty -> marked[0] = true; table_dirty = false :: else fi
}

inline reclaim() {
  atomic {
    mine = false;
    if :: retired && flushed -> retired = false; reclaiming++; mine = true :: else fi
  }
  if
  :: mine -> read_table(); reclaiming--
  :: else
  fi
}

proctype Zap() {
  bool mine;
  atomic { !writing && readers == 0; writing = true }
  linked = false;
  atomic { leaf = false; if :: leaf_dirty -> leaf_dirty = false; marked[1] = true :: else fi }
#ifdef READ_EARLY
  read_table();
#else
#ifndef RETIRE_OUTSIDE
  retired = true;
#endif
#endif
  d_step { flush_asked = true; generation++ }
  writing = false;
#ifdef RETIRE_OUTSIDE
  retired = true;
#endif
  !flush_asked || !in_guest;
  flushed = true;
  reclaim()
}

inline take() {
  atomic { !writing; readers++ }
  if :: linked -> read_table() :: else fi;
  if :: leaf && leaf_dirty -> leaf_dirty = false; marked[1] = true :: else fi;
  for (p : 0 .. 1) {
    if :: new_dirty[p] -> new_dirty[p] = false; marked[p] = true :: else fi
  }
  readers--;
  before = retired;
  flush(at);
  if :: before -> flushed = true :: else fi;
  reclaim();
#ifndef NO_WAIT
  reclaiming == 0;
#endif
  for (p : 0 .. 1) {
    atomic { word[p] = marked[p]; marked[p] = false }
  }
#ifndef NO_SECOND_FLUSH
  atomic { !writing; again = generation != at }
  if :: again -> flush(at) :: else fi;
#endif
  for (p : 0 .. 1) {
    if :: word[p] -> copy[p] = data[p] :: else fi
  }
}

proctype Taker() {
  bool word[2];
  bool mine, before, again;
  byte p, round, at;
  for (round : 1 .. 2) { take() }
  cpu_done;
  take();
  assert(copy[0] == data[0] && copy[1] == data[1])
}

init {
  atomic { run Cpu(); run Zap(); run Taker() }
}
