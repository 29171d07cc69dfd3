// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Counts the sections of `MmuLock` that each thread is in, so that a class that knows no lock can
// ask whether its caller is in one. In builds with checks; others count nothing and ask nothing.

#ifndef TDP_MMU_SYNC_SECTION_CHECKS_H_
#define TDP_MMU_SYNC_SECTION_CHECKS_H_

#include "tdp/base/check.h"

namespace tdp {

// Nothing is asked in builds of the explorer, whose threads are fibers, and to which a look at a
// lock would be a step of the schedule; nor on a bare machine, which may have no thread-locals.
#if !defined(NDEBUG) && !defined(TDP_EXPLORE) && !defined(TDP_FREESTANDING)
inline constexpr bool kAsksSections = true;

// Counts those of every lock.
struct SectionsOfThread {
  int readers = 0;
  int writers = 0;
};
inline thread_local SectionsOfThread sections_of_thread;

inline void NoteReader(int change) { sections_of_thread.readers += change; }
inline void NoteWriter(int change) { sections_of_thread.writers += change; }

// Each asserts that the thread is in a section of some lock: of either side, or of the writer's.
inline void AssertInSection() {
  TDP_DCHECK(sections_of_thread.readers + sections_of_thread.writers != 0);
}
inline void AssertWriting() { TDP_DCHECK(sections_of_thread.writers != 0); }
#else
inline constexpr bool kAsksSections = false;
inline void NoteReader(int) {}
inline void NoteWriter(int) {}
inline void AssertInSection() {}
inline void AssertWriting() {}
#endif

}  // namespace tdp

#endif  // TDP_MMU_SYNC_SECTION_CHECKS_H_
