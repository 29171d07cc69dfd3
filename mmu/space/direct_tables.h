// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The direct tables of an address space, one set for each of its views.

#ifndef TDP_MMU_SPACE_DIRECT_TABLES_H_
#define TDP_MMU_SPACE_DIRECT_TABLES_H_

#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/space/mapped_tables.h"
#include "tdp/mmu/space/view.h"

namespace tdp {

class DirectTables : public MappedTables {
 public:
  // With `caches_mmio` entries may remember frames without memory.
  DirectTables(const MmuParts& parts, AddressSpaceId space, ViewSet& views, bool caches_mmio)
      : parts_(parts), space_(space), views_(views), caches_mmio_(caches_mmio) {}

  // Does `Detach` in one view, for a change that is about that view alone.
  virtual bool DetachIn(View& view, FrameRange range, TableCache& spare, TableList& detached);

  // Does `DirectMmu::DetachPage` where the base view is the only one and no log needs the D bit;
  // else returns false. Inside a writer's section, for tables that are no more than this.
  bool DetachPage(Gfn gfn) {
    AssertWriting(parts_.mmu_lock);
    return ABSL_PREDICT_TRUE(views_.size() == 1 && !parts_.logging.are_harvested()) &&
           views_.base().mmu().DetachPage(gfn, nullptr);
  }

  bool Detach(FrameRange range, TableCache& spare, TableList& detached) override;
  bool DetachMmio(TableList& detached) override;
  bool DetachRaising(FrameRange slot, TableList& detached) override;
  bool WriteProtect(FrameRange range) override;
  void NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) override;
  void Age(FrameRange range, AgeMode mode, Aged& aged) override;
  PendingFlush ZapAll() override;
  absl::Status PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)> push) override;

 protected:
  // Forgets all leaves, inside a writer's section in which the base view's root is about to be
  // replaced.
  virtual void ForgetLeaves() {}

  const MmuParts parts_;

 private:
  const AddressSpaceId space_;
  ViewSet& views_;
  const bool caches_mmio_;
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_DIRECT_TABLES_H_
