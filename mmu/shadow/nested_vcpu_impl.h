// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Implements `NestedVcpu`, whose functions these are: mmu/shadow/nested_vcpu.h says what they
// promise.

#ifndef TDP_MMU_SHADOW_NESTED_VCPU_IMPL_H_
#define TDP_MMU_SHADOW_NESTED_VCPU_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/guest/nested_ept_walker.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/reverse_mapped/shadow_sync.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/shadow/nested_fault.h"
#include "tdp/mmu/shadow/shadow_faults.h"
#include "tdp/mmu/shadow/vcpu_side.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

class NestedVcpuImpl final : public VcpuSide, private ShadowFaults<EptEntry> {
 public:
  // `member`, `window` and `ring` (null: none) belong to the `Vcpu`.
  NestedVcpuImpl(const NestedParts& parts, const FlushClock::Member& member, GuestWindow& window,
                 DirtyRing* ring);
  ~NestedVcpuImpl() override;

  NestedVcpuImpl(const NestedVcpuImpl&) = delete;
  NestedVcpuImpl& operator=(const NestedVcpuImpl&) = delete;

  absl::Status Enter(const NestedContext& context);
  absl::Status Leave();
  bool is_entered() const { return is_entered_; }
  NestedFaultResult HandleViolation(Gpa gpa, ExitQualification qualification);
  absl::StatusOr<bool> Invept(uint64_t type, Eptp eptp, const EntryRules& rules);
  absl::StatusOr<bool> Invvpid(uint64_t type, uint64_t vpid, Gva gva, const EntryRules& rules,
                               int linear_address_bits);

  Eptp eptp() const;

  // --- for the `Vcpu` ---

  absl::Status CheckRunsOnEpt() const override;
  bool FlushForEntry(VcpuId id, bool owed, bool has_new_tables) override;
  Eptp RunsOn(Eptp own) const override { return is_entered_ ? eptp() : own; }
  absl::Status SetAddressSpace(AddressSpaceId space) override;
  void AddTo(FaultStats& stats) const override;

 private:
  // An EPT violation of L2 that is being answered.
  struct Violation : Fault {
    using Fault::Fault;

    NestedEptAccess request;
    ExitQualification qualification;
  };

  absl::Status CheckContext(const NestedContext& context) const;

  Next Try(Violation& fault, NestedFaultResult& result);
  Next Walk(Violation& fault, NestedFaultResult& result);
  void TakePath(Violation& fault) const;
  Level LargestLeaf(const Violation& fault) const;
  Next InstallBesideOthers(Violation& fault, ShadowZap& zap, NestedFaultResult& result);
  Next InstallAlone(Violation& fault, NestedFaultResult& result);
  Next InstallAt(Violation& fault, ShadowSide side, ShadowPlace place, Level goal, ShadowZap& zap,
                 NestedFaultResult& result);
  Next ReachLeaf(const Violation& fault, Level goal, ShadowZap& zap, ShadowPlace& place);
  EptEntry LeafOf(Hfn frame, Level level, Gfn gfn, Access rights, bool writable,
                  const HostPage& page, const MemorySlot& slot) const;
  uint32_t Clean(Access rights, EptEntry leaf) const;
  void PrefetchAround(const Violation& fault, ShadowPage& page, int index);
  bool MayHaveUnasked(EptEntry entry, Access table, LeafOrigin& origin) const;
  // Returns a function that says what an entry of EPT12 beside a violation's asks for.
  auto NeighbourOf() const {
    return [this](uint64_t raw, Access table, LeafOrigin& origin) {
      return MayHaveUnasked(EptEntry(raw), table, origin);
    };
  }
  void DropPath(Gpa gpa);
  absl::Status ReloadRoot();

  PageRole RootRole(const NestedContext& context) const;
  bool IsRootOf(const NestedContext& context) const;
  absl::Status LoadRoot(const NestedContext& context, ShadowPage*& root);
  void ReleaseRoot();

  bool is_entered_ = false;
  NestedContext context_;
  ShadowPage* root_ = nullptr;  // of `context_`, held
  NestedEptWalk walk_;
  bool owes_flush_ = false;  // of linear and combined translations
  uint16_t last_vpid_ = 0;   // of L1's, under which L2 ran last
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_NESTED_VCPU_IMPL_H_
