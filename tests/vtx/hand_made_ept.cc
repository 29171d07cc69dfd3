// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/vtx/hand_made_ept.h"

namespace tdp::vtx {

HandMadeEpt::HandMadeEpt(Machine& machine, ByteCount bytes) : arena_(machine.backend().arena()) {
  const int leaf_tables = static_cast<int>(bytes / MiB(2));
  for (int i = 0; i < 3 + leaf_tables; ++i) {
    tables_.push_back(ValueOrDie(arena_.AllocateZeroed(kPageSize, kPageSize)));
  }
  Store(0, 0, EptEntry::Table(tables_[1]));
  Store(1, 0, EptEntry::Table(tables_[2]));
  for (int i = 0; i < leaf_tables; ++i) {
    Store(2, i, EptEntry::Table(tables_[3 + static_cast<size_t>(i)]));
  }
  for (Gpa gpa{0}; gpa < Gpa(bytes); gpa = gpa + kPageSize) {
    const Hfn frame = Hfn::Of(arena_.HpaOf(machine.HvaOf(gpa)));
    Set(gpa,
        EptEntry::Leaf(frame, kLevel4K, Access::All(), MemoryType::kWriteBack).WithSuppressVe());
  }
}

HandMadeEpt::~HandMadeEpt() {
  for (const Hpa table : tables_) arena_.Free(table, kPageSize);
}

void HandMadeEpt::Store(size_t table, int index, EptEntry entry) {
  arena_.PointerTo<uint64_t>(tables_[table])[index] = entry.raw();
}

uint64_t& HandMadeEpt::Leaf(Gpa gpa) const {
  const uint64_t frame = gpa.raw() / kPageSize;
  return arena_.PointerTo<uint64_t>(tables_[3 + frame / Level::kEntries])[frame % Level::kEntries];
}

}  // namespace tdp::vtx
