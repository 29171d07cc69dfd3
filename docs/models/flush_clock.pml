/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* FlushClock (docs/locking.md): a vCPU that enters and leaves the guest, and a structural
 * operation that takes a page and its table away, flushes and frees the table.
 *
 * Holds: once the flush is settled the CPU uses no old translation; it never walks into a
 * freed table.
 * Wrong, and shown to fail:
 *   LOOK_ONCE              the vCPU does not look at the generation again once its word is out
 *   OPERATION_LOOKS_FIRST  the operation looks at the word before it moves the generation
 *   MOVE_BEFORE_CHANGE     the generation moves before the tables change
 *   FREE_EARLY             the table is freed before the vCPU has passed
 */

bool present = true;  /* the link to the table */
bool freed;
byte generation = 1;
byte word_generation;
bool word_in_guest;
bool kicked;
bool settled;

/* The CPU's caches: the upper entry, the page. */
bool upper, tlb;

inline access() {
  atomic {
    if
    :: tlb -> assert(!settled)
    :: !tlb && upper -> assert(!freed); tlb = present  /* a walk of the table */
    :: !tlb && !upper && present -> upper = true
    :: else
    fi
  }
}

proctype Vcpu() {
  byte g, flushed = 1, entry, i;
  for (entry : 1 .. 2) {
    g = generation;
    do
    ::
      atomic { word_generation = g; word_in_guest = true }
#ifdef LOOK_ONCE
      break
#else
      if
      :: generation == g -> break
      :: else -> g = generation
      fi
#endif
    od;
    if
    :: g > flushed -> atomic { upper = false; tlb = false; flushed = g }
    :: else
    fi;
    i = 0;
    do
    :: !kicked && i < 3 -> access(); i++
    :: kicked || i == 3 -> break
    od;
    atomic { kicked = false; word_in_guest = false }
  }
}

#define BEHIND (word_in_guest && word_generation < mine)

proctype Operation() {
  byte mine;
  bool behind;
#ifdef MOVE_BEFORE_CHANGE
  generation++;
  mine = generation;
  behind = BEHIND;
  present = false;
#else
#ifdef OPERATION_LOOKS_FIRST
  present = false;
  mine = generation + 1;
  behind = BEHIND;
  generation++;
#else
  present = false;
  atomic { generation++; mine = generation }
  behind = BEHIND;
#endif
#endif
#ifdef FREE_EARLY
  freed = true;
#endif
  if
  :: behind -> kicked = true; !BEHIND
  :: else
  fi;
  settled = true;
  freed = true
}

init {
  atomic { run Vcpu(); run Operation() }
}
