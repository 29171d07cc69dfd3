// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A backend that lets a test act at the worst moment: while the host is asked for a page, and while
// a flush waits for a CPU that is still in the guest.

#ifndef TDP_TESTS_MMU_SHADOW_HOOKED_BACKEND_H_
#define TDP_TESTS_MMU_SHADOW_HOOKED_BACKEND_H_

#include <functional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/sim_backend.h"

namespace tdp {

// Each hook is called once.
class HookedBackend : public sim::SimBackend {
 public:
  using SimBackend::SimBackend;

  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
    auto page = SimBackend::Resolve(hva, access);
    if (hva == resolve_at) {
      if (auto hook = std::exchange(on_resolve, nullptr)) hook();
    }
    return page;
  }
  void Kick(absl::Span<const VcpuId> vcpus) override {
    SimBackend::Kick(vcpus);
    if (auto hook = std::exchange(on_kick, nullptr)) hook();
  }

  Hva resolve_at;
  std::function<void()> on_resolve;
  std::function<void()> on_kick;
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_SHADOW_HOOKED_BACKEND_H_
