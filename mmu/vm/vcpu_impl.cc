// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm/vcpu_impl.h"

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/fault/prefault.h"
#include "tdp/mmu/shadow/nested_vcpu_impl.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"

namespace tdp {
namespace {

FaultResult NoPrivateMemory() {
  return FaultError(absl::FailedPreconditionError("VmOptions.private_memory is off"));
}

}  // namespace

FaultResult FaultError(absl::Status status) {
  return {FaultOutcome::kError, kLevel4K, std::move(status)};
}

VcpuImpl::VcpuImpl(Engine& engine, VcpuId id)
    : engine_(engine),
      own_end_(engine.guest_end()),
      outside_end_(own_end_),
      id_(id),
      faults_(engine),
      flush_member_(engine.clock(), id),
      window_(engine.backend(), engine.slots(), engine.sequence()) {
  window_.SetPolicy(faults_.view().policy(), faults_.reader());
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.AddVcpu(); });
}

VcpuImpl::~VcpuImpl() {
  TDP_CHECK(!is_in_guest());
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.RemoveVcpu(); });
  engine_.vcpus().Remove(id_, std::move(dirty_ring_), stats());
}

absl::Status VcpuImpl::Start() {
  TDP_ASSIGN_OR_RETURN(dirty_ring_, engine_.vcpus().TakeRing(id_));
  faults_.set_dirty_ring(dirty_ring_.get());
  window_.SetDirtyRing(dirty_ring_.get());
  TDP_RETURN_IF_ERROR(StartSide());
  engine_.vcpus().Add(id_, this);
  return absl::OkStatus();
}

// Makes what a vCPU has beside its EPT, or in its place.
absl::Status VcpuImpl::StartSide() {
  if constexpr (!kHasShadow) return absl::OkStatus();
  switch (engine_.paging_kind()) {
    case PagingKind::kNested: {
      auto impl = std::make_unique<NestedVcpuImpl>(engine_.nested_parts(), flush_member_, window_,
                                                   dirty_ring_.get());
      side_ = impl.get();
      nested_ = MakeShadowOwner<NestedVcpu>(std::move(impl));
      break;
    }
    case PagingKind::kShadow: {
      TDP_ASSIGN_OR_RETURN(std::unique_ptr<ShadowVcpuImpl> impl,
                           ShadowVcpuImpl::Create(engine_.shadow_parts(), flush_member_, window_));
      side_ = impl.get();
      shadow_ = MakeShadowOwner<ShadowVcpu>(std::move(impl));
      break;
    }
    default:
      return absl::OkStatus();
  }
  own_end_ = outside_end_ = Gpa(0);
  return absl::OkStatus();
}

// --- To the guest --------------------------------------------------------------------------------

ABSL_ATTRIBUTE_ALWAYS_INLINE inline GuestEntry VcpuImpl::EnterGuest() {
  own_end_ = Gpa(0);
  if (ABSL_PREDICT_FALSE(side() != nullptr)) return EnterBeside();
  const FlushClock::Member::Owed owed = flush_member_.EnterGuest();
  const Eptp eptp = faults_.view().mmu().eptp();
  if (ABSL_PREDICT_FALSE(owed != FlushClock::Member::Owed::kNothing)) {
    flushes_.Add();
    if (owed == FlushClock::Member::Owed::kAllRoots || uses_several_roots_ ||
        engine_.views(address_space()).has_list()) {
      engine_.backend().InvalidateAll(id_);
    } else {
      engine_.backend().Invalidate(id_, eptp);
    }
  }
  return GuestEntry(this, eptp);
}

GuestEntry VcpuImpl::EnterBeside() {
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  const bool has_new_tables = HasNewTableMemory();
  if (side()->FlushForEntry(id_, owed, has_new_tables)) flushes_.Add();
  return GuestEntry(this, side()->RunsOn(faults_.view().mmu().eptp()));
}

// --- Roots ---------------------------------------------------------------------------------------

absl::Status VcpuImpl::SetAddressSpace(AddressSpaceId space) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  if (space >= engine_.address_spaces()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("address space %u: the VM has %u", space, engine_.address_spaces()));
  }
  if (side() != nullptr) TDP_RETURN_IF_ERROR(side()->SetAddressSpace(space));
  View& base = engine_.views(space).base();
  TDP_CHECK(base.Enter());
  Adopt(space, base);
  window_.SetAddressSpace(space);
  return absl::OkStatus();
}

