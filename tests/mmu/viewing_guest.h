// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest on software CPUs that keep every translation they may, for tests of what is denied it.

#ifndef TDP_TESTS_MMU_VIEWING_GUEST_H_
#define TDP_TESTS_MMU_VIEWING_GUEST_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/vm.h"
#include "tests/mmu/logging_guest.h"

namespace tdp {

struct ViewingGuestOptions {
  VmOptions vm;
  sim::CpuFeatures features;
  sim::Controls controls;
  int vcpus = 2;
};

class ViewingGuest {
 public:
  static constexpr Hva kRam{0x7f0000000000};
  using Kind = sim::AccessKind;

  explicit ViewingGuest(const ViewingGuestOptions& options = {})
      : oracle_({.accessed_clear_owed = false}),
        memory_({.size = GiB(1)}),
        backend_(memory_, SimOptions(options)),
        hook_(oracle_, memory_.direct_map_offset()) {
    vm_ = *Vm::Create(backend_, options.vm);
    for (int i = 0; i < options.vcpus; ++i) {
      vcpus_.push_back(*vm_->CreateVcpu());
      EXPECT_EQ(cpu(i).SetControls(options.controls), absl::OkStatus());
      sim::Registers unpaged;
      unpaged.cr0 = sim::kCr0Pe;
      cpu(i).SetRegisters(unpaged);
    }
  }
  ~ViewingGuest() {
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
    for (const sim::StaleUse& use : oracle_.reports()) ADD_FAILURE() << use.DebugString();
  }

  Vm& vm() { return *vm_; }
  Vcpu& vcpu(int i = 0) { return *vcpus_[static_cast<size_t>(i)]; }
  sim::Cpu& cpu(int i = 0) { return backend_.cpu(static_cast<VcpuId>(i)); }
  sim::SimBackend& backend() { return backend_; }
  sim::HostMemory& memory() { return memory_; }

  // A slot at `gpa` over as much host memory, from the same offset on, in pieces of `order`.
  void AddSlot(Gpa gpa, ByteCount size, int order = 0, uint32_t flags = 0, uint32_t slot = 0) {
    ASSERT_EQ(memory_.Map(kRam + gpa.raw(), size, {.order = order}), absl::OkStatus());
    SetSlot(gpa, size, flags, slot);
  }
  void SetSlot(Gpa gpa, ByteCount size, uint32_t flags = 0, uint32_t slot = 0) {
    ASSERT_EQ(
        vm_->SetMemoryRegion(
            {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = kRam + gpa.raw()}),
        absl::OkStatus());
    oracle_.SettleAll();
  }
  void Settle(absl::StatusOr<PendingFlush> flush) {
    ASSERT_EQ(flush.status(), absl::OkStatus());
    flush->Settle();
    oracle_.SettleAll();
  }

  // Makes the access as vCPU `i` and answers its violations, as long as that is to run on. kFixed:
  // it is done. `last` has the fault that it ended with, `last_hpa` the address that it reached.
  FaultOutcome Access(Gpa gpa, Kind kind, int i = 0) {
    return AccessBy(i, [&] { return cpu(i).AccessGpa(gpa, kind, 8); });
  }
  // The same by a linear address, which is a user-mode one where paging is off.
  FaultOutcome AccessLinear(Gpa gpa, Kind kind, int i = 0) {
    return AccessBy(i, [&] { return cpu(i).Access(Gva(gpa.raw()), kind, 8); });
  }
  FaultOutcome Load(Gpa gpa, int i = 0) { return Access(gpa, Kind::kLoad, i); }
  FaultOutcome Store(Gpa gpa, int i = 0) { return Access(gpa, Kind::kStore, i); }
  FaultOutcome Fetch(Gpa gpa, int i = 0) { return Access(gpa, Kind::kFetch, i); }

  // Of the view that vCPU `i` runs on; 0 if nothing maps `gpa` there.
  int LevelOf(Gpa gpa, ViewId view = kBaseView) {
    const auto found = vm_->Translate(gpa, 0, view);
    return found.ok() ? found->level.raw() : 0;
  }

  FaultResult last;
  Hpa last_hpa;
  int exits = 0;       // violations and misconfigurations so far
  int exceptions = 0;  // #VE so far

 private:
  sim::SimBackendOptions SimOptions(const ViewingGuestOptions& options) {
    sim::SimBackendOptions sim;
    sim.cpus = options.vcpus;
    sim.cpu.policy = sim::CachePolicy::kAdversarial;
    sim.cpu.features = options.features;
    sim.oracle = &oracle_;
    return sim;
  }

  template <typename MakeAccess>
  FaultOutcome AccessBy(int i, MakeAccess make_access) {
    for (int tries = 0; tries < 8; ++tries) {
      sim::AccessResult done;
      {
        const GuestEntry entry = vcpu(i).EnterGuest();
        const sim::Event entered = cpu(i).Enter(entry.eptp());
        if (entered == sim::Event::kKick) continue;
        EXPECT_EQ(entered, sim::Event::kNone);
        done = make_access();
      }
      last_hpa = done.hpa;
      if (done.ok()) return FaultOutcome::kFixed;
      if (done.event == sim::Event::kVirtualizationException) {
        ++exceptions;
        return FaultOutcome::kViewDenied;
      }
      ++exits;
      const sim::Exit exit = cpu(i).exit();
      last = exit.event == sim::Event::kEptMisconfiguration
                 ? vcpu(i).HandleEptMisconfiguration(exit.gpa)
                 : vcpu(i).HandleEptViolation(exit.gpa, exit.qualification);
      oracle_.SettleAll();
      if (last.outcome > FaultOutcome::kRetry) return last.outcome;
    }
    ADD_FAILURE() << "the access never ends";
    return FaultOutcome::kError;
  }

  sim::FlushOracle oracle_;
  sim::HostMemory memory_;
  sim::SimBackend backend_;
  OracleHook hook_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_VIEWING_GUEST_H_
