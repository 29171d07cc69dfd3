/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */

/* What a take of a log promises of earlier writes, by write-protection and PML (docs/locking.md,
 * "Dirty logging"): a fault makes a page writable and then marks it; another CPU walks between the
 * two and writes; a thread takes the log.
 *
 * Holds: a take shows the page if a write to it was over before the take began.
 * Wrong, and shown to fail:
 *   NO_WAIT   the take does not wait for faults that are inside a section
 */

#define FAULTS 2
#define WRITES 2
#define TAKES 3

bool in_section, writer;
bool writable, marked;
bool unshown;  /* a write that no take has shown */

proctype Fault() {
  byte i;
  for (i : 1 .. FAULTS) {
    atomic { !writer -> in_section = true }
    writable = true;
    marked = true;
    in_section = false
  }
}

/* It keeps no translation: the flush of a take is another model's. */
proctype Cpu() {
  byte i;
  for (i : 1 .. WRITES) {
    if
    :: atomic { writable -> unshown = true }
    :: true
    fi
  }
}

proctype Taker() {
  byte i;
  bool before, word;
  for (i : 1 .. TAKES) {
    before = unshown;
#ifndef NO_WAIT
    writer = true;
    !in_section;
    writer = false;
#endif
    atomic { word = marked; marked = false }
    assert(!before || word);
    if
    :: word -> atomic { writable = false; unshown = false }
    :: else
    fi
  }
}

init {
  atomic { run Fault(); run Cpu(); run Taker() }
}