absl::Status VcpuImpl::SetView(ViewId id) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  View* view = engine_.views(address_space()).Find(id);
  if (view == nullptr || !view->Enter()) {
    return absl::NotFoundError(
        absl::StrFormat("view %u: address space %u has no such view", id, address_space()));
  }
  Adopt(address_space(), *view);
  return absl::OkStatus();
}

// Takes a view that was entered in place of the one before. Translations of both may be cached from
// now on, so a flush that is owed has to be of all roots. The first switch owes one, since the vCPU
// flushed one root alone until then: of others its CPU may hold what vCPUs that run on it in turn
// have left there, as nothing but the root tells whose a guest-physical translation is. A switch
// after memory for tables has come owes one, too: a root of another `Vm` may have stood there.
void VcpuImpl::Adopt(AddressSpaceId space, View& view) {
  if (&view != &faults_.view()) {
    const bool is_first = !std::exchange(uses_several_roots_, true);
    if (HasNewTableMemory() || is_first) flush_member_.ForgetCpu();
  }
  faults_.Adopt(space, view);
  window_.SetPolicy(view.policy(), faults_.reader());
}

// --- Faults --------------------------------------------------------------------------------------

ABSL_ATTRIBUTE_ALWAYS_INLINE inline FaultResult VcpuImpl::HandleEptViolation(
    Gpa gpa, ExitQualification qualification) {
  FaultResult result;
  if (ABSL_PREDICT_TRUE(gpa < own_end_)) {
    faults_.HandleViolation(result, gpa, qualification);
  } else {
    result = HandleUnusual(gpa, qualification, Privacy::kAsSet);
  }
  return result;
}

inline FaultResult VcpuImpl::HandleEptMisconfiguration(Gpa gpa) {
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return FaultError(std::move(bad));
  return faults_.ResultOf(faults_.HandleMisconfiguration(gpa, Privacy::kAsSet));
}

// Answers for a vCPU that may not take the violation, or whose guest has more to say about it.
FaultResult VcpuImpl::HandleUnusual(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  absl::Status bad = CheckAddress(gpa);
  if (bad.ok()) bad = qualification.Check();
  if (!bad.ok()) return FaultError(std::move(bad));
  return faults_.ResultOf(faults_.Handle(FaultRequest::FromExit(gpa, qualification, wanted)));
}

FaultResult VcpuImpl::HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  if (!engine_.options().private_memory) return NoPrivateMemory();
  return HandleUnusual(gpa, qualification, wanted);
}

FaultResult VcpuImpl::HandleEptMisconfiguration(Gpa gpa, Privacy wanted) {
  if (!engine_.options().private_memory) return NoPrivateMemory();
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return FaultError(std::move(bad));
  return faults_.ResultOf(faults_.HandleMisconfiguration(gpa, wanted));
}

absl::Status VcpuImpl::CheckAddress(Gpa gpa) const {
  if (is_in_guest()) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  if (side() != nullptr) TDP_RETURN_IF_ERROR(side()->CheckRunsOnEpt());
  return CheckWidth(gpa);
}

absl::Status VcpuImpl::CheckWidth(Gpa gpa) const {
  if (gpa < engine_.guest_end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("gpa 0x%x is beyond the guest's width (0x%x)",
                                                    gpa.raw(), engine_.guest_end().raw()));
}

absl::Status VcpuImpl::LogPml(absl::Span<const Gpa> pages) {
  if (engine_.dirty_tracking() != DirtyTracking::kPml) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "VmOptions.dirty_tracking is %s, not PML", DirtyTrackingName(engine_.dirty_tracking())));
  }
  for (const Gpa gpa : pages) TDP_RETURN_IF_ERROR(CheckWidth(gpa));
  return faults_.LogPml(pages);
}

absl::StatusOr<ByteCount> VcpuImpl::Prefault(Gpa gpa, ByteCount size, Access access) {
  TDP_RETURN_IF_ERROR(Prefaulter::Check(gpa, size, access));
  TDP_RETURN_IF_ERROR(CheckAddress(gpa + (size - 1)));
  return Prefaulter(faults_).Prefault(gpa, size, access);
}

