// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtual CPU's side of the MMU: what an embedder's run loop calls.

#ifndef TDP_MMU_VCPU_H_
#define TDP_MMU_VCPU_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/engine/view.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/page_fault.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/staged_table.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

class Vcpu;

// Which memory the guest's access is for, as far as hardware says.
enum class Privacy : uint8_t {
  kAsSet,  // whichever `Vm::SetMemoryAttributes` gives the frame
  kPrivate,
  kShared,
};

// The time between a VM entry and the exit that ends it. While it lives the vCPU counts as in the
// guest: structural operations kick it and wait for this object's end. Its thread calls nothing
// else of the `Vm` until then.
class [[nodiscard]] GuestEntry {
 public:
  GuestEntry(GuestEntry&& other) noexcept
      : vcpu_(std::exchange(other.vcpu_, nullptr)), eptp_(other.eptp_) {}
  GuestEntry& operator=(GuestEntry&& other) noexcept {
    Leave();
    vcpu_ = std::exchange(other.vcpu_, nullptr);
    eptp_ = other.eptp_;
    return *this;
  }
  ~GuestEntry() { Leave(); }

  // What to load into the VMCS.
  Eptp eptp() const { return eptp_; }
  // Ends it before the destructor does.
  void Leave();

 private:
  friend class Vcpu;
  GuestEntry(Vcpu* vcpu, Eptp eptp) : vcpu_(vcpu), eptp_(eptp) {}

  Vcpu* vcpu_;
  Eptp eptp_;
};

// Made by `Vm::CreateVcpu`, destroyed before its `Vm`. Used by one thread at a time; that thread
// may change.
class Vcpu {
 public:
  // The vCPU is not in the guest.
  ~Vcpu();

  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  VcpuId id() const { return id_; }

  // Settles the flushes that this CPU owes and says which tables to run on. The vCPU is not in the
  // guest yet. A kick that comes between this and the entry itself must make the entry exit at
  // once.
  GuestEntry EnterGuest();
  bool is_in_guest() const { return flush_member_.is_in_guest(); }

  // Answers an EPT violation (exit 48) at `gpa`. May call `Backend::Resolve` and so block; never
  // allocates by itself. The vCPU is not in the guest. Statuses with `FaultOutcome::kError`:
  // InvalidArgument (a qualification that hardware cannot report, or an address beyond the guest's
  // width), FailedPrecondition (the vCPU is in the guest or runs L2), ResourceExhausted (no table
  // memory and no cold table to take it from: the same fault can be tried again), and what
  // `Resolve` answers.
  FaultResult HandleEptViolation(Gpa gpa, ExitQualification qualification);

