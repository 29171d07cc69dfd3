// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtual CPU's side of the MMU: what an embedder's run loop calls.

#ifndef TDP_MMU_VCPU_H_
#define TDP_MMU_VCPU_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/page_fault.h"
#include "tdp/mmu/stats.h"

namespace tdp {

// Headers of their own declare what not every embedder uses: memslot/dirty_ring.h for `DirtyRing`,
// mmu/guest/guest_walk.h for what `Vcpu::WalkGuest` takes and gives, mmu/shadow/shadow_vcpu.h and
// mmu/shadow/nested_vcpu.h.
class DirtyRing;
class GuestAccess;
class GuestPaging;
struct GuestRoots;
struct GuestWalk;
class NestedVcpu;
class ShadowVcpu;
class VcpuImpl;

// The time between a VM entry and the exit that ends it. While it lives the vCPU counts as in the
// guest: structural operations kick it and wait for this object's end. Its thread calls nothing
// else of the `Vm` until then.
class [[nodiscard]] GuestEntry {
 public:
  GuestEntry(GuestEntry&& other) noexcept
      : vcpu_(std::exchange(other.vcpu_, nullptr)), eptp_(other.eptp_) {}
  GuestEntry& operator=(GuestEntry&& other) noexcept {
    if (vcpu_ != nullptr) Leave();
    vcpu_ = std::exchange(other.vcpu_, nullptr);
    eptp_ = other.eptp_;
    return *this;
  }
  ~GuestEntry() {
    if (vcpu_ != nullptr) Leave();
  }

  // Returns what to load into the VMCS.
  Eptp eptp() const { return eptp_; }
  // Ends it before the destructor does.
  void Leave();

 private:
  friend class VcpuImpl;
  GuestEntry(VcpuImpl* vcpu, Eptp eptp) : vcpu_(vcpu), eptp_(eptp) {}

  VcpuImpl* vcpu_;
  Eptp eptp_;
};

// One virtual CPU of a `Vm`. `Vm::CreateVcpu` makes it, and it is destroyed before its `Vm`. One
// thread at a time uses it; that thread may change.
class Vcpu {
 public:
  // By then the vCPU is not in the guest. Where its guest's tables are shadowed (`Paging::kShadow`,
  // `VmOptions::nested`) it lets go of their roots, and may wait for vCPUs to leave the guest.
  ~Vcpu();

  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  VcpuId id() const;

  // Settles the flushes that this CPU owes and says which tables to run on. The vCPU is not in the
  // guest yet. A kick that comes between this and the entry itself must make the entry exit at
  // once.
  GuestEntry EnterGuest();
  bool is_in_guest() const;

  // Answers an EPT violation (exit 48) at `gpa`. The vCPU is not in the guest. May call
  // `Backend::Resolve` and so block. Allocates tables, when the vCPU's stock is used up, room in a
  // dirty log or a reverse map, and at the quota a list of tables to take back, and nothing else.
  // Waits for other vCPUs to leave the guest where a large leaf has to be split, where another
  // frame was mapped, and for those tables. Statuses with `FaultOutcome::kError`: InvalidArgument
  // (a qualification that hardware cannot report, or an address beyond the guest's width),
  // FailedPrecondition (the vCPU is in the guest or runs L2), ResourceExhausted (no table memory
  // and no cold table to take it from: the same fault can be tried again), and what `Resolve`
  // answers.
  FaultResult HandleEptViolation(Gpa gpa, ExitQualification qualification);

  // Does the same for hardware by which a guest says whether it wants private or shared memory (the
  // C bit of SEV-SNP, the shared bit of TDX; not in `gpa` any more): kMemoryFault if
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
  // slots still say so. If they have changed since, it answers as a violation of a read, so that
  // memory that has come there is mapped (kFixed); but where view or slot deny a read it is kRetry,
  // and the next access is a violation that tells what it wants. kRetry also if another entry
  // stands there by now; kError with Internal if that is none the CPU takes: the tables are
  // corrupt. Calls the backend, allocates and waits as `HandleEptViolation`, with its errors.
  FaultResult HandleEptMisconfiguration(Gpa gpa);
  // Does the same for hardware by which a guest says which memory it wants: what is remembered as
  // MMIO is shared, so kPrivate ends with kMemoryFault. FailedPrecondition without
  // `VmOptions::private_memory`.
  FaultResult HandleEptMisconfiguration(Gpa gpa, Privacy wanted);

