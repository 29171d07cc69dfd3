// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The eager form of what write faults do to a slot that logs dirty pages.

#ifndef TDP_MMU_ENGINE_DIRTY_PUSH_H_
#define TDP_MMU_ENGINE_DIRTY_PUSH_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Moves the protection of a logging slot down to its 4 KiB pages, and splits its large leaves for
// that; faults go on meanwhile. It works in turns: a turn takes the tables that it needs with no
// lock held, since the backend may be asked for them, and goes on where the last one ended, under
// the slots mutex, as far as they last.
class DirtyPush {
 public:
  DirtyPush(Engine& engine, AddressSpaceId space);

  // Takes tables for the next turn; where the last one ran out of them, also from frames that the
  // guest has not used. ResourceExhausted if there are none; what is done is consistent, and the
  // next push goes on. Hold no lock.
  absl::Status Stock();
  // Does one turn, under the slots mutex, in `slot` as it is now: if that is another than in the
  // last turn, or a slot has begun to log since, this one begins anew. Returns whether all is done.
  // ResourceExhausted without memory for the log.
  absl::StatusOr<bool> Run(const MemorySlot& slot);

 private:
  absl::Status RunIn(DirectMmu& mmu);
  absl::Status MakeRoom(Gfn gfn) const;

  Engine& engine_;
  const AddressSpaceId space_;
  MmuLock::Reader reader_;
  TableCache tables_;
  FrameRange frames_{Gfn(0), Gfn(0)};  // of the slot in the last turn
  uint64_t logs_begun_ = 0;            // by then: what has begun to log anew is protected again
  MemorySlot slot_;                    // of this turn
  size_t views_done_ = 0;
  Gfn next_;               // in the view after those
  bool is_short_ = false;  // the last turn ended for want of tables
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_DIRTY_PUSH_H_
