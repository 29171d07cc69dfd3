/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* A leaf and its place in the reverse map (docs/locking.md, "With a reverse map"): faults that put
 * large and small leaves over the same page, each under the lock of the leaf's own level, and a zap
 * by the map with the writer's side.
 *
 * Holds: where no fault holds a lock of a level, its leaf stands exactly if its head says so; so
 * the zap leaves nothing, and no fault finds the head of its leaf taken.
 * Wrong, and shown to fail:
 *   HEAD_OUTSIDE  the lock is given back before the head is written
 *   DROP_UNLOCKED the large leaf is dropped without the lock of its level
 *   OTHER_LOCK    the large leaf is dropped under the lock of the small one that it makes way for
 */

#define HOLE 0
#define LEAF 1
#define TABLE 2

byte upper;           /* the entry for 2 MiB */
bool upper_head;
byte lower;           /* that for 4 KiB, in the table */
bool lower_head;
bool upper_locked;
bool lower_locked;
byte inside;          /* faults in their sections */
bool writing;

inline lock(it) { atomic { !it -> it = true } }
inline unlock(it) { it = false }

inline compare_exchange(entry, expected, value, done) {
  atomic {
    if
    :: entry == expected -> entry = value; done = true
    :: else -> done = false
    fi
  }
}

/* Puts a leaf where a hole was seen, under the lock of its level. */
inline put(entry, head, locked, done) {
  lock(locked);
  compare_exchange(entry, HOLE, LEAF, done);
#ifdef HEAD_OUTSIDE
  unlock(locked);
#endif
  if
  :: done -> assert(!head); head = true
  :: else
  fi;
#ifndef HEAD_OUTSIDE
  unlock(locked)
#endif
}

/* A table and the small leaf in it become visible with the link. */
inline link_small(done) {
  lock(lower_locked);
  atomic {
    if
    :: upper == HOLE -> upper = TABLE; lower = LEAF; done = true
    :: else -> done = false
    fi
  }
  if
  :: done -> assert(!lower_head); lower_head = true
  :: else
  fi;
  unlock(lower_locked)
}

inline drop_large(done) {
#ifdef OTHER_LOCK
  lock(lower_locked);
#else
#ifndef DROP_UNLOCKED
  lock(upper_locked);
#endif
#endif
  compare_exchange(upper, LEAF, HOLE, done);
  if
  :: done -> assert(upper_head); upper_head = false
  :: else
  fi;
#ifdef OTHER_LOCK
  unlock(lower_locked)
#else
#ifndef DROP_UNLOCKED
  unlock(upper_locked)
#endif
#endif
}

/* Wants its page mapped, by a small leaf if `small`: then a large one has to go. */
proctype Fault(bool small) {
  byte seen;
  bool done = false;
  atomic { !writing -> inside++ }
  do
  :: done -> break
  :: else ->
    seen = upper;
    if
    :: seen == TABLE ->
      if
      :: lower == LEAF -> done = true
      :: else -> put(lower, lower_head, lower_locked, done)
      fi
    :: seen == LEAF && small -> drop_large(done); done = false
    :: seen == LEAF && !small -> done = true
    :: seen == HOLE && small -> link_small(done)
    :: seen == HOLE && !small -> put(upper, upper_head, upper_locked, done)
    fi
  od;
  inside--
}

/* Takes the leaves that the map leads to; the table stays. */
proctype Zap() {
  atomic { !writing -> writing = true }
  inside == 0;
  assert(upper_head == (upper == LEAF));
  assert(lower_head == (lower == LEAF));
  atomic {
    if
    :: upper_head -> upper = HOLE; upper_head = false
    :: else
    fi;
    if
    :: lower_head -> lower = HOLE; lower_head = false
    :: else
    fi;
    assert(upper != LEAF && lower != LEAF);
    writing = false
  }
}

init {
  atomic {
    run Fault(true);
    run Fault(false);
    run Fault(true);
    run Fault(false);
    run Zap()
  }
}