  // Maps [gpa, gpa + size) as faults of `access` would, without setting A and D: by whole tables
  // where it can. Bytes, page aligned. Returns how many bytes from `gpa` on are mapped now; fewer
  // than asked for if something is in the way there: the call for the rest then says what. So it is
  // an error only where not even the first page could be mapped (KVM_PRE_FAULT_MEMORY). Pages whose
  // invalidation is in progress are in the way. The host is asked for each page once as one of a
  // table, and where that was in vain by itself, up to 16 times (once more where a log lacks memory
  // for it). InvalidArgument (alignment, no size, wrapping, beyond the guest's width, an access
  // that no fault has), FailedPrecondition (the vCPU is in the guest, or the frame is private and
  // its slot has no such memory), NotFound (no memory there, or a write to read-only memory),
  // PermissionDenied (the view denies it), Unavailable (the host page is not there yet, memory
  // keeps changing, or the dirty ring is nearly full), ResourceExhausted (no table memory), and
  // what `Backend::Resolve` answers.
  absl::StatusOr<ByteCount> Prefault(Gpa gpa, ByteCount size, Access access = Access::Read());

  // Sets the address space whose slots and tables the guest uses from its next entry on (1 in SMM),
  // on its base view. InvalidArgument if the `Vm` has no such space, FailedPrecondition in the
  // guest or while it runs L2 (`NestedVcpu::Leave`). With `Paging::kShadow` it begins there with an
  // empty shadow, for which it allocates and waits for vCPUs to leave the guest: ResourceExhausted
  // without memory for a root, Unavailable where others take its pages as fast; the vCPU then stays
  // where it was. With `VmOptions::nested` it lets go of L2's root, and may wait, too.
  absl::Status SetAddressSpace(AddressSpaceId space);
  AddressSpaceId address_space() const;

  // Sets the view, of that address space, on which the guest runs from its next entry on. Flushes
  // nothing by itself, translations being tagged by their root; but the first change of the root,
  // and one after memory for tables has come, makes the next entry flush all. After an exit of a
  // guest that may switch views by VMFUNC, call it with the index in the list of EPTPs that the
  // VMCS shows (`Vm::EptpList`). NotFound if there is no such view, FailedPrecondition in the
  // guest.
  absl::Status SetView(ViewId view);
  ViewId view() const;

  // The thread of this vCPU moved to another CPU, whose TLB may still hold what this vCPU left
  // there in the past: the next entry flushes all of it.
  void OnCpuChanged();

  // Translates `gva` through the guest's own tables as its CPU would, for emulation and
  // introspection: checks the rights, sets A and D flags in guest memory (its dirty pages are
  // marked in bitmap or ring, whether or not the ring is nearly full), says which fault the guest
  // gets otherwise. `walk.outcome` is never kNeedsPage. The vCPU is not in the guest. May call
  // `Backend::Resolve`; needs guest memory in the backend's direct map. Errors: FailedPrecondition
  // (in the guest), Unavailable (the tables' memory is changing: try again), ResourceExhausted (no
  // memory for a dirty log), and what `Resolve` answers.
  absl::Status WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                         GuestAccess access, GuestWalk& walk);

  // Returns what answers for a guest whose paging is shadowed; null unless the `Vm` has
  // `Paging::kShadow`. EPT violations, misconfigurations and `Prefault` are FailedPrecondition
  // there.
  ShadowVcpu* shadow();

  // Returns what runs a guest of this guest, which is a hypervisor then; null unless the `Vm` has
  // `VmOptions::nested`. While L2 is entered, `EnterGuest` gives what L2 runs on, and its
  // violations go to `NestedVcpu::HandleViolation`.
  NestedVcpu* nested();

  // Returns what this vCPU has counted. Any thread may ask.
  FaultStats stats() const;

  // Returns the ring of pages that this vCPU wrote, if the `Vm` logs into rings; else null. It may
  // begin with entries of a vCPU that is gone; with those of this one it goes to
  // `Vm::HarvestDirtyRings` and the next vCPU when this object is destroyed. The collector's side
  // belongs to one thread at a time, calls of `Vm::HarvestDirtyRings` and `Vm::ResetDirtyRings`
  // included.
  DirtyRing* dirty_ring();

 private:
  friend class Vm;
  explicit Vcpu(std::unique_ptr<VcpuImpl> impl);

  const std::unique_ptr<VcpuImpl> impl_;
};

}  // namespace tdp

#endif  // TDP_MMU_VCPU_H_
