// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs that change their own tables beside two threads of the host.

#ifndef TDP_TESTS_MMU_SHADOW_BESIDE_DISTURBANCES_H_
#define TDP_TESTS_MMU_SHADOW_BESIDE_DISTURBANCES_H_

#include <atomic>
#include <thread>
#include <vector>

#include "tdp/mmu/backend.h"

namespace tdp {

// Runs `remap(vcpu, disturbances)` for vCPUs 0 and 1, each in a thread of its own. Until both are
// done `disturb(seed, running, disturbances)` runs in two more: `running` counts the vCPUs at work,
// and `disturbances` what was done so far. Two of them, since an operation may find that another
// has taken away what it was to take.
template <typename Remap, typename Disturb>
void RunBesideDisturbances(Remap remap, Disturb disturb) {
  std::atomic<int> running{2};
  std::atomic<int> disturbances{0};
  std::vector<std::thread> threads;
  for (VcpuId id = 0; id < 2; ++id) {
    threads.emplace_back([&, id] {
      remap(id, disturbances);
      running.fetch_sub(1);
    });
  }
  threads.emplace_back([&] { disturb(8u, running, disturbances); });
  disturb(7u, running, disturbances);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace tdp

#endif  // TDP_TESTS_MMU_SHADOW_BESIDE_DISTURBANCES_H_
