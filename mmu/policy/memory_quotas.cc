// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/memory_quotas.h"

#include <algorithm>

#include "tdp/base/level.h"

namespace tdp {

// Returns how many tables map the slot. A table is counted for each slot that it maps a part of.
uint64_t MemoryQuotas::TablesFor(const MemorySlot& slot) const {
  const Gfn last = slot.end() - PageCount(1);
  uint64_t tables = 0;
  for (Level level = kLevel2M; level.raw() <= levels_; level = level.above()) {
    const PageCount pages = level.pages();
    tables += (last.AlignDown(pages) - slot.base.AlignDown(pages)).raw() / pages.raw() + 1;
  }
  return tables;
}

void MemoryQuotas::AddSlot(const MemorySlot& slot) {
  Space& space = spaces_[slot.address_space];
  space.pages += (slot.end() - slot.base).raw();
  space.tables += TablesFor(slot);
}

void MemoryQuotas::RemoveSlot(const MemorySlot& slot) {
  Space& space = spaces_[slot.address_space];
  space.pages -= (slot.end() - slot.base).raw();
  space.tables -= TablesFor(slot);
}

size_t MemoryQuotas::ShadowPages(AddressSpaceId space) const {
  constexpr uint64_t kPagesPerShadow = 50;  // 2 %
  return std::max<size_t>(kLeastShadowPages, spaces_[space].pages / kPagesPerShadow);
}

size_t MemoryQuotas::Tables() const {
  size_t mapping = 0;
  for (int i = 0; i < address_spaces_; ++i) {
    const auto space = static_cast<AddressSpaceId>(i);
    mapping += spaces_[space].tables * spaces_[space].views;
    if (has_shadow_pages_) mapping += ShadowPages(space) * kTablesPerShadowPage;
  }
  return 2 * mapping + kTablesPerVcpu * vcpus_ + kSpareTables;
}

}  // namespace tdp
