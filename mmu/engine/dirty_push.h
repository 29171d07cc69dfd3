// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The eager form of what write faults do to a slot that logs dirty pages.

#ifndef TDP_MMU_ENGINE_DIRTY_PUSH_H_
#define TDP_MMU_ENGINE_DIRTY_PUSH_H_

#include "absl/status/status.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Moves the protection of a logging slot down to its 4 KiB pages, and splits its large leaves for
// that. Under the slots mutex; faults go on meanwhile.
class DirtyPush {
 public:
  DirtyPush(Engine& engine, const MemorySlot& slot);

  // ResourceExhausted without memory for tables or log; everything is consistent then, and the next
  // call goes on.
  absl::Status Run();

 private:
  absl::Status RunIn(DirectMmu& mmu);
  absl::Status MakeRoom(Gfn gfn);

  Engine& engine_;
  const MemorySlot slot_;
  MmuLock::Reader reader_;
  TableCache tables_;
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_DIRTY_PUSH_H_
