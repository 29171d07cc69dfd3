// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How the pages that a guest has written are shown and named: by bitmap, by range and by ring.

#ifndef TDP_MEMSLOT_DIRTY_PAGES_H_
#define TDP_MEMSLOT_DIRTY_PAGES_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "tdp/memslot/memory_region.h"

namespace tdp {

// Receives the dirty pages of a slot a word at a time: page `base + i` of the slot for every bit i
// of `mask`. `base` is a multiple of 64, `mask` is not 0, and bases ascend.
using DirtyPageVisitor = absl::FunctionRef<void(uint64_t base, uint64_t mask)>;

// A range of pages of a slot, by index, to be taken out of its dirty log.
struct DirtyLogRange {
  uint64_t first_page = 0;  // a multiple of 64
  uint64_t num_pages = 0;   // a multiple of 64, or up to the end of the slot
};

// Flags of manual dirty log protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
inline constexpr uint64_t kDirtyLogManualProtect = 1;
inline constexpr uint64_t kDirtyLogInitiallySet = 2;

// Names a page that was written.
struct DirtyRingEntry {
  AddressSpaceId address_space = 0;
  uint32_t slot = 0;
  uint64_t index = 0;  // of the page, in the slot

  friend constexpr bool operator==(const DirtyRingEntry&, const DirtyRingEntry&) = default;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_DIRTY_PAGES_H_
