// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A visitor is a vCPU that comes, runs and goes.

#ifndef TDP_TESTS_EXPLORE_VISITOR_H_
#define TDP_TESTS_EXPLORE_VISITOR_H_

#include <memory>

#include "tdp/mmu/vcpu.h"
#include "tests/explore/guest_cpu.h"
#include "tests/explore/world.h"

namespace tdp::explore {

class Visitor {
 public:
  explicit Visitor(World& world)
      : vcpu_(*world.vm().CreateVcpu()), cpu_(world.host(), world.model()) {
    world.host().Attach(vcpu_->id(), &cpu_);
  }
  Vcpu& operator*() { return *vcpu_; }
  Vcpu* operator->() { return vcpu_.get(); }
  GuestCpu& cpu() { return cpu_; }

 private:
  std::unique_ptr<Vcpu> vcpu_;
  GuestCpu cpu_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_VISITOR_H_
