/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* The change sequence (docs/locking.md): a fault that resolves its page before its section,
 * beside the deletion of its slot and a host invalidation that puts another page there.
 *
 * Holds: once a deletion has returned nothing is mapped; between the begin and the end of an
 * invalidation nothing is mapped, and afterwards nothing but the new page.
 * Wrong, and shown to fail:
 *   SLOT_FIRST     the slot is read before the sequence
 *   LOOK_OUTSIDE   the sequence is compared before the section is entered
 *   NO_PROGRESS    an invalidation under way is not looked at
 *   END_UNMOVED    the end of an invalidation does not move the sequence
 */

byte sequence;
bool in_progress;
bool slot = true;
byte host_page;        /* 0 before the invalidation, 1 after */
bool mapped;
byte mapped_page;
bool deleted;          /* the deletion has returned */
byte invalidation;     /* 1: begin has returned, 2: end has returned */

byte readers;
bool writing;

#define ENTER   atomic { !writing; readers++ }
#define LEAVE   readers--
#define BEGIN_WRITE atomic { !writing && readers == 0; writing = true }
#define END_WRITE   writing = false

#define CHECK assert(!(deleted && mapped)); \
              assert(!(invalidation == 1 && mapped)); \
              assert(!(invalidation == 2 && mapped && mapped_page != 1))

#ifdef NO_PROGRESS
#define MOVED (sequence != then)
#else
#define MOVED (sequence != then || in_progress)
#endif

proctype Fault() {
  byte then, page, tries;
  bool found, moved;
  for (tries : 1 .. 2) {
#ifdef SLOT_FIRST
    found = slot;
    then = sequence;
#else
    then = sequence;
    found = slot;
#endif
    if
    :: found ->
      page = host_page;
#ifdef LOOK_OUTSIDE
      moved = MOVED;
      ENTER;
#else
      ENTER;
      moved = MOVED;
#endif
      if
      :: !moved && !mapped -> atomic { mapped = true; mapped_page = page; CHECK }
      :: else
      fi;
      LEAVE
    :: else
    fi
  }
}

proctype Delete() {
  slot = false;                                   /* publish */
  BEGIN_WRITE; sequence++; END_WRITE;
  BEGIN_WRITE; mapped = false; END_WRITE;
  atomic { deleted = true; CHECK }
}

proctype Invalidate() {
  BEGIN_WRITE; in_progress = true; mapped = false; END_WRITE;
  atomic { invalidation = 1; CHECK }
  host_page = 1;
  atomic { invalidation = 0 }                     /* the end is under way: faults may map again */
  BEGIN_WRITE;
#ifndef END_UNMOVED
  sequence++;
#endif
  in_progress = false;
  END_WRITE;
  atomic { invalidation = 2; CHECK }
}

init {
  atomic { run Fault(); run Fault(); run Delete(); run Invalidate() }
}
