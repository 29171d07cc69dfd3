// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The tables of an address space that shadow tables of the guest's: those of its own paging, or the
// EPTs of a hypervisor that runs in it.

#ifndef TDP_MMU_SPACE_SHADOWED_TABLES_H_
#define TDP_MMU_SPACE_SHADOWED_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/space/mapped_tables.h"

namespace tdp {

// Does what both kinds do alike: all but the ages.
template <typename Entry>
class ShadowedTables : public MappedTables {
 public:
  ShadowedTables(const MmuParts& parts, ShadowPools& pools, const ShadowTablesOptions& options)
      : parts_(parts), tables_(parts.pool, pools, parts.clock, parts.mmu_lock, options) {}

  ShadowTables<Entry>& tables() { return tables_; }

  bool Detach(FrameRange range, TableCache& spare, TableList& detached) override;
  bool WriteProtect(FrameRange range) override;
  void SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap) override;
  absl::Status CheckInvariants() const override;
  void NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) override;
  PendingFlush ZapAll() override;
  size_t ZapOldest(size_t count) override;
  void TrimToQuota() override;
  void AddNeeds(MemoryQuotas& quotas) const override { quotas.AddShadowPages(); }
  void SetQuota(const MemoryQuotas& quotas) override;
  size_t shadow_table_count() const override;
  void AddTo(ShadowStats& stats) const override;

 protected:
  const MmuParts parts_;

 private:
  size_t Excess();

  ShadowTables<Entry> tables_;
};

// Takes the place of direct tables where the guest's paging is shadowed.
class GuestShadowTables final : public ShadowedTables<PagingEntry> {
 public:
  using ShadowedTables::ShadowedTables;
  // Goes by the A flags of its leaves, which owe no flush.
  void Age(FrameRange range, AgeMode mode, Aged& aged) override;
};

// Stands beside direct tables where guests may be hypervisors.
class NestedTables final : public ShadowedTables<EptEntry> {
 public:
  using ShadowedTables::ShadowedTables;
  // Takes L2's leaves away, since they have no flags to tell their age: a page was young if one was
  // there.
  void Age(FrameRange range, AgeMode mode, Aged& aged) override;
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_SHADOWED_TABLES_H_
