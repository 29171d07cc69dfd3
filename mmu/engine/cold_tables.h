// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Takes tables back that the guest does not use, when there are no others (KVM's
// kvm_mmu_zap_oldest_mmu_pages does it for its quota, oldest first).
//
// A clock with a second chance: a hand goes round over the tables, of every view, that have no
// tables below. One whose link has A was used since the hand was here last; it loses the A and
// stays. One without is taken away like any mapping, and the guest faults it in again. No flush
// follows the clearing of A: a CPU that has the link cached may keep a table looking cold that is
// not, which costs a few faults. A link's A bit is the harvest's guide too, so what is cleared here
// is noted there for it (`EptEntry::WithAccessedTaken`). Without A bits every table is cold, and
// the hand alone decides.

#ifndef TDP_MMU_ENGINE_COLD_TABLES_H_
#define TDP_MMU_ENGINE_COLD_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/flush_clock.h"

namespace tdp {

class DirectMmu;
class Engine;
class TableCache;

// Frames of one address space, in all of its views.
struct SpaceRange {
  AddressSpaceId space = 0;
  FrameRange frames{Gfn(0), Gfn(0)};
};

// Finds and takes cold tables. Thread-safe; one thread at a time moves the hand. None holds a lock
// while it waits for vCPUs.
class ColdTables {
 public:
  explicit ColdTables(Engine& engine) : engine_(engine) {}
  ColdTables(const ColdTables&) = delete;
  ColdTables& operator=(const ColdTables&) = delete;

  // Gives back what is kept for zaps, or else takes at least `wanted` cold tables away, if there
  // are as many, and waits for the flush. Tables that map a frame of `spared` stay. Returns how
  // many came back to the pool; 0 if nothing is left to take. Hold no lock.
  size_t Run(size_t wanted, const SpaceRange& spared = {}) ABSL_LOCKS_EXCLUDED(mutex_);

  // Puts at least one table into the empty `cache`: one that is free, else one that is cold and
  // maps nothing of `spared`, the frames that the caller is splitting leaves of. Without the
  // exception a split of more than the quota holds would undo its own beginning. ResourceExhausted
  // if there is neither. Hold no lock; may call the backend.
  absl::Status Stock(TableCache& cache, const SpaceRange& spared) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  PendingFlush TakeVictims(size_t wanted, const SpaceRange& spared) ABSL_LOCKS_EXCLUDED(mutex_);
  const DirectMmu& mmu() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GoToNextView() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Gather(size_t wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GoRound() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GoOn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsSpared(FrameRange frames) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Judge(EntryRef link, EptEntry value, FrameRange frames)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Engine& engine_;
  Mutex mutex_;
  // These are the hand: the next frame to look at, and in which view.
  AddressSpaceId space_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t view_ ABSL_GUARDED_BY(mutex_) = 0;
  Gfn hand_ ABSL_GUARDED_BY(mutex_);
  std::vector<FrameRange> victims_ ABSL_GUARDED_BY(mutex_);  // of that view
  size_t wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  SpaceRange spared_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_COLD_TABLES_H_
