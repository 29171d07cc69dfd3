// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Implements `ShadowVcpu`, whose functions these are: mmu/shadow/shadow_vcpu.h says what they
// promise.

#ifndef TDP_MMU_SHADOW_SHADOW_VCPU_IMPL_H_
#define TDP_MMU_SHADOW_SHADOW_VCPU_IMPL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/reverse_mapped/paging_guest.h"
#include "tdp/mmu/reverse_mapped/shadow_sync.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_faults.h"
#include "tdp/mmu/shadow/shadow_registers.h"
#include "tdp/mmu/shadow/shadow_root.h"
#include "tdp/mmu/shadow/vcpu_side.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

class ShadowVcpuImpl final : public VcpuSide, private ShadowFaults<PagingEntry> {
 public:
  // Makes it with its first root. `member` and `window` belong to the `Vcpu`. ResourceExhausted
  // without memory for the root.
  static absl::StatusOr<std::unique_ptr<ShadowVcpuImpl>> Create(const PagingParts& parts,
                                                                const FlushClock::Member& member,
                                                                GuestWindow& window);
  ~ShadowVcpuImpl() override;

  ShadowVcpuImpl(const ShadowVcpuImpl&) = delete;
  ShadowVcpuImpl& operator=(const ShadowVcpuImpl&) = delete;

  const GuestPaging& paging() const { return paging_; }
  const GuestRoots& roots() const { return roots_; }
  absl::StatusOr<GuestEvent> SetPaging(const GuestControls& controls, uint64_t cr3);
  absl::StatusOr<GuestEvent> WriteCr3(uint64_t value);
  absl::Status Invlpg(Gva gva);
  absl::StatusOr<GuestEvent> Invpcid(uint64_t type, uint64_t pcid, Gva gva);

  const ShadowRegisters& registers() const { return registers_; }
  PagingFaultResult HandlePageFault(Gva gva, uint32_t error_code, bool excused);
  absl::Status EmulateWrite(Gpa gpa, ByteCount size,
                            absl::FunctionRef<void(std::byte* place)> store);
  absl::Status OnWritten(Gpa gpa, ByteCount size);

  // --- for the `Vcpu` ---

  absl::Status CheckRunsOnEpt() const override;
  bool FlushForEntry(VcpuId id, bool owed, bool has_new_tables) override;
  Eptp RunsOn(Eptp) const override { return Eptp(); }
  absl::Status SetAddressSpace(AddressSpaceId space) override;
  void AddTo(FaultStats& stats) const override;
  // Says what the tables say of `gva` now; no bit changes. The entry is null-kind where they say
  // nothing.
  struct Found {
    PagingEntry entry;
    Level level = kLevel4K;
  };
  Found Look(Gva gva);

 private:
  // A page fault that is being answered.
  struct PagingFault : Fault {
    using Fault::Fault;

    GuestAccess access;
  };

  ShadowVcpuImpl(const PagingParts& parts, const FlushClock::Member& member, GuestWindow& window);

  PageRole RootRole(const GuestPaging& paging) const;

  // These are the steps of a fault.
  Next Try(PagingFault& fault, PagingFaultResult& result);
  Next Walk(PagingFault& fault, PagingFaultResult& result);
  Next WalkEnded(const PagingFault& fault, PagingFaultResult& result) const;
  void Refuse(uint32_t error_code, PagingFaultResult& result) const;
  void TryAgain(PagingFault& fault, Next next, PagingFaultResult& result);
  void TakePath(PagingFault& fault) const;
  Level LargestLeaf(const PagingFault& fault) const;
  Next InstallBesideOthers(PagingFault& fault, ShadowZap& zap, PagingFaultResult& result);
  Next InstallAlone(PagingFault& fault, PagingFaultResult& result);
  Next InstallAt(PagingFault& fault, ShadowSide side, ShadowPlace place, Level goal, ShadowZap& zap,
                 PagingFaultResult& result);
  static Next EmulateInstead(PagingFaultResult& result);
  Next ReachLeaf(const PagingFault& fault, Level goal, ShadowZap& zap, ShadowPlace& place);
  bool NeedsSmapEmulation(const PagingFault& fault) const;
  static PagingEntry LeafOf(Hfn frame, Level level, GuestRights rights, bool writable,
                            const HostPage& page, const MemorySlot& slot);
  GuestRights Emulated(const PagingFault& fault, GuestRights rights) const;
  bool DecideWrite(const PagingFault& fault, ShadowSide side, Level level, bool& writable);
  void OnWrittenIn(PagingShadow& shadow, Gpa gpa, ByteCount size);
  bool TryStore(Gpa gpa, absl::FunctionRef<void(std::byte* place)> store, GuestWalkOutcome& why);
  void PrefetchAround(const PagingFault& fault, ShadowPage& page, int index);
  // Returns a function that says what an entry of the guest's beside a fault's asks for.
  auto NeighbourOf() const {
    return
        [guest = PagingGuest(paging_, root_.role)](uint64_t raw, Access table, LeafOrigin& origin)
            ABSL_ATTRIBUTE_ALWAYS_INLINE { return guest.Leaf(raw, table, origin); };
  }
  absl::Status ReloadRoot();
  bool ReleaseCachedRoots();

  // These find, make and switch roots.
  absl::StatusOr<GuestEvent> LoadPdptes(const GuestPaging& paging, uint64_t cr3, GuestRoots& roots);
  absl::Status SwitchRoot(const GuestPaging& paging, const GuestRoots& roots, bool& kept);
  absl::Status LoadRoot(const GuestPaging& paging, const GuestRoots& roots, ShadowRoot& root);
  Next BuildRoot(const GuestPaging& paging, const GuestRoots& roots, ShadowRoot& root,
                 ShadowZap& zap);
  Next BuildRootPage(Gfn gfn, PageRole role, ShadowPage*& page, ShadowZap& zap);
  bool IsCurrent(const ShadowPage& root) const;
  void Release(ShadowRoot& root);
  void LoadRegisters();

  // These do the guest's flushes.
  bool HasUnsync();
  void Resync();
  void FetchForSync();
  Next ResyncPages(ShadowZap& zap);
  Next ResyncAddress(const ShadowRoot& root, Gva gva, ShadowZap& zap);
  void InvalidateIn(Gva gva, absl::FunctionRef<bool(const ShadowRoot&)> concerns);

  GuestPaging paging_;
  GuestRoots roots_;
  GuestWalk walk_;
  ShadowRoot root_;
  RootCache previous_;
  ShadowRegisters registers_;
  bool owes_flush_ = true;  // of linear translations
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_VCPU_IMPL_H_
