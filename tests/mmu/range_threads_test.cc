// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Ranges are aged, split, collapsed, prefaulted and taken away while vCPUs fault.

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/test_host.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(8);

// Makes the `i`-th of a random series of operations.
void Operate(Vm& vm, std::mt19937_64& random) {
  const Gfn first(random() % (kSize >> kPageShift));
  const PageCount count(1 + random() % 1024);
  switch (random() % 6) {
    case 0:
      vm.SplitRange(first, count)->Settle();
      break;
    case 1:
    case 2:
      EXPECT_TRUE(vm.CollapseRange(Gfn(0), PageCount::FromBytes(kSize)).ok());
      break;
    case 3:
      vm.AgeHostRange(kRam + first.address().raw(), count.bytes())->flush.Settle();
      break;
    case 4:
      vm.ZapRange(first, PageCount(1 + count.raw() % 8))->Settle();
      break;
    case 5:
      EXPECT_TRUE(vm.InvalidateHostRange(kRam + first.address().raw(), KiB(4)).ok());
      break;
  }
}

void FaultAndOperate(const VmOptions& options) {
  TestHost host;
  host.order = 9;
  auto vm = *Vm::Create(host, options);
  ASSERT_TRUE(vm->SetMemoryRegion({.size = kSize, .hva = kRam}).ok());
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      auto vcpu = *vm->CreateVcpu();
      while (!stop.load(std::memory_order_relaxed)) {
        const Gpa gpa(random() % kSize & ~kPageOffsetMask);
        const FaultResult result = vcpu->HandleEptViolation(gpa, kWriteFault);
        EXPECT_LE(result.outcome, FaultOutcome::kRetry) << result.status;
        if (random() % 16 == 0) {
          const auto done = vcpu->Prefault(Gpa(gpa.raw() / 2).AlignDown(kPageSize), kSize / 2);
          EXPECT_TRUE(done.ok() || absl::IsUnavailable(done.status())) << done.status();
        }
        const auto found = vm->Translate(gpa);
        if (found.ok()) {
          EXPECT_EQ(found->FrameOf(Gfn::Of(gpa)), Hfn::Of(Hpa(kRam.raw() + gpa.raw())));
        }
      }
    });
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 1500; ++i) Operate(*vm, random);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(vm->CheckInvariants().ok()) << vm->CheckInvariants();
}

TEST(RangeThreads, RangesChangeSizeUnderFaultsAndKeepTheirFrames) { FaultAndOperate({}); }

TEST(RangeThreads, SoTheyDoWithoutABits) { FaultAndOperate({.accessed_dirty = Use::kNever}); }

TEST(RangeThreads, EachZapOfAllThatIsShadowedCounts) {
  constexpr uint64_t kZaps = 300000;
  TestHost host;
  host.offered.shadow_paging = true;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.paging = Paging::kShadow});
  const auto zap = [&vm] {
    for (uint64_t i = 0; i < kZaps; ++i) vm->ZapAll()->Settle();
  };
  std::thread other(zap);
  zap();
  other.join();
  EXPECT_EQ(vm->Stats().zaps, 2 * kZaps);
}

}  // namespace
}  // namespace tdp
