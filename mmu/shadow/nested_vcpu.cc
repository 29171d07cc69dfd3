// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/nested_vcpu.h"

#include <utility>

#include "tdp/mmu/shadow/nested_vcpu_impl.h"

namespace tdp {

NestedVcpu::NestedVcpu(std::unique_ptr<NestedVcpuImpl> impl) : impl_(std::move(impl)) {}
NestedVcpu::~NestedVcpu() = default;

absl::Status NestedVcpu::Enter(const NestedContext& context) { return impl_->Enter(context); }
absl::Status NestedVcpu::Leave() { return impl_->Leave(); }
bool NestedVcpu::is_entered() const { return impl_->is_entered(); }
Eptp NestedVcpu::eptp() const { return impl_->eptp(); }

NestedFaultResult NestedVcpu::HandleViolation(Gpa gpa, ExitQualification qualification) {
  return impl_->HandleViolation(gpa, qualification);
}
absl::StatusOr<bool> NestedVcpu::Invept(uint64_t type, Eptp eptp, const EntryRules& rules) {
  return impl_->Invept(type, eptp, rules);
}
absl::StatusOr<bool> NestedVcpu::Invvpid(uint64_t type, uint64_t vpid, Gva gva,
                                         const EntryRules& rules, int linear_address_bits) {
  return impl_->Invvpid(type, vpid, gva, rules, linear_address_bits);
}

}  // namespace tdp
