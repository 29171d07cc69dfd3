// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One kind of tables that map frames of an address space, as structural operations see it.
//
// `AddressSpace` has one kind or two (direct tables and those of nested guests), and each operation
// of `Vm` is a loop over them. Faults do not come this way: they know the kind they are about.

#ifndef TDP_MMU_SPACE_MAPPED_TABLES_H_
#define TDP_MMU_SPACE_MAPPED_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/policy/memory_quotas.h"
#include "tdp/mmu/space/logging_slots.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"
#include "tdp/rmap/slot_rmap.h"

namespace tdp {

// The parts of a `Vm`'s MMU that all kinds of tables share. They outlive the tables.
struct MmuParts {
  const SlotSet& slots;
  MmuLock& mmu_lock;
  TablePool& pool;
  FlushClock& clock;
  const LoggingSlots& logging;
  Counter& zaps;  // counted inside a writer's section
};

enum class AgeMode : uint8_t {
  kMakeOld,
  kTest,  // changes nothing
};

// Tells what aging has come to so far.
struct Aged {
  bool young = false;        // the guest has used some page since it was last aged
  bool took_rights = false;  // the flush for that is the caller's
  PendingFlush flush;        // for what was taken away, with the section that did
};

class MappedTables {
 public:
  virtual ~MappedTables() = default;

  // --- Inside a writer's section ---

  // Takes every mapping of `range` away, whole tables to `detached`. A large leaf that reaches over
  // an end is split with a table of `spare`, or goes as a whole. Returns whether anything was
  // there.
  virtual bool Detach(FrameRange range, TableCache& spare, TableList& detached) = 0;
  // Takes every entry away that remembers a frame without memory, and all other mappings with them,
  // in a time that does not depend on their number. Returns whether anything was there.
  virtual bool DetachMmio(TableList& detached);
  // Takes the mappings of a slot away in those tables that let the guest hear of violations, since
  // only those of a slot that does not log may raise #VE. Returns whether anything was there.
  virtual bool DetachRaising(FrameRange slot, TableList& detached);
  // Takes W from `range`. Returns whether anything had it.
  virtual bool WriteProtect(FrameRange range) = 0;
  // Puts `rmap` (null: none) in the place of slot `slot`, of which nothing is mapped.
  virtual void SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap);
  // Returns Internal, saying what does not hold, of what this kind keeps beside the tables of
  // views.
  virtual absl::Status CheckInvariants() const;

  // --- Inside a reader's section ---

  // Makes the next write of the frames `base` + i, for every bit i of `mask`, noticed again. Under
  // a `FlushClock::Narrowing`.
  virtual void NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) = 0;

  // --- With no lock held: these have sections of their own ---

  // Makes what `range` maps old, under a `FlushClock::Narrowing`, or asks how old it is.
  virtual void Age(FrameRange range, AgeMode mode, Aged& aged) = 0;
  // Takes every mapping away at a cost that does not depend on their number.
  virtual PendingFlush ZapAll() = 0;
  // Calls `push` for each set of tables where the write-protection of a log waits above the pages.
  virtual absl::Status PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)> push);

  // --- Shadow pages; kinds that have none do nothing ---

  // Zaps the oldest pages, up to `count`, and settles the flush. Returns how many they were.
  virtual size_t ZapOldest(size_t count);
  // Zaps the oldest pages beyond the quota, and settles the flush.
  virtual void TrimToQuota();
  // Says in `quotas` that there are shadow pages, before any is made.
  virtual void AddNeeds(MemoryQuotas& quotas) const;
  // Lets the quota follow `quotas` from here on.
  virtual void SetQuota(const MemoryQuotas& quotas);
  // Returns how many tables shadow pages take, data included. Any thread may ask.
  virtual size_t shadow_table_count() const;
  // Adds what these tables have counted. Any thread may call it.
  virtual void AddTo(ShadowStats& stats) const;
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_MAPPED_TABLES_H_
