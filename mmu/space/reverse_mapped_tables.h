// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The direct tables of an address space that has one view and a reverse map of its leaves.

#ifndef TDP_MMU_SPACE_REVERSE_MAPPED_TABLES_H_
#define TDP_MMU_SPACE_REVERSE_MAPPED_TABLES_H_

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"
#include "tdp/mmu/space/direct_tables.h"

namespace tdp {

// Keeps the reverse map as leaves come and go. Rights of single pages and ages are as in direct
// tables: to narrow a leaf changes no map.
class ReverseMappedTables final : public DirectTables {
 public:
  ReverseMappedTables(const MmuParts& parts, AddressSpaceId space, ViewSet& views, bool caches_mmio)
      : DirectTables(parts, space, views, caches_mmio), mapped_(views.base().mmu()) {}

  ReverseMappedMmu& mmu() { return mapped_; }

  bool Detach(FrameRange range, TableCache& spare, TableList& detached) override {
    AssertWriting(parts_.mmu_lock);
    return mapped_.Detach(range.first, range.end, spare, detached);
  }
  bool DetachIn(View&, FrameRange range, TableCache& spare, TableList& detached) override {
    return Detach(range, spare, detached);
  }
  bool WriteProtect(FrameRange range) override {
    AssertWriting(parts_.mmu_lock);
    return mapped_.WriteProtect(range.first, range.end);
  }
  void SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap) override {
    AssertWriting(parts_.mmu_lock);
    mapped_.SetRmap(slot, rmap);
  }
  absl::Status CheckInvariants() const override { return mapped_.CheckInvariants(); }
  // Does nothing: each leaf was protected by itself, and nothing waits above.
  absl::Status PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)>) override {
    return absl::OkStatus();
  }

 protected:
  void ForgetLeaves() override {
    AssertWriting(parts_.mmu_lock);
    mapped_.ForgetAll();
  }

 private:
  ReverseMappedMmu mapped_;
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_REVERSE_MAPPED_TABLES_H_
