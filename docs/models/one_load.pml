/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* One load decides (docs/locking.md, "Entries: readers against readers"): a fault that puts a table
 * where a hole or a large leaf is; a builder (push-down, split, prefault's table) that does the
 * same of its own accord; and one that has a late D bit to pass on to whatever maps the page.
 *
 * Holds: a linked table is never replaced nor taken for a leaf, and the D bit arrives.
 * Wrong, and shown to fail:
 *   LOOK_TWICE    the builder decides on one load, and exchanges what a second one found
 *   GIVE_UP       the D bit is for a leaf; where a second load finds none it is dropped
 */

#define HOLE 0
#define LEAF 1
#define DIRTY_LEAF 2
#define TABLE 3

byte entry;
byte tables;         /* linked here so far: the first stays */
bool child_dirty;    /* D in the table */

inline compare_exchange(expected, value, done) {
  atomic {
    if
    :: entry == expected -> entry = value; done = true
    :: else -> done = false
    fi
  }
}

/* A table in the place of what was seen: with its leaves, if that was one. */
inline put_table(seen, done) {
  atomic {
    if
    :: entry == seen ->
      assert(seen != TABLE);
      tables++;
      child_dirty = (seen == DIRTY_LEAF);
      entry = TABLE;
      done = true
    :: else -> done = false
    fi
  }
}

proctype Fault() {
  byte seen;
  bool done;
  do
  ::
    seen = entry;
    if
    :: seen == TABLE -> break
    :: else -> put_table(seen, done)
    fi
  od
}

proctype Builder() {
  byte seen;
  bool done;
  do
  ::
    seen = entry;
    if
    :: seen == TABLE -> break
    :: else ->
#ifdef LOOK_TWICE
      seen = entry;
#endif
      put_table(seen, done)
    fi
  od;
  assert(tables == 1)
}

proctype LateBit() {
  byte seen;
  bool done;
  do
  ::
    seen = entry;
    if
    :: seen == HOLE || seen == DIRTY_LEAF -> break
    :: seen == TABLE -> child_dirty = true; break
    :: seen == LEAF ->
#ifdef GIVE_UP
      seen = entry;
      if
      :: seen != LEAF -> break
      :: else
      fi;
#endif
      compare_exchange(LEAF, DIRTY_LEAF, done);
      if
      :: done -> break
      :: else
      fi
    fi
  od;
  /* The leaf stood here all the time, whatever became of it. */
  assert(entry == HOLE || entry == DIRTY_LEAF || (entry == TABLE && child_dirty))
}

init {
  atomic {
    if
    :: entry = HOLE; run Fault(); run Builder()
    :: entry = LEAF; run Fault(); run Builder(); run LateBit()
    fi
  }
}
