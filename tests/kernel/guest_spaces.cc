// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest kernel's address spaces are made, forked and destroyed here.

#include "tests/kernel/guest_kernel.h"

namespace tdp::kernel {

bool GuestKernel::Create(int space) {
  if (IsLive(space)) return false;
  const std::optional<uint64_t> root = pool_.AllocateTable();
  if (!root.has_value()) return false;
  for (const auto& [offset, value] : kernel_roots_) tables_.WriteEntry(*root + offset, value);
  spaces_[static_cast<size_t>(space)] = {true, *root};
  shootdown_.Space(space);
  return true;
}

void GuestKernel::Destroy(int space) {
  if (!IsLive(space) || space == 0) return;
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    if (shootdown_.current(cpu) == space) shootdown_.Switch(cpu, 0, RootOf(0));
  }
  for (int region = 0; region < kUserRegions; ++region) ClearRegion(space, region);
  for (int region = 0; region < kUserRegions; ++region) FreeTables(space, region);
  const uint64_t root = RootOf(space);
  for (const auto& [offset, value] : kernel_roots_) tables_.WriteEntry(root + offset, 0);
  pool_.FreeTable(root);
  spaces_[static_cast<size_t>(space)] = {};
  shootdown_.Space(space);
}

// Takes every page of it away. No CPU runs `space`.
void GuestKernel::ClearRegion(int space, int region) {
  for (int page = region * kPagesInRegion; page < (region + 1) * kPagesInRegion; ++page) {
    const TableWalk walk = Find(space, page);
    if (!walk.present()) continue;
    tables_.WriteEntry(walk.entry_at, 0);
    Unref(walk.entry & kFrame);
    if (walk.level > 1) return;
  }
}

bool GuestKernel::IsEmpty(uint64_t table, int level) {
  if (level == 1) {
    for (int page = 0; page < kPagesInRegion; ++page) {
      const uint64_t at = shape_.EntryAt(table, layout_.AddressOf(page), 1);
      if ((tables_.ReadEntry(at) & kPresent) != 0) return false;
    }
    return true;
  }
  for (int region = 0; region < kUserRegions; ++region) {
    const uint64_t at = shape_.EntryAt(table, layout_.RegionAt(region), level);
    if ((tables_.ReadEntry(at) & kPresent) != 0) return false;
  }
  return true;
}

// Frees the tables on the way to `region` that are empty, from the lowest up to the root.
void GuestKernel::FreeTables(int space, int region) {
  const uint64_t gva = layout_.RegionAt(region);
  const int top = shape_.is_pae() ? 3 : shape_.levels;
  for (int level = 2; level <= top && referee_.ok(); ++level) {
    const TableWalk walk = tables_.WalkTo(RootOf(space), gva, level);
    if (!walk.present() || walk.level != level) continue;
    if (!IsEmpty(walk.entry & kFrame, level - 1)) return;
    tables_.WriteEntry(walk.entry_at, 0);
    pool_.FreeTable(walk.entry & kFrame);
  }
}

void GuestKernel::Fork(int from, int to) {
  if (!IsLive(from) || !Create(to)) return;
  for (int region = 0; region < kUserRegions && referee_.ok(); ++region) {
    ForkRegion(from, to, region);
  }
}

void GuestKernel::ForkRegion(int from, int to, int region) {
  for (int page = region * kPagesInRegion; page < (region + 1) * kPagesInRegion; ++page) {
    const TableWalk walk = Find(from, page);
    if (!walk.present()) continue;
    ForkEntry(from, to, page, walk);
    if (walk.level > 1) return;
  }
}

// Gives both the page read-only, to be copied at the first write.
void GuestKernel::ForkEntry(int from, int to, int page, const TableWalk& walk) {
  const std::optional<uint64_t> copy = EntryFor(to, layout_.AddressOf(page), walk.level);
  if (!copy.has_value()) return;
  uint64_t shared = walk.entry;
  if ((shared & kWritable) != 0) {
    shared = (shared & ~kWritable) | kCopyOnWrite;
    Replace(from, page, walk, shared);
  }
  pool_.Ref(walk.entry & kFrame);
  tables_.WriteEntry(*copy, shared & ~(kAccessed | kDirty));
}

// Flushes everything. Afterwards nobody remembers anything, so frames may change what they are.
void GuestKernel::FlushAll(unsigned how) {
  shootdown_.Use(false, how);
  shootdown_.Everything();
  std::vector<uint64_t> became_data;
  const std::vector<uint64_t> became_tables = pool_.AfterFullFlush(became_data);
  for (const uint64_t frame : became_tables) {
    for (int word = 0; word < kWordsInPage; ++word) {
      tables_.WriteWord(frame + GuestLayout::WordAt(word), 0);
    }
    referee_.SetTable(frame, true);
  }
  for (const uint64_t frame : became_data) referee_.SetTable(frame, false);
}

}  // namespace tdp::kernel
