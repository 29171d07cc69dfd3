// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/stop_gate.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

TEST(StopGate, NobodyIsWaitedForWhoHasNotBegunOrHasLeft) {
  StopGate gate(2);
  gate.Close();
  gate.WaitUntilOut();
  gate.Open();
  gate.Pass(1);
  gate.Leave(1);
  gate.Close();
  gate.WaitUntilOut();
}

// Each vCPU counts in the guest, and its counter stands still while it is out.
TEST(StopGate, WhileItIsClosedNoVcpuIsInTheGuest) {
  constexpr size_t kVcpus = 3;
  constexpr int kStops = 100;
  StopGate gate(kVcpus);
  std::atomic<bool> has_ended = false;
  std::vector<std::atomic<int>> entries(kVcpus);
  std::vector<std::atomic<bool>> is_inside(kVcpus);
  std::vector<std::thread> vcpus;
  for (size_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    vcpus.emplace_back([&, vcpu] {
      while (!has_ended) {
        gate.Pass(vcpu);
        is_inside[vcpu] = true;
        ++entries[vcpu];
        is_inside[vcpu] = false;
        gate.Leave(vcpu);
      }
    });
  }
  for (int stop = 0; stop < kStops; ++stop) {
    gate.Close();
    gate.WaitUntilOut();
    std::vector<int> before(kVcpus);
    for (size_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
      EXPECT_FALSE(is_inside[vcpu]);
      before[vcpu] = entries[vcpu];
    }
    std::this_thread::yield();
    for (size_t vcpu = 0; vcpu < kVcpus; ++vcpu) EXPECT_EQ(entries[vcpu], before[vcpu]);
    gate.Open();
  }
  has_ended = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
}

}  // namespace
}  // namespace tdp::vtx