// --- Walks of the guest's tables -----------------------------------------------------------------

ABSL_ATTRIBUTE_ALWAYS_INLINE inline absl::Status VcpuImpl::WalkGuest(const GuestPaging& paging,
                                                                     const GuestRoots& roots,
                                                                     Gva gva, GuestAccess access,
                                                                     GuestWalk& walk) {
  if (ABSL_PREDICT_FALSE(is_in_guest())) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  {
    MmuReadSection section(faults_.reader());
    GvaToGpa(paging, roots, window_, gva, access, walk);
  }
  if (ABSL_PREDICT_TRUE(walk.outcome != GuestWalkOutcome::kNeedsPage)) return absl::OkStatus();
  return WalkGuestAgain(paging, roots, gva, access, walk);
}

// Walks again, with what the walk lacked. More than a few times the pages of the longest walk means
// that someone takes them away as fast.
absl::Status VcpuImpl::WalkGuestAgain(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                                      GuestAccess access, GuestWalk& walk) {
  constexpr int kWalks = 64;
  for (int i = 0; i < kWalks; ++i) {
    GuestWalkOutcome fetched = GuestWalkOutcome::kMapped;
    TDP_RETURN_IF_ERROR(window_.Fetch(fetched));
    if (fetched == GuestWalkOutcome::kNoMemory) {
      walk.outcome = fetched;
      return absl::OkStatus();
    }
    {
      MmuReadSection section(faults_.reader());
      GvaToGpa(paging, roots, window_, gva, access, walk);
    }
    if (ABSL_PREDICT_TRUE(walk.outcome != GuestWalkOutcome::kNeedsPage)) return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrFormat("guest memory at gpa 0x%x is changing: try again", walk.gpa.raw()));
}

// --- Counting ------------------------------------------------------------------------------------

FaultStats VcpuImpl::stats() const {
  FaultStats stats;
  faults_.AddTo(stats);
  stats.flushes = flushes_.value();
  if (side() != nullptr) side()->AddTo(stats);
  for (const uint64_t leaves : stats.leaves_installed) stats.fixed += leaves;
  return stats;
}

// --- The face ------------------------------------------------------------------------------------

void GuestEntry::Leave() {
  if (VcpuImpl* vcpu = std::exchange(vcpu_, nullptr)) vcpu->LeaveGuest();
}

Vcpu::Vcpu(std::unique_ptr<VcpuImpl> impl) : impl_(std::move(impl)) {}
Vcpu::~Vcpu() = default;

VcpuId Vcpu::id() const { return impl_->id(); }
GuestEntry Vcpu::EnterGuest() { return impl_->EnterGuest(); }
bool Vcpu::is_in_guest() const { return impl_->is_in_guest(); }

FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification) {
  return impl_->HandleEptViolation(gpa, qualification);
}
FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  return impl_->HandleEptViolation(gpa, qualification, wanted);
}
FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa) {
  return impl_->HandleEptMisconfiguration(gpa);
}
FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa, Privacy wanted) {
  return impl_->HandleEptMisconfiguration(gpa, wanted);
}
absl::Status Vcpu::LogPml(absl::Span<const Gpa> pages) { return impl_->LogPml(pages); }
absl::StatusOr<ByteCount> Vcpu::Prefault(Gpa gpa, ByteCount size, Access access) {
  return impl_->Prefault(gpa, size, access);
}

absl::Status Vcpu::SetAddressSpace(AddressSpaceId space) { return impl_->SetAddressSpace(space); }
AddressSpaceId Vcpu::address_space() const { return impl_->address_space(); }
absl::Status Vcpu::SetView(ViewId view) { return impl_->SetView(view); }
ViewId Vcpu::view() const { return impl_->view(); }
void Vcpu::OnCpuChanged() { impl_->OnCpuChanged(); }

absl::Status Vcpu::WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                             GuestAccess access, GuestWalk& walk) {
  return impl_->WalkGuest(paging, roots, gva, access, walk);
}

ShadowVcpu* Vcpu::shadow() { return impl_->shadow(); }
NestedVcpu* Vcpu::nested() { return impl_->nested(); }
FaultStats Vcpu::stats() const { return impl_->stats(); }
DirtyRing* Vcpu::dirty_ring() { return impl_->dirty_ring(); }

}  // namespace tdp
