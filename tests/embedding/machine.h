// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The ports of docs/embedding.md run on this simulated machine: a CPU whose guest reaches memory by
// guest-physical addresses, and a host whose virtual addresses are its physical ones, as in a
// hypervisor that owns the machine.

#ifndef TDP_TESTS_EMBEDDING_MACHINE_H_
#define TDP_TESTS_EMBEDDING_MACHINE_H_

#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/vm.h"

namespace tdp {

class IdentityBackend : public sim::SimBackend {
 public:
  using sim::SimBackend::SimBackend;

  absl::StatusOr<HostPage> Resolve(Hva hva, Access /*access*/) override {
    return HostPage{.hfn = Hfn::Of(Hpa(hva.raw())), .order = 18};
  }
};

// Is one exit of the guest, as a hypervisor reads it from the VMCS.
struct EptExit {
  bool is_violation = false;  // else the guest got what it wanted
  Gpa gpa;
  ExitQualification qualification;
};

class Machine {
 public:
  // The CPU keeps every stale translation that it may keep.
  Machine()
      : memory_({.size = GiB(4)}),
        backend_(memory_, {.cpu = {.policy = sim::CachePolicy::kAdversarial}}) {}

  Backend& backend() { return backend_; }
  sim::Cpu& cpu() { return backend_.cpu(0); }

  // Returns `bytes` of host memory that nothing else uses, in one piece.
  Hpa Allocate(ByteCount bytes) {
    const Hva hva(next_);
    next_ += GiB(1);
    EXPECT_EQ(memory_.Map(hva, bytes, {.order = 9}), absl::OkStatus());
    return memory_.Resolve(hva, Access::Write())->hfn.address();
  }
  void Write(Hpa hpa, uint64_t value) { std::memcpy(memory_.At(hpa), &value, sizeof(value)); }
  uint64_t Read(Hpa hpa) const {
    uint64_t value;
    std::memcpy(&value, memory_.At(hpa), sizeof(value));
    return value;
  }

  // Lets the guest make one access; what it reached is `Read(reached)`.
  EptExit Run(Vcpu& vcpu, Gpa gpa, sim::AccessKind kind) {
    const GuestEntry entry = vcpu.EnterGuest();
    EXPECT_EQ(cpu().Enter(entry.eptp()), sim::Event::kNone);
    const sim::AccessResult result = cpu().AccessGpa(gpa, kind, 8);
    if (result.ok()) {
      reached = result.hpa;
      return {};
    }
    EXPECT_EQ(result.event, sim::Event::kEptViolation);
    return {true, cpu().exit().gpa, cpu().exit().qualification};
  }

  Hpa reached;

 private:
  sim::HostMemory memory_;
  IdentityBackend backend_;
  uint64_t next_ = 0x7f00'0000'0000;
};

}  // namespace tdp

#endif  // TDP_TESTS_EMBEDDING_MACHINE_H_
