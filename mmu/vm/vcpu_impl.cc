// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vcpu.h"

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
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/fault/prefault.h"

namespace tdp {
namespace {

ABSL_ATTRIBUTE_NOINLINE FaultResult Error(absl::Status status) {
  return {FaultOutcome::kError, kLevel4K, std::move(status)};
}

FaultResult NoPrivateMemory() {
  return Error(absl::FailedPreconditionError("VmOptions.private_memory is off"));
}

}  // namespace

Vcpu::Vcpu(Engine& engine, VcpuId id)
    : engine_(engine),
      guest_end_(engine.guest_end()),
      id_(id),
      special_(engine.paging_kind() == PagingKind::kReverseMapped ? kReverseMapped : 0),
      faults_(std::make_unique<FaultHandler>(engine)),
      flush_member_(engine.clock(), id),
      window_(engine.backend(), engine.slots(), engine.sequence()) {
  window_.SetPolicy(faults_->view().policy(), faults_->reader());
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.AddVcpu(); });
}

Vcpu::~Vcpu() {
  TDP_CHECK(!is_in_guest());
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.RemoveVcpu(); });
  engine_.vcpus().Remove(id_, std::move(dirty_ring_), stats());
}

// What this vCPU answers faults by, besides its EPT or instead of it.
absl::Status Vcpu::StartShadows() {
  switch (engine_.paging_kind()) {
    case PagingKind::kDirect:
    case PagingKind::kReverseMapped:
      break;
    case PagingKind::kNested:
      SetSpecial(kNestable, true);
      nested_ = MakeShadowOwner<NestedVcpu>(engine_.nested_parts(), flush_member_, window_,
                                            dirty_ring_.get());
      break;
    case PagingKind::kShadow: {
      SetSpecial(kShadowed, true);
      if constexpr (kHasShadow) {
        TDP_ASSIGN_OR_RETURN(shadow_,
                             ShadowVcpu::Create(engine_.shadow_parts(), flush_member_, window_));
      }
      break;
    }
  }
  return absl::OkStatus();
}

// A root that is zapped from here on is emptied, and this vCPU kicked.
GuestEntry Vcpu::EnterOnShadow() {
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  if (shadow_->TakeFlush() || owed) {
    flushes_.Add();
    engine_.backend().InvalidateLinear(id_);
  }
  return GuestEntry(this, Eptp());
}

// Two roots are in use, L1's and L2's, so a flush is always of all.
GuestEntry Vcpu::EnterNestable() {
  // INVEPT drops combined translations of every VPID, and L1 and L2 have no others.
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  if (nested_->TakeFlush() || owed) {
    flushes_.Add();
    engine_.backend().InvalidateAll(id_);
  }
  return GuestEntry(this, nested_->is_entered() ? nested_->eptp() : faults_->view().mmu().eptp());
}

absl::Status Vcpu::CheckRunsOnEpt() const {
  if (shadow_ != nullptr) {
    return absl::FailedPreconditionError("VmOptions.paging is kShadow: there is no EPT");
  }
  if (nested_ != nullptr && nested_->is_entered()) {
    return absl::FailedPreconditionError("the vCPU runs L2: its faults are nested()'s");
  }
  return absl::OkStatus();
}

GuestEntry Vcpu::EnterGuest() {
  SetSpecial(kInGuest, true);
  if (ABSL_PREDICT_FALSE(shadow_ != nullptr)) return EnterOnShadow();
  if (ABSL_PREDICT_FALSE(nested_ != nullptr)) return EnterNestable();
  const FlushClock::Member::Owed owed = flush_member_.EnterGuest();
  // The root is read after the vCPU counts as in the guest: whoever replaces it from here on will
  // kick.
  const Eptp eptp = faults_->view().mmu().eptp();
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

AddressSpaceId Vcpu::address_space() const { return faults_->address_space(); }

ViewId Vcpu::view() const { return faults_->view().id(); }

absl::Status Vcpu::SetAddressSpace(AddressSpaceId space) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  if (space >= engine_.address_spaces()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("address space %u: the VM has %u", space, engine_.address_spaces()));
  }
  if (nested_ != nullptr && nested_->is_entered()) {
    return absl::FailedPreconditionError("the vCPU runs L2: NestedVcpu::Leave comes first");
  }
  if (shadow_ != nullptr) {
    TDP_RETURN_IF_ERROR(shadow_->SetAddressSpace(space));
    flush_member_.ForgetCpu();  // linear translations are not tagged by their root
  }
  View& base = engine_.views(space).base();
  TDP_CHECK(base.Enter());
  if (nested_ != nullptr) nested_->SetAddressSpace(space);
  Adopt(space, base);
  window_.SetAddressSpace(space);
  return absl::OkStatus();
}

absl::Status Vcpu::SetView(ViewId id) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  View* view = engine_.views(address_space()).Find(id);
  if (view == nullptr || !view->Enter()) {
    return absl::NotFoundError(
        absl::StrFormat("view %u: address space %u has no such view", id, address_space()));
  }
  Adopt(address_space(), *view);
  return absl::OkStatus();
}