  // The same for hardware by which a guest says whether it wants private or shared memory (the C
  // bit of SEV-SNP, the shared bit of TDX; not in `gpa` any more): kMemoryFault if
  // `Vm::SetMemoryAttributes` said otherwise, which is looked at before the slot. Private memory is
  // never MMIO: where no slot has it, or only read-only memory for a write, that is kMemoryFault as
  // well, whether `wanted` or the attribute says private, and nothing is remembered (KVM answers
  // such faults with KVM_EXIT_MEMORY_FAULT). FailedPrecondition without
  // `VmOptions::private_memory`.
  FaultResult HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted);

  // Takes the guest-physical addresses that the CPU wrote to its page-modification log: each was
  // written for the first time since its D bit was clear. Call it at every exit, a full log's
  // included, before the `GuestEntry` ends: taking a dirty log waits for that. Marks what lies in
  // slots that log dirty pages. FailedPrecondition unless the VM tracks by PML; InvalidArgument for
  // an address beyond the guest's width, ResourceExhausted without memory for a log: call it again
  // then, marking twice does no harm.
  absl::Status LogPml(absl::Span<const Gpa> pages);

  // Answers an EPT misconfiguration (exit 49) at `gpa`: kMmio if the engine made it so and the
  // slots still say so; kRetry if the memory there has changed since (run on: the next access is a
  // violation); else kError with Internal: the tables are corrupt.
  FaultResult HandleEptMisconfiguration(Gpa gpa);
  // The same for hardware by which a guest says which memory it wants: what is remembered as MMIO
  // is shared, so kPrivate ends with kMemoryFault. FailedPrecondition without
  // `VmOptions::private_memory`.
  FaultResult HandleEptMisconfiguration(Gpa gpa, Privacy wanted);

  // Maps [gpa, gpa + size) as faults of `access` would, without setting A and D: by whole tables
  // where it can. Bytes, page aligned. Returns how many bytes from `gpa` on are mapped now; fewer
  // than asked for if something is in the way there: the call for the rest then says what. So it is
  // an error only where not even the first page could be mapped (KVM_PRE_FAULT_MEMORY). Pages
  // whose invalidation is in progress are in the way. The host is asked for each page once as one
  // of a table, and where that was in vain by itself, up to 16 times.
  // InvalidArgument (alignment, no size, wrapping, beyond the guest's width, an access that no
  // fault has), FailedPrecondition (the vCPU is in the guest, or the frame is private and its slot
  // has no such memory), NotFound (no memory there, or a
  // write to read-only memory), PermissionDenied (the view denies it), Unavailable (the host page
  // is not there yet, or memory keeps changing), ResourceExhausted (no table memory), and what
  // `Backend::Resolve` answers.
  absl::StatusOr<ByteCount> Prefault(Gpa gpa, ByteCount size, Access access = Access::Read());

  // The address space whose slots and tables the guest uses from its next entry on (1 in SMM), on
  // its base view. InvalidArgument if the `Vm` has no such space, FailedPrecondition in the guest.
  absl::Status SetAddressSpace(AddressSpaceId space);
  AddressSpaceId address_space() const { return address_space_; }

  // The view, of that address space, on which the guest runs from its next entry on. Flushes
  // nothing by itself: translations are tagged by their root. After an exit of a guest that may
  // switch views by VMFUNC, call it with the index in the list of EPTPs that the VMCS shows
  // (`Vm::EptpList`). NotFound if there is no such view, FailedPrecondition in the guest.
  absl::Status SetView(ViewId view);
  ViewId view() const { return view_->id(); }

  // The thread of this vCPU moved to another CPU, whose TLB may still hold what this vCPU left
  // there in the past: the next entry flushes all of it.
  void OnCpuChanged() { flush_member_.ForgetCpu(); }

  // Translates `gva` through the guest's own tables as its CPU would, for emulation and
  // introspection: checks the rights, sets A and D flags in guest memory (its dirty pages are
  // marked in bitmap or ring, whether or not the ring is nearly full), says which fault the guest
  // gets otherwise. `walk.outcome` is never kNeedsPage. The vCPU is not in the guest. May call
  // `Backend::Resolve`; needs guest memory in the backend's direct map. Errors: FailedPrecondition
  // (in the guest), Unavailable (the tables' memory is changing: try again), ResourceExhausted (no
  // memory for a dirty log), and what `Resolve` answers.
  absl::Status WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                         GuestAccess access, GuestWalk& walk);

  // What answers for a guest whose paging is shadowed; null unless the `Vm` has
  // `Paging::kShadow`. EPT violations, misconfigurations and `Prefault` are FailedPrecondition
  // there.
  ShadowVcpu* shadow() { return shadow_.get(); }

  // What runs a guest of this guest, which is a hypervisor then; null unless the `Vm` has
  // `VmOptions::nested`. While L2 is entered, `EnterGuest` gives what L2 runs on, and its
  // violations go to `NestedVcpu::HandleViolation`.
  NestedVcpu* nested() { return nested_.get(); }

  // Any thread.
  FaultStats stats() const;

  // The pages that this vCPU wrote, if the `Vm` logs into rings; else null. It may begin with
  // entries of a vCPU that is gone; with those of this one it goes to `Vm::HarvestDirtyRings` and
  // the next vCPU when this object is destroyed. The collector's side belongs to one thread at a
  // time, calls of `Vm::HarvestDirtyRings` and `Vm::ResetDirtyRings` included.
  DirtyRing* dirty_ring() { return dirty_ring_.get(); }

 private:
  friend class GuestEntry;
  friend class Vm;

  Vcpu(Engine& engine, VcpuId id);
  absl::Status StartShadows();
  GuestEntry EnterOnShadow();
  GuestEntry EnterNestable();
  absl::Status CheckRunsOnEpt() const;

  ABSL_ATTRIBUTE_ALWAYS_INLINE FaultResult Fault(Gpa gpa, ExitQualification qualification);
  FaultResult FaultOnce(Gpa gpa, ExitQualification qualification);  // `Fault`, not inlined
  FaultResult SpecialFault(Gpa gpa, ExitQualification qualification, uint64_t sequence,
                           const MemorySlot& slot);
  template <bool kPlain>
  ABSL_ATTRIBUTE_ALWAYS_INLINE FaultResult MapFaulting(PageFault& fault);
  FaultResult FaultWithMemory(Gpa gpa, ExitQualification qualification, FaultResult result,
                              int reclaims);
  absl::Status CheckAddress(Gpa gpa) const;
  absl::Status CheckWidth(Gpa gpa) const;
  bool IsPlausible(Gpa gpa, ExitQualification qualification) const;
  FaultResult Refuse(Gpa gpa, ExitQualification qualification) const;
  FaultResult Emulate(Gfn gfn, uint64_t sequence);
  FaultResult Mmio(Gfn gfn, uint64_t sequence);
  bool PassRules(PageFault& fault, ExitQualification qualification, FaultResult& result);
  bool PassView(PageFault& fault, FaultResult& result);
  bool CanRaiseVe(const PageFault& fault) const;
  bool IsMmioCurrent(EptEntry entry) const;
  bool IsMappedBesideLast(const PageFault& fault);
  bool MayWidenInPlace(const PageFault& fault) const;
  bool TryWidenInPlace(const PageFault& fault, FaultResult& result);
  bool IsPlain(const PageFault& fault) const;
  template <bool kPlain>
  LeafRequest RequestFor(const PageFault& fault) const;
  bool HasRoomToLog(const PageFault& fault);
  bool HasRoomToLog(const MemorySlot& slot, Gfn gfn);
  MapResult MapWithReverse(const PageFault& fault);
  bool IsShortOfRoom() const { return short_of_room_ != nullptr || rmap_short_of_room_ != nullptr; }
  absl::Status MakeRoom(Gpa gpa);
  size_t MarkLogged(absl::Span<const Gpa> pages);
  void MarkDirty(const PageFault& fault);
  void OweFlush();
  void SettleSplit(MapResult mapped);
  absl::Status CheckPrefault(Gpa gpa, ByteCount size, Access access) const;
  PageCount StablePages(Hva hva, PageCount pages);
  absl::StatusOr<PageCount> PrefaultTable(Gfn gfn, PageCount most, Access access, Gfn& asked_until);
  StagedTable::Published PublishRuns(const PageFault& fault, PageCount most,
                                     absl::Span<const HostRun> runs);
  void AppendRuns(const PageFault& fault, absl::Span<const HostRun> runs, StagedTable& staged);
  StagedTable::Published PublishStaged(const PageFault& fault, StagedTable& staged);
  absl::StatusOr<PageCount> PrefaultPage(Gfn gfn, Access access);
  FaultResult Finish(Gfn gfn, MapResult mapped);
  void Count(const FaultResult& result) {
    // What was fixed is counted by its level alone.
    if (ABSL_PREDICT_TRUE(result.outcome == FaultOutcome::kFixed)) {
      counters_.leaves[result.level.raw() - 1].Add();
    } else {
      counters_.outcomes[static_cast<size_t>(result.outcome)].Add();
    }
  }
  void LeaveGuest() { flush_member_.LeaveGuest(); }
  void Adopt(View& view);
  DirectMmu& mmu() { return view_->mmu(); }
  const DirectMmu& mmu() const { return view_->mmu(); }
  const LeafPolicy& policy() const { return view_->policy(); }

  struct Counters {
    Counter outcomes[9];
    Counter fast;
    Counter splits;
    Counter flushes;
    Counter leaves[3];
  };

  Engine& engine_;
  const VcpuId id_;
  AddressSpaceId address_space_ = 0;
  bool lacks_memory_ = false;         // the last fault could go on with more of it
  bool uses_several_roots_ = false;   // a flush is of all of them
  Privacy wanted_ = Privacy::kAsSet;  // by the fault under way
  View* view_;                        // of that address space
  ReverseMappedMmu* reverse_mapped_;  // the same, or null
  MmuLock::Reader reader_;
  SlotReader slots_;
  TableCache tables_;
  absl::Status refill_status_;  // of the last refill, where `tables_` is short of its stock
  LeafMemo memo_;
  FlushClock::Member flush_member_;
  PendingFlush flush_;  // of the fault under way, where it split a large leaf or dropped one
  // Set where a section was left because a dirty log needed memory.
  std::shared_ptr<DirtyLog> short_of_room_;
  uint64_t index_without_room_ = 0;
  std::unique_ptr<DirtyRing> dirty_ring_;
  // The same for the reverse map.
  std::shared_ptr<SlotRmap> rmap_short_of_room_;
  Counters counters_;
  GuestWindow window_;
  std::unique_ptr<ShadowVcpu> shadow_;
  std::unique_ptr<NestedVcpu> nested_;
};

inline void GuestEntry::Leave() {
  if (Vcpu* vcpu = std::exchange(vcpu_, nullptr)) vcpu->LeaveGuest();
}

}  // namespace tdp

#endif  // TDP_MMU_VCPU_H_
