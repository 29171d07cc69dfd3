/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* FlushClock (docs/locking.md): a vCPU that enters and leaves the guest, and a structural
 * operation that takes a page and its table away, flushes and frees the table.
 *
 * Holds: once the flush is settled the CPU uses no old translation; it never walks into a
 * freed table.
 * Operations look at the word while it is listed. Another one, over by then or beside it, strikes
 * it off when it finds it outside twice in a row; the vCPU lists it again as it enters.
 * Wrong, and shown to fail:
 *   LOOK_ONCE              the vCPU does not look at the generation again once its word is out
 *   OPERATION_LOOKS_FIRST  the operation looks at the word before it moves the generation
 *   MOVE_BEFORE_CHANGE     the generation moves before the tables change
 *   FREE_EARLY             the table is freed before the vCPU has passed
 *   ENTERS_UNLISTED        the vCPU does not list its word
 *   LISTS_LATE             the vCPU lists its word after it has looked at the generation again
 *   STRIKES_UNSEEN         the word is struck off without another look at it
 */

bool present = true;  /* the link to the table */
bool freed;
byte generation = 1;
byte word_generation;
bool word_in_guest;
bool word_rests;          /* outside, and an operation has seen it there */
bool word_unlisted = true;
bool listed, mutex;
bool kicked;
bool settled;

/* The CPU's caches: the upper entry, the page. */
bool upper, tlb;

inline list() {
  if
  :: was_unlisted -> atomic { !mutex -> mutex = true }; listed = true; mutex = false
  :: else
  fi
}

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
  bool was_unlisted;
  for (entry : 1 .. 2) {
    g = generation;
    do
    ::
      atomic {
        was_unlisted = word_unlisted;
        word_unlisted = false;
        word_rests = false;
        word_generation = g;
        word_in_guest = true
      };
#ifndef ENTERS_UNLISTED
#ifndef LISTS_LATE
      list();
#endif
#endif
#ifdef LOOK_ONCE
      break
#else
      if
      :: generation == g -> break
      :: else -> g = generation
      fi
#endif
    od;
#ifdef LISTS_LATE
    list();
#endif
    if
    :: g > flushed -> atomic { upper = false; tlb = false; flushed = g }
    :: else
    fi;
    i = 0;
    do
    :: !kicked && i < 3 -> access(); i++
    :: kicked || i == 3 -> break
    od;
    atomic { kicked = false; word_in_guest = false; word_rests = false }
  }
}

#define BEHIND (word_in_guest && word_generation < mine)

proctype Operation() {
  byte mine;
  bool behind;
#ifdef MOVE_BEFORE_CHANGE
  generation++;
  mine = generation;
  behind = listed && BEHIND;
  present = false;
#else
#ifdef OPERATION_LOOKS_FIRST
  present = false;
  mine = generation + 1;
  behind = listed && BEHIND;
  generation++;
#else
  present = false;
  atomic { generation++; mine = generation };
  behind = listed && BEHIND;
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

/* What it has to settle is of no account here. */
proctype Another() {
  byte i;
  for (i : 1 .. 2) {
    atomic { !mutex -> mutex = true };
    if
    :: listed && !word_in_guest && word_rests ->
#ifdef STRIKES_UNSEEN
      word_unlisted = true;
      listed = false
#else
      atomic {
        if
        :: !word_in_guest && word_rests -> word_unlisted = true; listed = false
        :: else
        fi
      }
#endif
    :: listed && !word_in_guest && !word_rests ->
      atomic {
        if
        :: !word_in_guest -> word_rests = true
        :: else
        fi
      }
    :: else
    fi;
    mutex = false
  }
}

init {
  atomic { run Vcpu(); run Operation(); run Another() }
}
