// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Does `Vm::Apply`: several changes, prepared one after the other and made together.

#ifndef TDP_MMU_VM_BATCH_H_
#define TDP_MMU_VM_BATCH_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "tdp/memslot/slot_batch.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/policy/view_rules.h"
#include "tdp/mmu/vm/change.h"
#include "tdp/mmu/vm/view_change.h"

namespace tdp {

// Collects changes. One thread uses it, under the slots mutex. Destroyed without `Commit` it has
// changed nothing.
class Batch {
 public:
  explicit Batch(Engine& engine) : engine_(engine), slots_(engine.slots()) {}

  // Checks `change` as its call of `Vm` does, as if everything that was added before were so
  // already, builds what it needs, and returns its errors. Nothing counts yet. After an error
  // nothing more is added.
  absl::Status Add(const Change& change);

  // Makes the changes: in one writer's section all that is taken away, and one flush, which is made
  // before slots that are new show. Cannot fail.
  void Commit();

 private:
  struct ViewPart {
    AddressSpaceId space;
    ViewChange change;
  };
  struct Zap {
    AddressSpaceId space;
    FrameRange range;
  };
  struct Rmap {
    AddressSpaceId space;
    uint32_t slot;
    std::shared_ptr<SlotRmap> rmap;  // null: the slot goes
  };

  absl::Status AddRegion(const MemoryRegion& region);
  absl::Status AddViewPart(const Change& change);
  absl::Status AddAttributes(const Change& change);
  bool TakesSlotsAway() const;
  void ChangeQuotas(bool add);
  void TakeAway();
  bool DetachAll(TableCache& spare, TableList& detached);
  bool ProtectForLogs(TableList& detached);
  void ShowSlots();

  Engine& engine_;
  SlotBatch slots_;
  std::vector<Rmap> rmaps_;
  std::vector<ViewPart> views_;
  std::vector<Zap> zaps_;
  std::vector<FrameRange> attributes_;            // frames whose attribute changes
  std::unique_ptr<const PrivateFrames> private_;  // null: none does
};

}  // namespace tdp

#endif  // TDP_MMU_VM_BATCH_H_
