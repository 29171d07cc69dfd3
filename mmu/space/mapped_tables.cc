// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/mapped_tables.h"

namespace tdp {

bool MappedTables::DetachMmio(TableList&) { return false; }

bool MappedTables::DetachRaising(FrameRange, TableList&) { return false; }

void MappedTables::SetRmap(uint32_t, const std::shared_ptr<SlotRmap>&) {}

absl::Status MappedTables::CheckInvariants() const { return absl::OkStatus(); }

absl::Status MappedTables::PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)>) {
  return absl::OkStatus();
}

size_t MappedTables::ZapOldest(size_t) { return 0; }

void MappedTables::TrimToQuota() {}

void MappedTables::AddNeeds(MemoryQuotas&) const {}

void MappedTables::SetQuota(const MemoryQuotas&) {}

size_t MappedTables::shadow_table_count() const { return 0; }

void MappedTables::AddTo(ShadowStats&) const {}

}  // namespace tdp
