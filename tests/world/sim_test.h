// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests that play a guest on simulated CPUs step by step have this fixture.

#ifndef TDP_TESTS_WORLD_SIM_TEST_H_
#define TDP_TESTS_WORLD_SIM_TEST_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/world/sim_world.h"

namespace tdp {

// Has CPUs as they are, and no oracle: what counts here is the order of what vCPUs do.
class SimTest : public testing::Test {
 protected:
  static constexpr Hva kRam = SimWorld::kRam;

  void Start(const VmOptions& options, int vcpus = 1) {
    world_.emplace(SimWorldOptions{.vm = options, .vcpus = vcpus, .cpu = {}, .is_watched = false});
  }
  void TearDown() override { EXPECT_EQ(world_->Check(), absl::OkStatus()); }

  Vm& vm() { return world_->vm(); }
  Vcpu& vcpu(int i = 0) { return world_->vcpu(i); }
  HookedBackend& backend() { return world_->backend(); }
  sim::HostMemory& memory() { return world_->memory(); }
  void Poke(uint64_t gpa, uint64_t value) { world_->Poke(Gpa(gpa), value); }

  // Returns whether `act` kicks vCPU 1 out of the guest. What that has cached may be used until it
  // has left: `while_kicked` comes before.
  bool KicksVcpu1(const std::function<void()>& act, const std::function<void()>& while_kicked) {
    std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
    bool kicked = false;
    backend().on_kick = [&] {
      kicked = true;
      while_kicked();
      in_guest.reset();
    };
    act();
    backend().on_kick = nullptr;
    return kicked;
  }

  std::optional<SimWorld> world_;
};

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_SIM_TEST_H_
