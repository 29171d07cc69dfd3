// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest kernel's single mappings are here, and its large ones.

#include "tests/kernel/guest_kernel.h"

namespace tdp::kernel {

TableWalk GuestKernel::Find(int space, int page) {
  return tables_.Walk(RootOf(space), layout_.AddressOf(page));
}

std::optional<uint64_t> GuestKernel::EntryFor(int space, uint64_t gva, int level) {
  bool made_pdpte = false;
  const std::optional<uint64_t> at = tables_.EntryFor(RootOf(space), gva, level, made_pdpte);
  if (made_pdpte) shootdown_.Root(space, RootOf(space));
  return at;
}

void GuestKernel::Flush(int space, int page) {
  if (GuestLayout::IsKernel(page)) {
    shootdown_.KernelPage(layout_.AddressOf(page));
  } else {
    shootdown_.Page(space, layout_.AddressOf(page));
  }
}

void GuestKernel::FlushRegion(int space, int region) {
  for (int page = region * kPagesInRegion; page < (region + 1) * kPagesInRegion; ++page) {
    Flush(space, page);
  }
}

// Stores `value` into the leaf and tells the CPUs if they may have something cached that is wrong
// now: rights that were given are found out by a fault.
void GuestKernel::Replace(int space, int page, const TableWalk& at, uint64_t value) {
  constexpr uint64_t kTaken = kPresent | kWritable | kUser | kAccessed | kDirty;
  constexpr uint64_t kGiven = kNoExecute | kReservedBit;
  tables_.WriteEntry(at.entry_at, value);
  const bool owed =
      at.present() && (((at.entry ^ value) & kFrame) != 0 || (at.entry & ~value & kTaken) != 0 ||
                       (value & ~at.entry & kGiven) != 0);
  if (!owed) return;
  if (at.level > 1) {
    shootdown_.LargePage(space, layout_.AddressOf(page));
  } else {
    Flush(space, page);
  }
}

uint64_t GuestKernel::LeafBits(int page, uint16_t how) const {
  const bool is_kernel = GuestLayout::IsKernel(page);
  const bool seldom = (how & 0xc) == 0xc;  // the other's right to use it
  uint64_t bits = kPresent;
  if ((how & 1) != 0) bits |= kWritable;
  if ((how & 2) != 0 && shape_.has_no_execute()) bits |= kNoExecute;
  if (is_kernel == seldom) bits |= kUser;
  if (is_kernel && features_.global_pages) bits |= kGlobal;
  if ((how & 0x10) != 0) bits |= kAccessed;
  if ((how & 0x30) == 0x30) bits |= kDirty;
  return bits;
}

void GuestKernel::FillPage(uint64_t gpa) {
  for (int word = 0; word < kWordsInPage; ++word) {
    tables_.WriteWord(gpa + GuestLayout::WordAt(word), next_value_++);
  }
}

void GuestKernel::CopyPage(uint64_t from, uint64_t to) {
  for (int word = 0; word < kWordsInPage; ++word) {
    const uint64_t offset = GuestLayout::WordAt(word);
    tables_.WriteWord(to + offset, tables_.ReadWord(from + offset));
  }
}

std::optional<uint64_t> GuestKernel::NewDataFrame() {
  const std::optional<uint64_t> frame = pool_.AllocateData();
  if (frame.has_value()) FillPage(*frame);
  return frame;
}

void GuestKernel::Map(int space, int page, uint16_t how, std::optional<uint64_t> shared_frame) {
  const std::optional<uint64_t> at = EntryFor(space, layout_.AddressOf(page), 1);
  if (!at.has_value()) return;
  const std::optional<uint64_t> frame = shared_frame.has_value() ? shared_frame : NewDataFrame();
  if (!frame.has_value()) return;
  if (shared_frame.has_value()) pool_.Ref(*frame);
  const TableWalk walk = Find(space, page);
  Replace(space, page, walk, *frame | LeafBits(page, how));
  if (walk.present()) Unref(walk.entry & kFrame);
}

void GuestKernel::Share(int space, int page, int with, uint16_t how) {
  const TableWalk walk = Find(space, with);
  if (with == page || !walk.present() || walk.level > 1) return;
  Map(space, page, how, walk.entry & kFrame);
}

void GuestKernel::Unmap(int space, int page, bool and_table) {
  const TableWalk walk = Find(space, page);
  if (!walk.present()) return;
  Replace(space, page, walk, 0);
  Unref(walk.entry & kFrame);
  if (and_table && !GuestLayout::IsKernel(page)) {
    DropEmptyTable(space, GuestLayout::RegionOf(page));
  }
}

void GuestKernel::DropEmptyTable(int space, int region) {
  const TableWalk walk = tables_.WalkTo(RootOf(space), layout_.RegionAt(region), 2);
  if (walk.level != 2 || !walk.present() || (walk.entry & kLarge) != 0) return;
  if (!IsEmpty(walk.entry & kFrame, 1)) return;
  tables_.WriteEntry(walk.entry_at, 0);
  shootdown_.LargePage(space, layout_.RegionAt(region));
  pool_.FreeTable(walk.entry & kFrame);
}

void GuestKernel::Protect(int space, int page, uint16_t how) {
  constexpr uint64_t kKept = kFrame | kLarge | kReservedBit;
  const TableWalk walk = Find(space, page);
  if (!walk.present() || (walk.entry & kCopyOnWrite) != 0) return;
  Replace(space, page, walk, (walk.entry & kKept) | LeafBits(page, how));
}

void GuestKernel::ProtectTable(int space, int page, uint16_t how) {
  if (GuestLayout::IsKernel(page)) return;
  const int region = GuestLayout::RegionOf(page);
  const TableWalk walk = tables_.WalkTo(RootOf(space), layout_.RegionAt(region), 2);
  if (walk.level != 2 || !walk.present() || (walk.entry & kLarge) != 0) return;
  const uint64_t changed = walk.entry ^ (how % 3 == 0 ? kUser : kWritable);
  tables_.WriteEntry(walk.entry_at, changed);
  if ((walk.entry & ~changed) != 0) FlushRegion(space, region);
}

void GuestKernel::ClearUse(int space, int page) {
  const TableWalk walk = Find(space, page);
  if (walk.present()) Replace(space, page, walk, walk.entry & ~(kAccessed | kDirty));
}

void GuestKernel::Poison(int space, int page) {
  const TableWalk walk = Find(space, page);
  if (!walk.present() || walk.level > 1 || !shape_.has_no_execute()) return;
  Replace(space, page, walk, walk.entry ^ kReservedBit);
}

void GuestKernel::Flip(int space, int page) {
  if (GuestLayout::IsKernel(page)) return;
  const int region = GuestLayout::RegionOf(page);
  const TableWalk walk = tables_.WalkTo(RootOf(space), layout_.RegionAt(region), 2);
  if (walk.level != 2 || !walk.present()) return;
  if ((walk.entry & kLarge) != 0) {
    Split(space, region, walk);
  } else {
    Collapse(space, region, walk);
  }
}

// Maps the pages of a large entry by small ones.
void GuestKernel::Split(int space, int region, const TableWalk& large) {
  const std::optional<uint64_t> table = pool_.AllocateTable();
  if (!table.has_value()) return;
  const int first = region * kPagesInRegion;
  for (int page = first; page < first + kPagesInRegion; ++page) {
    const uint64_t entry = (large.entry & ~kLarge) + layout_.OffsetInRegion(page);
    tables_.WriteEntry(shape_.EntryAt(*table, layout_.AddressOf(page), 1), entry);
  }
  pool_.Ref(large.entry & kFrame, kPagesInRegion);
  tables_.WriteEntry(large.entry_at, *table | kPresent | kWritable | kUser);
  shootdown_.LargePage(space, layout_.RegionAt(region));
  Unref(large.entry & kFrame);
  ++flips_;
}

// Copies all pages into one block; those that were not there get something new.
void GuestKernel::Collapse(int space, int region, const TableWalk& table) {
  const std::optional<uint64_t> block = pool_.AllocateBlock();
  if (!block.has_value()) return;
  std::vector<TableWalk> old;
  const int first = region * kPagesInRegion;
  for (int page = first; page < first + kPagesInRegion; ++page) {
    const uint64_t to = *block + layout_.OffsetInRegion(page);
    const TableWalk walk = Find(space, page);
    if (walk.present()) {
      CopyPage(walk.entry & kFrame, to);
      old.push_back(walk);
    } else {
      FillPage(to);
    }
  }
  tables_.WriteEntry(table.entry_at, 0);
  FlushRegion(space, region);
  for (const TableWalk& walk : old) {
    tables_.WriteEntry(walk.entry_at, 0);
    Unref(walk.entry & kFrame);
  }
  pool_.FreeTable(table.entry & kFrame);
  tables_.WriteEntry(table.entry_at, *block | kLarge | kPresent | kWritable | kUser);
  ++flips_;
}

}  // namespace tdp::kernel
