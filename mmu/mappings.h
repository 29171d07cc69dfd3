// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what the tables map, as `Vm::Translate` and `Vm::VisitLeaves` show it.

#ifndef TDP_MMU_MAPPINGS_H_
#define TDP_MMU_MAPPINGS_H_

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"

namespace tdp {

// Says what a lookup of one guest frame found.
struct Translation {
  EptEntry entry;
  Level level = kLevel4K;
  Access access;  // the AND over the whole walk; empty where nothing is mapped
  bool is_mapped() const { return entry.kind(level) == EntryKind::kLeaf; }
  // Returns the host frame of `gfn`, which is the frame that the lookup was for.
  Hfn FrameOf(Gfn gfn) const {
    return entry.frame() + PageCount(gfn.raw() & (level.pages().raw() - 1));
  }
};

// Leaves of one size, contiguous in guest frames and in host frames, with the same rights, memory
// type, and A and D bits.
struct LeafRun {
  Gfn gfn;                 // the first guest frame
  PageCount pages;         // 4 KiB each, whatever the leaves' size
  Hfn hfn;                 // the host frame of `gfn`
  Level level = kLevel4K;  // of each leaf
  Access access;           // what the walk allows: the AND over all levels
  MemoryType memory_type = MemoryType::kWriteBack;
  bool ignore_pat = false;
  bool accessed = false;  // both false where the VM uses no A and D bits
  bool dirty = false;

  friend constexpr bool operator==(const LeafRun&, const LeafRun&) = default;
};

}  // namespace tdp

#endif  // TDP_MMU_MAPPINGS_H_
