// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/guest_tables.h"

namespace tdp::kernel {

MachineAccess GuestTables::Kernel(uint64_t gva, sim::AccessKind kind, uint64_t value) const {
  return {.gva = gva, .kind = kind, .bytes = shape_.entry_bytes, .value = value};
}

uint64_t GuestTables::ReadWord(uint64_t gpa) {
  return referee_.Access(cpu_, Kernel(layout_.DirectMapOf(gpa), sim::AccessKind::kLoad)).value;
}

void GuestTables::WriteWord(uint64_t gpa, uint64_t value) {
  referee_.Access(cpu_, Kernel(layout_.DirectMapOf(gpa), sim::AccessKind::kStore, value));
}

uint64_t GuestTables::ReadEntry(uint64_t gpa) { return ReadWord(gpa); }

void GuestTables::WriteEntry(uint64_t gpa, uint64_t value) {
  if (through_scratch_) {
    WriteThroughScratch(gpa, value);
  } else {
    WriteDirectly(gpa, value);
  }
}

// A 32-bit kernel with 8-byte entries stores them by halves: the one with P last, unless it is
// cleared.
void GuestTables::WriteDirectly(uint64_t gpa, uint64_t value) {
  if (!shape_.is_pae()) return WriteWord(gpa, value);
  const auto store_half = [&](uint64_t offset) {
    MachineAccess access = Kernel(layout_.DirectMapOf(gpa) + offset, sim::AccessKind::kStore,
                                  value >> 8 * offset & 0xffffffff);
    access.bytes = 4;
    referee_.Access(cpu_, access);
  };
  if ((ReadEntry(gpa) & kPresent) != 0) {
    MachineAccess clear = Kernel(layout_.DirectMapOf(gpa), sim::AccessKind::kStore, 0);
    clear.bytes = 4;
    referee_.Access(cpu_, clear);
  }
  store_half(4);
  store_half(0);
}

void GuestTables::WriteThroughScratch(uint64_t gpa, uint64_t value) {
  const uint64_t slot = scratch_entries_[cpu_ & 7];
  const uint64_t gva = layout_.ScratchOf(cpu_);
  WriteDirectly(slot, (gpa & kFrame) | kPresent | kWritable);
  referee_.Invlpg(cpu_, gva);
  referee_.Access(cpu_, Kernel(gva + (gpa & 0xfff), sim::AccessKind::kStore, value));
  WriteDirectly(slot, 0);
  referee_.Invlpg(cpu_, gva);
}

uint64_t GuestTables::EntryAt(uint64_t table, uint64_t gva, int level) const {
  if (shape_.is_pae() && level == 3) return table + (gva >> 30 & 3) * 8;
  return shape_.EntryAt(table, gva, level);
}

TableWalk GuestTables::WalkTo(uint64_t root, uint64_t gva, int level) {
  TableWalk walk;
  uint64_t table = root;
  for (walk.level = top();; --walk.level) {
    walk.entry_at = EntryAt(table, gva, walk.level);
    walk.entry = ReadEntry(walk.entry_at);
    if (!referee_.ok()) return {};
    if (!walk.present()) return walk;
    const bool is_pdpte = shape_.is_pae() && walk.level == 3;
    if (!is_pdpte) walk.rights = walk.rights.And(walk.entry);
    if (walk.level == level || (!is_pdpte && shape_.IsLeaf(walk.entry, walk.level))) return walk;
    table = walk.entry & kFrame;
  }
}

std::optional<uint64_t> GuestTables::EntryFor(uint64_t root, uint64_t gva, int level,
                                              bool& made_pdpte) {
  uint64_t table = root;
  for (int at_level = top(); at_level > level; --at_level) {
    const uint64_t at = EntryAt(table, gva, at_level);
    uint64_t entry = ReadEntry(at);
    const bool is_pdpte = shape_.is_pae() && at_level == 3;
    if ((entry & kPresent) == 0) {
      const std::optional<uint64_t> frame = NewTable();
      if (!frame.has_value()) return std::nullopt;
      entry = *frame | (is_pdpte ? kPresent : kPresent | kWritable | kUser);
      WriteEntry(at, entry);
      made_pdpte |= is_pdpte;
    }
    if (!referee_.ok() || (!is_pdpte && shape_.IsLeaf(entry, at_level))) return std::nullopt;
    table = entry & kFrame;
  }
  return EntryAt(table, gva, level);
}

}  // namespace tdp::kernel
