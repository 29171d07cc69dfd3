// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vcpu.h"

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/mmu/vm/vcpu_impl.h"

namespace tdp {

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