// A view that was entered, in place of the one before. Translations of both may be cached from now
// on, so a flush that is owed has to be of all roots; a switch itself owes none.
void Vcpu::Adopt(AddressSpaceId space, View& view) {
  uses_several_roots_ = uses_several_roots_ || &view != &faults_->view();
  faults_->Adopt(space, view);
  window_.SetPolicy(view.policy(), faults_->reader());
}

inline FaultResult Vcpu::ResultOf(FaultAnswer answer) {
  FaultResult result{answer.outcome(), answer.level(), absl::OkStatus(), answer.denied()};
  if (ABSL_PREDICT_FALSE(result.outcome == FaultOutcome::kError)) {
    result.status = faults_->TakeError();
  }
  return result;
}

FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification) {
  if (ABSL_PREDICT_TRUE(special_ == 0 && gpa < guest_end_ && qualification.found_nothing())) {
    return ResultOf(faults_->HandlePlain(gpa, qualification));
  }
  const bool refusable = (special_ & ~kReverseMapped) != 0 || gpa >= guest_end_;
  if (ABSL_PREDICT_TRUE(!refusable && qualification.is_possible())) {
    return ResultOf(faults_->HandleExit(gpa, qualification));
  }
  return HandleUnusual(gpa, qualification, Privacy::kAsSet);
}

// Of a vCPU that may not take the violation, or whose guest has more to say about it.
FaultResult Vcpu::HandleUnusual(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  if (ABSL_PREDICT_FALSE(special_ != 0 || gpa >= guest_end_ || !qualification.is_possible())) {
    absl::Status bad = CheckAddress(gpa);
    if (bad.ok()) bad = qualification.Check();
    if (!bad.ok()) return Error(std::move(bad));
  }
  return ResultOf(faults_->Handle(FaultRequest::FromExit(gpa, qualification, wanted)));
}

FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  if (!engine_.options().private_memory) return NoPrivateMemory();
  return HandleUnusual(gpa, qualification, wanted);
}

FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa, Privacy wanted) {
  if (!engine_.options().private_memory) return NoPrivateMemory();
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return Error(std::move(bad));
  return ResultOf(faults_->HandleMisconfiguration(gpa, wanted));
}

FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa) {
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return Error(std::move(bad));
  return ResultOf(faults_->HandleMisconfiguration(gpa, Privacy::kAsSet));
}

absl::Status Vcpu::CheckAddress(Gpa gpa) const {
  if (is_in_guest()) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  TDP_RETURN_IF_ERROR(CheckRunsOnEpt());
  return CheckWidth(gpa);
}

absl::Status Vcpu::CheckWidth(Gpa gpa) const {
  if (gpa < engine_.guest_end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("gpa 0x%x is beyond the guest's width (0x%x)",
                                                    gpa.raw(), engine_.guest_end().raw()));
}

absl::Status Vcpu::LogPml(absl::Span<const Gpa> pages) {
  if (engine_.dirty_tracking() != DirtyTracking::kPml) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "VmOptions.dirty_tracking is %s, not PML", DirtyTrackingName(engine_.dirty_tracking())));
  }
  for (const Gpa gpa : pages) TDP_RETURN_IF_ERROR(CheckWidth(gpa));
  return faults_->LogPml(pages);
}

absl::StatusOr<ByteCount> Vcpu::Prefault(Gpa gpa, ByteCount size, Access access) {
  TDP_RETURN_IF_ERROR(Prefaulter::Check(gpa, size, access));
  TDP_RETURN_IF_ERROR(CheckAddress(gpa + (size - 1)));
  return Prefaulter(*faults_).Prefault(gpa, size, access);
}

absl::Status Vcpu::WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                             GuestAccess access, GuestWalk& walk) {
  if (is_in_guest()) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  // Each try fetches a page that the walk lacked. More than a few times the pages of the longest
  // walk means that someone takes them away as fast.
  constexpr int kTries = 64;
  for (int i = 0; i < kTries; ++i) {
    {
      MmuReadSection section(faults_->reader());
      GvaToGpa(paging, roots, window_, gva, access, walk);
    }
    if (ABSL_PREDICT_TRUE(walk.outcome != GuestWalkOutcome::kNeedsPage)) return absl::OkStatus();
    GuestWalkOutcome fetched = GuestWalkOutcome::kMapped;
    TDP_RETURN_IF_ERROR(window_.Fetch(fetched));
    if (fetched == GuestWalkOutcome::kNoMemory) {
      walk.outcome = fetched;
      return absl::OkStatus();
    }
  }
  return absl::UnavailableError(
      absl::StrFormat("guest memory at gpa 0x%x is changing: try again", walk.gpa.raw()));
}

FaultStats Vcpu::stats() const {
  FaultStats stats;
  faults_->AddTo(stats);
  stats.flushes = flushes_.value();
  if (shadow_ != nullptr) shadow_->AddTo(stats);
  if (nested_ != nullptr) nested_->AddTo(stats);
  for (const uint64_t leaves : stats.leaves_installed) stats.fixed += leaves;
  return stats;
}

}  // namespace tdp
