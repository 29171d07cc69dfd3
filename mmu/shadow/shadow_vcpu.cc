// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <utility>

#include "tdp/mmu/shadow/shadow_vcpu_impl.h"

namespace tdp {

ShadowVcpu::ShadowVcpu(std::unique_ptr<ShadowVcpuImpl> impl) : impl_(std::move(impl)) {}
ShadowVcpu::~ShadowVcpu() = default;

const GuestPaging& ShadowVcpu::paging() const { return impl_->paging(); }
const GuestRoots& ShadowVcpu::roots() const { return impl_->roots(); }
const ShadowRegisters& ShadowVcpu::registers() const { return impl_->registers(); }

absl::StatusOr<GuestEvent> ShadowVcpu::SetPaging(const GuestControls& controls, uint64_t cr3) {
  return impl_->SetPaging(controls, cr3);
}
absl::StatusOr<GuestEvent> ShadowVcpu::WriteCr3(uint64_t value) { return impl_->WriteCr3(value); }
absl::Status ShadowVcpu::Invlpg(Gva gva) { return impl_->Invlpg(gva); }
absl::StatusOr<GuestEvent> ShadowVcpu::Invpcid(uint64_t type, uint64_t pcid, Gva gva) {
  return impl_->Invpcid(type, pcid, gva);
}

// `HandlePageFault` stands in shadow_vcpu_impl.cc, beside what it calls: a call would show.
absl::Status ShadowVcpu::EmulateWrite(Gpa gpa, ByteCount size,
                                      absl::FunctionRef<void(std::byte* place)> store) {
  return impl_->EmulateWrite(gpa, size, store);
}
absl::Status ShadowVcpu::OnWritten(Gpa gpa, ByteCount size) { return impl_->OnWritten(gpa, size); }

}  // namespace tdp
