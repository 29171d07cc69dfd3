// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests that run guests on simulated CPUs have this machine.

#ifndef TDP_TESTS_WORLD_SIM_BACKENDS_H_
#define TDP_TESTS_WORLD_SIM_BACKENDS_H_

#include <atomic>
#include <functional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/sim_backend.h"

namespace tdp {

// Tells the test what it is asked for.
class HookedBackend : public sim::SimBackend {
 public:
  using SimBackend::SimBackend;

  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
    auto page = SimBackend::Resolve(hva, access);
    if (hva == resolve_at) CallOnce(on_resolve);
    return page;
  }
  void Invalidate(VcpuId vcpu, Eptp eptp) override {
    if (!forgets_flushes) SimBackend::Invalidate(CpuOf(vcpu), eptp);
  }
  void InvalidateAll(VcpuId vcpu) override {
    if (!forgets_flushes) SimBackend::InvalidateAll(CpuOf(vcpu));
  }
  void InvalidateLinear(VcpuId vcpu) override {
    if (forgets_flushes) return;
    ++linear_invalidations;
    SimBackend::InvalidateLinear(vcpu);
  }
  void Kick(absl::Span<const VcpuId> vcpus) override {
    if (leave) {
      for (const VcpuId id : vcpus) leave(id);
      return;
    }
    SimBackend::Kick(vcpus);
    CallOnce(on_kick);
  }

  // Returns the CPU that a vCPU runs on.
  VcpuId CpuOf(VcpuId vcpu) const { return share_one_cpu ? 0 : vcpu; }

  // Makes it as new.
  void ForgetHooks() {
    resolve_at = Hva();
    on_resolve = nullptr;
    on_kick = nullptr;
    leave = nullptr;
    linear_invalidations = 0;
    forgets_flushes = false;
    share_one_cpu = false;
  }

  // The first answer about `resolve_at` calls `on_resolve`, after it was found.
  Hva resolve_at;
  std::function<void()> on_resolve;
  // The first kick calls this, after it was sent.
  std::function<void()> on_kick;
  // Ends the guest entry of a vCPU that is kicked, in place of the simulated CPU: for tests that
  // run all vCPUs on one thread.
  std::function<void(VcpuId)> leave;
  std::atomic<int> linear_invalidations = 0;
  // Plants the classic bug of a port: no translation is ever dropped.
  bool forgets_flushes = false;
  // All vCPUs run on CPU 0, in turn.
  bool share_one_cpu = false;

 private:
  static void CallOnce(std::function<void()>& hook) {
    if (hook == nullptr) return;  // of threads that kick at once, none writes it
    if (auto once = std::exchange(hook, nullptr)) once();
  }
};

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_SIM_BACKENDS_H_
