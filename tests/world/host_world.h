// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each test that needs no CPU is made of this: a host whose answers the test decides, a `Vm` on it
// and one vCPU. Each exit is a call.

#ifndef TDP_TESTS_WORLD_HOST_WORLD_H_
#define TDP_TESTS_WORLD_HOST_WORLD_H_

#include <memory>

#include "tdp/mmu/vm.h"
#include "tests/world/test_host.h"

namespace tdp {

template <typename Host>
class HostWorldOn {
 protected:
  void Start(const VmOptions& options = {}, bool with_vcpu = true) {
    vm_ = *Vm::Create(host_, options);
    if (with_vcpu) vcpu_ = *vm_->CreateVcpu();
  }

  FaultOutcome Fault(Gpa gpa, ExitQualification how = kWriteFault) {
    return vcpu_->HandleEptViolation(gpa, how).outcome;
  }
  // Returns whether anything maps `gpa` in the view that the vCPU runs in.
  bool IsMapped(Gpa gpa) { return LevelOf(gpa) != 0; }
  int LevelOf(Gpa gpa) {  // 0 if nothing does
    const auto found = vm_->Translate(gpa, vcpu_->address_space(), vcpu_->view());
    return found.ok() ? found->level.raw() : 0;
  }
  EptEntry EntryAt(Gpa gpa) { return vm_->Translate(gpa)->entry; }

  Host host_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> vcpu_;
};

using HostWorld = HostWorldOn<TestHost>;

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_HOST_WORLD_H_
