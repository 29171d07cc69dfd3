// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One address space of a `Vm`, and every kind of tables that maps its frames.

#ifndef TDP_MMU_SPACE_ADDRESS_SPACE_H_
#define TDP_MMU_SPACE_ADDRESS_SPACE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/paging_kind.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/space/direct_tables.h"
#include "tdp/mmu/space/mapped_tables.h"
#include "tdp/mmu/space/shadowed_tables.h"
#include "tdp/mmu/space/view.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

class ReverseMappedMmu;
class ReverseMappedTables;

struct AddressSpaceOptions {
  PagingKind kind = PagingKind::kDirect;
  DirectMmuOptions mmu;      // of every view; names the address space
  LeafPolicyOptions policy;  // the same
  bool caches_mmio = true;
  ShadowTablesOptions shadow;
};

// Owns the tables of one address space. Which kinds there are is decided once, in `Make`: there
// alone is `PagingKind` looked at.
class AddressSpace {
 public:
  // Makes an address space with its base view, which is open. ResourceExhausted without memory for
  // a root. `pools` is memory of shadow pages; null in a build without them.
  static absl::StatusOr<std::unique_ptr<AddressSpace>> Make(const AddressSpaceOptions& options,
                                                            const MmuParts& parts,
                                                            ShadowPools* pools);
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  // Return the views. Where there is no EPT their tables stay empty, and their policies alone
  // count.
  ViewSet& views() { return views_; }
  const ViewSet& views() const { return views_; }

  // Calls `visit(MappedTables&)` for each kind of tables.
  template <typename Visit>
  void ForEachKind(Visit visit) const {
    for (const std::unique_ptr<MappedTables>& tables : kinds_) visit(*tables);
  }

  // Return the tables that faults go to, each null where the address space has none of that kind.
  ReverseMappedMmu* reverse_mapped() const;
  ShadowTables<PagingEntry>* shadow_tables() const {
    return !kHasShadow || shadow_ == nullptr ? nullptr : &shadow_->tables();
  }
  ShadowTables<EptEntry>* nested_tables() const {
    return !kHasShadow || nested_ == nullptr ? nullptr : &nested_->tables();
  }

  // Makes the reverse map for a slot that is about to be published; null where no tables keep one.
  // ResourceExhausted without memory.
  absl::StatusOr<std::shared_ptr<SlotRmap>> MakeRmap(const MemorySlot& slot) const;

  // --- Over all kinds; each as `MappedTables` says of one ---

  bool Detach(FrameRange range, TableCache& spare, TableList& detached) {
    // Most zaps and invalidations are of one page, in tables of the simplest kind.
    const bool is_simple = range.is_one_frame() && only_direct_ != nullptr;
    if (ABSL_PREDICT_TRUE(is_simple) && only_direct_->DetachPage(range.first)) return true;
    return DetachFromAll(range, spare, detached);
  }
  bool DetachMmio(TableList& detached);
  bool DetachRaising(FrameRange slot, TableList& detached);
  bool WriteProtect(FrameRange range);
  void SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap);
  absl::Status CheckInvariants() const;
  void NarrowPages(Gfn base, uint64_t mask, WriteNotice notice);
  void Age(FrameRange range, AgeMode mode, Aged& aged);
  PendingFlush ZapAll();
  absl::Status PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)> push);

  // Does `Detach` in one view, inside a writer's section. There is an EPT.
  bool DetachIn(View& view, FrameRange range, TableCache& spare, TableList& detached);

  // Ends the use of all tables and hands those of views out. Nobody else is there.
  void TakeTables(TableList& out);

 private:
  AddressSpace(const AddressSpaceOptions& options, const MmuParts& parts);
  bool DetachFromAll(FrameRange range, TableCache& spare, TableList& detached);
  void MakeKinds(const AddressSpaceOptions& options, const MmuParts& parts, ShadowPools* pools);

  ViewSet views_;
  std::vector<std::unique_ptr<MappedTables>> kinds_;
  // These say which of them are what.
  DirectTables* direct_ = nullptr;
  DirectTables* only_direct_ = nullptr;  // the same where it is the only kind, without more
  ReverseMappedTables* reverse_mapped_ = nullptr;
  GuestShadowTables* shadow_ = nullptr;
  NestedTables* nested_ = nullptr;
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_ADDRESS_SPACE_H_
