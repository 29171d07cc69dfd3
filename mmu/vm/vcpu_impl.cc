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
  TDP_RETURN_IF_ERROR(StartShadows());
  engine_.vcpus().Add(id_, this);
  return absl::OkStatus();
}

// Makes what answers faults of a vCPU that has more than its EPT, or something else.
absl::Status VcpuImpl::StartShadows() {
  switch (engine_.paging_kind()) {
    case PagingKind::kNested:
      own_end_ = outside_end_ = Gpa(0);
      if constexpr (kHasShadow) {
        nested_ = MakeShadowOwner<NestedVcpu>(std::make_unique<NestedVcpuImpl>(
            engine_.nested_parts(), flush_member_, window_, dirty_ring_.get()));
      }
      break;
    case PagingKind::kShadow: {
      own_end_ = outside_end_ = Gpa(0);
      if constexpr (kHasShadow) {
        TDP_ASSIGN_OR_RETURN(
            std::unique_ptr<ShadowVcpuImpl> impl,
            ShadowVcpuImpl::Create(engine_.shadow_parts(), flush_member_, window_));
        shadow_ = MakeShadowOwner<ShadowVcpu>(std::move(impl));
      }
      break;
    }
    default:
      break;  // an EPT, and nothing besides
  }
  return absl::OkStatus();
}

// Enters on shadow tables. A root that is zapped from here on is emptied, and this vCPU kicked.
GuestEntry VcpuImpl::EnterOnShadow() {
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  if (shadow_->impl().TakeFlush() || owed) {
    flushes_.Add();
    engine_.backend().InvalidateLinear(id_);
  }
  return GuestEntry(this, Eptp());
}

// Enters where L1 and L2 have a root each: two are in use, so a flush is always of all.
GuestEntry VcpuImpl::EnterNestable() {
  // INVEPT drops combined translations of every VPID, and L1 and L2 have no others.
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  const bool is_new = HasNewTableMemory();  // L2's root may stand there
  if (nested_->impl().TakeFlush() || owed || is_new) {
    flushes_.Add();
    engine_.backend().InvalidateAll(id_);
  }
  return GuestEntry(this,
                    nested_->is_entered() ? nested_->impl().eptp() : faults_.view().mmu().eptp());
}

absl::Status VcpuImpl::CheckRunsOnEpt() const {
  if (shadow_ != nullptr) {
    return absl::FailedPreconditionError("VmOptions.paging is kShadow: there is no EPT");
  }
  if (RunsL2()) {
    return absl::FailedPreconditionError("the vCPU runs L2: its faults are nested()'s");
  }
  return absl::OkStatus();
}

absl::Status VcpuImpl::SetAddressSpace(AddressSpaceId space) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  if (space >= engine_.address_spaces()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("address space %u: the VM has %u", space, engine_.address_spaces()));
  }
  if (RunsL2()) {
    return absl::FailedPreconditionError("the vCPU runs L2: NestedVcpu::Leave comes first");
  }
  if (shadow_ != nullptr) {
    TDP_RETURN_IF_ERROR(shadow_->impl().SetAddressSpace(space));
    flush_member_.ForgetCpu();  // linear translations are not tagged by their root
  }
  View& base = engine_.views(space).base();
  TDP_CHECK(base.Enter());
  if (nested_ != nullptr) nested_->impl().SetAddressSpace(space);
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
  TDP_RETURN_IF_ERROR(CheckRunsOnEpt());
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

// Walks again, with what the walk lacked. More than a few times the pages of the longest walk means
// that someone takes them away as fast.
absl::Status VcpuImpl::WalkGuestAgain(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                                      GuestAccess access, GuestWalk& walk) {
  constexpr int kTries = 64;
  for (int i = 0; i < kTries; ++i) {
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

FaultStats VcpuImpl::stats() const {
  FaultStats stats;
  faults_.AddTo(stats);
  stats.flushes = flushes_.value();
  if (shadow_ != nullptr) shadow_->impl().AddTo(stats);
  if (nested_ != nullptr) nested_->impl().AddTo(stats);
  for (const uint64_t leaves : stats.leaves_installed) stats.fixed += leaves;
  return stats;
}

}  // namespace tdp
