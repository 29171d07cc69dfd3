// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Views and attributes change here while vCPUs run on them.

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/world/sim_world.h"

namespace tdp {
namespace {

constexpr Hva kShared{GiB(512)};
constexpr Hva kPrivate{GiB(768)};
constexpr ByteCount kSize = MiB(8);
constexpr uint64_t kPages = kSize >> kPageShift;
constexpr uint64_t kPrivateMark = uint64_t{1} << 63;
// A view may deny reads of pages below this one and nowhere else.
constexpr uint64_t kHooked = 64;

class Machine : public SimWorld {
 public:
  explicit Machine(int vcpus)
      : SimWorld({.vm = {.private_memory = true}, .vcpus = 0, .cpus = vcpus, .is_watched = false}) {
    for (const Hva start : {kShared, kPrivate}) {
      EXPECT_EQ(memory().Map(start, kSize, {.order = 9}), absl::OkStatus());
      for (uint64_t page = 0; page < kPages; ++page) {
        const uint64_t stamp = page | (start == kPrivate ? kPrivateMark : 0);
        const Hpa hpa = memory().Resolve(start + page * kPageSize, Access::Write())->hfn.address();
        memory().physical().Store(hpa.raw(), stamp);
      }
    }
    EXPECT_EQ(vm().SetMemoryRegion({.flags = kSlotPrivateMemory,
                                    .gpa = Gpa(0),
                                    .size = kSize,
                                    .hva = kShared,
                                    .private_hva = kPrivate}),
              absl::OkStatus());
    view_ = *vm().CreateView();
  }

  ViewId view() const { return view_; }

  // Is one vCPU, which reads pages, in its view and in the base in turn, until `stop`. It must read
  // the page's own stamp; of which memory that is, `Attributes` says when nobody changes them.
  void Run(uint64_t seed, const std::atomic<bool>& stop, std::atomic<uint64_t>& reads) {
    const std::unique_ptr<Vcpu> vcpu = *vm().CreateVcpu();
    sim::Cpu& cpu = backend().cpu(vcpu->id());
    std::mt19937_64 random(seed);
    ViewId view = kBaseView;
    const auto attempt = [&] { return ReadPages(cpu, random, reads); };
    const auto answer = [&](const sim::Exit& exit) {
      const FaultResult result = AnswerEptExit(*vcpu, exit);
      if (result.outcome == FaultOutcome::kViewDenied) {
        EXPECT_EQ(view, view_);
        EXPECT_LT(Gfn::Of(exit.gpa).raw(), kHooked);
      } else {
        EXPECT_LE(result.outcome, FaultOutcome::kRetry) << result.status;
      }
      return false;
    };
    while (!stop.load(std::memory_order_relaxed)) {
      view = random() % 2 == 0 ? kBaseView : view_;
      ASSERT_EQ(vcpu->SetView(view), absl::OkStatus());
      RunUntilDone(*vcpu, cpu, attempt, answer);
    }
  }

 private:
  sim::Event ReadPages(sim::Cpu& cpu, std::mt19937_64& random, std::atomic<uint64_t>& reads) {
    for (int i = 0; i < 32; ++i) {
      const uint64_t page = random() % kPages;
      const auto result = cpu.AccessGpa(Gfn(page).address(), sim::AccessKind::kLoad, 8);
      if (!result.ok()) return result.event;
      const uint64_t stamp = memory().physical().Load(result.hpa.raw());
      EXPECT_EQ(stamp & ~kPrivateMark, page);
      // Nobody makes these pages private, and nobody may take a page away while the vCPU is in the
      // guest.
      if (page < kHooked) {
        EXPECT_EQ(stamp & kPrivateMark, 0u);
      }
      reads.fetch_add(1, std::memory_order_relaxed);
    }
    return sim::Event::kNone;
  }

  ViewId view_ = kBaseView;
};

void Disturb(Machine& machine, std::mt19937_64& random) {
  const Gfn gfn(kHooked + random() % (kPages - kHooked));
  const PageCount count(1 + random() % (kPages - gfn.raw()));
  const Gfn hook(random() % kHooked);
  Vm& vm = machine.vm();
  switch (random() % 6) {
    case 0:
      EXPECT_EQ(vm.SetMemoryAttributes(gfn.address(), count.bytes(), random() % 2 * 8),
                absl::OkStatus());
      break;
    case 1:
    case 2:
      EXPECT_EQ(vm.SetViewRights(machine.view(), hook, PageCount(1),
                                 random() % 2 == 0 ? Access::Execute() : Access::All()),
                absl::OkStatus());
      break;
    case 3: {
      const ViewId other = *vm.CreateView();
      EXPECT_EQ(vm.SetViewRights(other, hook, PageCount(1), Access::None()), absl::OkStatus());
      EXPECT_EQ(vm.DestroyView(other), absl::OkStatus());
      break;
    }
    case 4:
      vm.ZapAll()->Settle();
      break;
    case 5:
      EXPECT_EQ(vm.InvalidateHostRange(random() % 2 == 0 ? kShared : kPrivate, MiB(2)),
                absl::OkStatus());
      break;
  }
}

TEST(ViewsThreads, VcpusReachWhatTheirViewAndTheAttributesAllowWhileBothChange) {
  Machine machine(2);
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> reads = 0;
  std::vector<std::thread> vcpus;
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    vcpus.emplace_back([&, seed] { machine.Run(seed, stop, reads); });
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 300 || reads.load() < 1000; ++i) Disturb(machine, random);
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(machine.vm().CheckInvariants(), absl::OkStatus());
}

// A view is closed before its last vCPU can have entered, or not at all.
TEST(ViewsThreads, ADestroyedViewHasNoVcpuOnIt) {
  Machine machine(1);
  const std::unique_ptr<Vcpu> vcpu = *machine.vm().CreateVcpu();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> entered = 0;
  std::thread runner([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      const ViewId id = static_cast<ViewId>(machine.view() + 1);
      if (!vcpu->SetView(id).ok()) continue;
      entered.fetch_add(1);
      EXPECT_TRUE(machine.vm().Translate(Gpa(0), 0, id).status() !=
                  absl::NotFoundError("view 2: address space 0 has no such view"))
          << "it stands while this vCPU is on it";
      EXPECT_EQ(vcpu->SetView(kBaseView), absl::OkStatus());
    }
  });
  for (int i = 0; i < 300 || entered.load() < 10; ++i) {
    const ViewId id = *machine.vm().CreateView();
    std::this_thread::yield();
    while (!machine.vm().DestroyView(id).ok()) std::this_thread::yield();
  }
  stop = true;
  runner.join();
}

}  // namespace
}  // namespace tdp
