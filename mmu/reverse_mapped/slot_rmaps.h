// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The reverse maps of an address space's slots, found by frame.

#ifndef TDP_MMU_REVERSE_MAPPED_SLOT_RMAPS_H_
#define TDP_MMU_REVERSE_MAPPED_SLOT_RMAPS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/sync/section_checks.h"
#include "tdp/rmap/slot_rmap.h"

namespace tdp {

// Holds the reverse maps. `Set` belongs under the writer's side of `MmuLock`; the rest on either
// side.
class SlotRmaps {
 public:
  // Puts `rmap` (null: none) in the place of slot `id`.
  void Set(uint32_t id, std::shared_ptr<SlotRmap> rmap) {
    AssertWriting();
    std::erase_if(slots_, [id](const Slot& slot) { return slot.id == id; });
    if (id >= by_id_.size()) by_id_.resize(id + 1);
    by_id_[id] = rmap.get();
    if (rmap == nullptr) return;
    const auto at =
        std::upper_bound(slots_.begin(), slots_.end(), rmap->base(),
                         [](Gfn base, const Slot& slot) { return base < slot.rmap->base(); });
    slots_.insert(at, Slot{id, std::move(rmap)});
  }

  // Returns the reverse map of the slot that holds `gfn`; null if there is none.
  const std::shared_ptr<SlotRmap>& Of(Gfn gfn) const {
    const auto after =
        std::upper_bound(slots_.begin(), slots_.end(), gfn,
                         [](Gfn g, const Slot& slot) { return g < slot.rmap->base(); });
    if (after == slots_.begin() || gfn >= std::prev(after)->rmap->end()) return none_;
    return std::prev(after)->rmap;
  }

  // Returns the reverse map of slot `id`, if there is one and it holds `gfn`; else null.
  SlotRmap* OfSlot(uint32_t id, Gfn gfn) const {
    SlotRmap* rmap = id < by_id_.size() ? by_id_[id] : nullptr;
    return rmap != nullptr && gfn >= rmap->base() && gfn < rmap->end() ? rmap : nullptr;
  }

  // Calls `visit(level, gfn, head)` for each head that is not empty and whose leaves touch
  // [first, end); `gfn` is the first frame of the leaf.
  template <typename Visit>
  void ForEachHead(Gfn first, Gfn end, Visit visit) const {
    for (const Slot& slot : slots_) {
      const Gfn from = std::max(first, slot.rmap->base());
      const Gfn to = std::min(end, slot.rmap->end());
      if (from >= to) continue;
      for (Level level = kLevel4K; level <= kLevel1G; level = level.above()) {
        slot.rmap->ForEach(level, from, to,
                           [&](Gfn gfn, RmapHead& head) { visit(level, gfn, head); });
      }
    }
  }

  size_t bytes() const {
    size_t bytes = 0;
    for (const Slot& slot : slots_) bytes += slot.rmap->bytes();
    return bytes;
  }

 private:
  struct Slot {
    uint32_t id;
    std::shared_ptr<SlotRmap> rmap;
  };
  std::vector<Slot> slots_;       // by frame
  std::vector<SlotRmap*> by_id_;  // the same
  const std::shared_ptr<SlotRmap> none_;
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_SLOT_RMAPS_H_
