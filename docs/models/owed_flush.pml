/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* Promises beside debts (docs/locking.md, "Promises"): a vCPU that has a page in its TLB, an
 * operation that has taken the page away and settles its flush some time later, in a writer's
 * section (Zap) or on the readers' side (Narrow), and one that promises that no CPU can use the
 * page when it returns, and finds nothing in the tables.
 *
 * Holds: once the promise is given the CPU does not use the page.
 * Wrong, and shown to fail:
 *   FOUND_NOTHING      who finds nothing in the tables owes nothing
 *   ADVANCE_OUTSIDE    the generation moves after the section that took the page away
 *   SETTLED_EARLY      a generation counts as settled before the vCPU was waited for
 *   UNANNOUNCED        what is narrowed on the readers' side is not announced
 *   ANNOUNCED_SHORTLY  the announcement ends before the generation moves
 */

bool present = true;
byte generation = 1;
byte settled = 1;
byte narrowings;
bool locked;      /* MmuLock: of these sections one at a time */
bool promised;

byte entered;
bool in_guest, kicked, tlb;

#define BEHIND(g) (in_guest && entered < g)

inline enter_section() { atomic { !locked -> locked = true } }
inline leave_section() { locked = false }

inline advance(mine) { atomic { generation++; mine = generation } }

inline raise_settled(g) {
  atomic {
    if
    :: settled < g -> settled = g
    :: else
    fi
  }
}

inline settle(g) {
  if
  :: settled >= g
  :: else ->
#ifdef SETTLED_EARLY
    raise_settled(g);
#endif
    if
    :: BEHIND(g) -> kicked = true; !BEHIND(g)
    :: else
    fi;
    raise_settled(g)
  fi
}

proctype Vcpu() {
  byte g, flushed = 1, entry, i;
  for (entry : 1 .. 2) {
    g = generation;
    do
    ::
      atomic { entered = g; in_guest = true }
      if
      :: generation == g -> break
      :: else -> g = generation
      fi
    od;
    if
    :: g > flushed -> atomic { tlb = false; flushed = g }
    :: else
    fi;
    i = 0;
    do
    :: !kicked && i < 3 ->
      atomic {
        if
        :: tlb -> assert(!promised)
        :: !tlb && present -> tlb = true
        :: else
        fi
      }
      i++
    :: kicked || i == 3 -> break
    od;
    atomic { kicked = false; in_guest = false }
  }
}

proctype Zap() {
  byte mine;
  enter_section();
  present = false;
#ifdef ADVANCE_OUTSIDE
  leave_section();
  advance(mine);
#else
  advance(mine);
  leave_section();
#endif
  settle(mine)
}

proctype Narrow() {
  byte mine;
#ifndef UNANNOUNCED
  narrowings++;
#endif
  enter_section();
  present = false;
  leave_section();
#ifdef ANNOUNCED_SHORTLY
  narrowings--;
#endif
  advance(mine);
#ifndef UNANNOUNCED
#ifndef ANNOUNCED_SHORTLY
  narrowings--;
#endif
#endif
  settle(mine)
}

proctype Promise() {
  byte mine;
  bool found;
  enter_section();
  atomic { found = present; present = false };
  if
  :: found -> advance(mine)
#ifdef FOUND_NOTHING
  :: else -> mine = 0
#else
  :: else ->
    if
    :: narrowings != 0 -> advance(mine)
    :: else -> mine = generation
    fi
#endif
  fi;
  leave_section();
  settle(mine);
  promised = true
}

init {
  atomic {
    run Vcpu();
    if
    :: run Zap()
    :: run Narrow()
    fi;
    run Promise()
  }
}
