// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This guest runs on software CPUs that keep every translation they may, for tests of what is
// denied it.

#ifndef TDP_TESTS_MMU_VIEWING_GUEST_H_
#define TDP_TESTS_MMU_VIEWING_GUEST_H_

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/world/sim_world.h"

namespace tdp {

struct ViewingGuestOptions {
  VmOptions vm;
  sim::CpuFeatures features;
  sim::Controls controls;
  int vcpus = 2;
};

class ViewingGuest : public SimWorld {
 public:
  using Kind = sim::AccessKind;

  explicit ViewingGuest(const ViewingGuestOptions& options = {})
      : SimWorld(
            {.vm = options.vm,
             .vcpus = options.vcpus,
             .cpu = {.features = options.features, .policy = sim::CachePolicy::kAdversarial}}) {
    for (int i = 0; i < options.vcpus; ++i) {
      EXPECT_EQ(cpu(i).SetControls(options.controls), absl::OkStatus());
      sim::Registers unpaged;
      unpaged.cr0 = sim::kCr0Pe;
      cpu(i).SetRegisters(unpaged);
    }
  }
  ~ViewingGuest() { EXPECT_EQ(Check(), absl::OkStatus()); }

  // Adds a slot at `gpa` over as much host memory, from the same offset on, in pieces of `order`.
  void AddSlot(Gpa gpa, ByteCount size, int order = 0, uint32_t flags = 0, uint32_t slot = 0) {
    ASSERT_EQ(memory().Map(kRam + gpa.raw(), size, {.order = order}), absl::OkStatus());
    SetSlot(gpa, size, flags, slot);
  }
  void SetSlot(Gpa gpa, ByteCount size, uint32_t flags = 0, uint32_t slot = 0) {
    ASSERT_EQ(
        vm().SetMemoryRegion(
            {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = kRam + gpa.raw()}),
        absl::OkStatus());
    oracle().SettleAll();
  }
  // Makes the access as vCPU `i` and answers its violations, as long as that lets it run on. kFixed
  // says that it is done. `last` has the fault that it ended with, `last_hpa` the address that it
  // reached.
  FaultOutcome Access(Gpa gpa, Kind kind, int i = 0) {
    return AccessBy(i, [&] { return cpu(i).AccessGpa(gpa, kind, 8); });
  }
  // Makes the access by a linear address, which is a user-mode one where paging is off.
  FaultOutcome AccessLinear(Gpa gpa, Kind kind, int i = 0) {
    return AccessBy(i, [&] { return cpu(i).Access(Gva(gpa.raw()), kind, 8); });
  }
  FaultOutcome Load(Gpa gpa, int i = 0) { return Access(gpa, Kind::kLoad, i); }
  FaultOutcome Store(Gpa gpa, int i = 0) { return Access(gpa, Kind::kStore, i); }
  FaultOutcome Fetch(Gpa gpa, int i = 0) { return Access(gpa, Kind::kFetch, i); }

  // Returns the level of the leaf that maps `gpa` in `view`; 0 if nothing does.
  int LevelOf(Gpa gpa, ViewId view = kBaseView) {
    const auto found = vm().Translate(gpa, 0, view);
    return found.ok() ? found->level.raw() : 0;
  }

  FaultResult last;
  Hpa last_hpa;
  int exits = 0;       // violations and misconfigurations so far
  int exceptions = 0;  // #VE so far

 private:
  template <typename MakeAccess>
  FaultOutcome AccessBy(int i, MakeAccess make_access) {
    FaultOutcome outcome = FaultOutcome::kFixed;
    const auto attempt = [&] {
      const sim::AccessResult done = make_access();
      last_hpa = done.hpa;
      return done.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      if (exit.event == sim::Event::kVirtualizationException) {
        ++exceptions;
        outcome = FaultOutcome::kViewDenied;
        return false;
      }
      ++exits;
      last = AnswerEptExit(vcpu(i), exit);
      oracle().SettleAll();
      if (last.outcome <= FaultOutcome::kRetry) return true;
      outcome = last.outcome;
      return false;
    };
    EXPECT_TRUE(Run(i, attempt, answer, 8)) << "the access never ends";
    return outcome;
  }
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_VIEWING_GUEST_H_
