// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Collapsing what can be collapsed in a range of frames.

#ifndef TDP_MMU_ENGINE_RANGE_COLLAPSE_H_
#define TDP_MMU_ENGINE_RANGE_COLLAPSE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/collapse.h"
#include "tdp/mmu/tables/range_walk.h"

namespace tdp {

// Asks the host and slots as a fault does, changes tables in short writer's sections, and pays for
// the flush itself, since only after it are A and D bits final. One thread uses it, which holds no
// lock.
class RangeCollapse {
 public:
  RangeCollapse(Engine& engine, AddressSpaceId space, View& view)
      : engine_(engine),
        mmu_(view.mmu()),
        policy_(view.policy()),
        space_(space),
        slots_(engine.slots()),
        walk_(mmu_, engine.mmu_lock()),
        reader_(engine.mmu_lock()) {}

  // Collapses the tables of leaves below `level` (2 or 3) that lie wholly inside `range`. Returns
  // how many became a leaf.
  uint64_t Run(FrameRange range, Level level);

 private:
  struct Candidate {
    Collapse collapse;
    MemorySlot slot;
    Backing backing;
    HostPage page;
    uint64_t sequence;
  };

  Gfn Gather(FrameRange range, Level level);
  void AddCandidate(Gfn base, Level level);
  std::optional<Backing> BackingOf(const MemorySlot& slot, Gfn base, uint64_t sequence);
  uint64_t Finish(Level level);
  bool IsCurrent(const Candidate& candidate, Level level) const;
  void AddLateBits(const Candidate& candidate);

  Engine& engine_;
  DirectMmu& mmu_;
  const LeafPolicy& policy_;
  const AddressSpaceId space_;
  SlotReader slots_;
  RangeWalk walk_;
  MmuLock::Reader reader_;
  std::vector<Gfn> found_;
  std::vector<Candidate> candidates_;
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_RANGE_COLLAPSE_H_
