// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm::MarkDirty` logs pages that the VMM or a device wrote.

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;
using Pages = std::set<uint64_t>;

// Names a kind of tables, with a way to find the guest's own writes.
struct Kind {
  std::string name;
  VmOptions options;
};

class MarkDirty : public HostTest, public testing::WithParamInterface<Kind> {
 protected:
  static constexpr uint64_t kPages = 2000;

  // Two slots log, of which the second begins where the first ends; then come a hole, a slot that
  // does not log, and one more that logs far above.
  void SetUp() override {
    host_.offered.pml = true;
    Start(GetParam().options, false);
    Add(0, 100, kPages, kSlotLogDirtyPages);
    Add(1, 100 + kPages, kPages, kSlotLogDirtyPages);
    Add(2, 10000, kPages, 0);
    Add(3, MiB(8), kPages, kSlotLogDirtyPages);
  }
  void Add(uint32_t slot, uint64_t frame, uint64_t pages, uint32_t flags,
           AddressSpaceId space = 0) {
    ASSERT_EQ(vm_->SetMemoryRegion({.slot = slot,
                                    .address_space = space,
                                    .flags = flags,
                                    .gpa = Gpa(frame * kPageSize),
                                    .size = pages * kPageSize,
                                    .hva = Hva(0x7f0000000000 + slot * GiB(1))}),
              absl::OkStatus());
  }
  Pages Take(uint32_t slot) { return TakenPages(*vm_, slot); }
};

TEST_P(MarkDirty, EveryPageThatHasAByteOfTheRangeIsInTheNextTakeAndInNoOther) {
  ASSERT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize + 4095), 2), absl::OkStatus());
  EXPECT_EQ(Take(0), (Pages{5, 6}));
  EXPECT_EQ(Take(0), Pages{});
  ASSERT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize), 1), absl::OkStatus());
  EXPECT_EQ(Take(0), Pages{5});
  ASSERT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize), 0), absl::OkStatus());
  EXPECT_EQ(Take(0), Pages{});
}

TEST_P(MarkDirty, ARangeMarksWhatItHasOfEachSlotThatLogs) {
  ASSERT_EQ(vm_->MarkDirty(Gpa((100 + kPages - 2) * kPageSize), 4 * kPageSize), absl::OkStatus());
  EXPECT_EQ(Take(0), (Pages{kPages - 2, kPages - 1}));
  EXPECT_EQ(Take(1), (Pages{0, 1}));
  // The call may name all of the guest's memory: holes as large as it is cost nothing.
  const uint64_t bits = GuestPhysicalBits(GetParam().options);
  ASSERT_EQ(vm_->MarkDirty(Gpa(0), uint64_t{1} << bits), absl::OkStatus());
  for (const uint32_t slot : {0, 1, 3}) EXPECT_EQ(Take(slot).size(), kPages) << slot;
  // Pages that were marked while the slot did not log are not in its log.
  Add(2, 10000, kPages, kSlotLogDirtyPages);
  EXPECT_EQ(Take(2), Pages{});
}

TEST_P(MarkDirty, HolesAndSlotsThatDoNotLogArePassedOver) {
  EXPECT_EQ(vm_->MarkDirty(Gpa(0), 100 * kPageSize), absl::OkStatus());
  EXPECT_EQ(vm_->MarkDirty(Gpa(10000 * kPageSize), kPages * kPageSize), absl::OkStatus());
  for (const uint32_t slot : {0, 1, 3}) EXPECT_EQ(Take(slot), Pages{}) << slot;
}

TEST_P(MarkDirty, RefusesWhatIsNotThereByName) {
  const uint64_t end = uint64_t{1} << GuestPhysicalBits(GetParam().options);
  EXPECT_EQ(vm_->MarkDirty(Gpa(end - 1), 1), absl::OkStatus());
  for (const auto& [gpa, size] : std::vector<std::pair<uint64_t, uint64_t>>{
           {end - 1, 2}, {end, 1}, {100 * kPageSize, ~uint64_t{0}}, {~uint64_t{0}, 1}}) {
    const absl::Status refused = vm_->MarkDirty(Gpa(gpa), size);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.message(), HasSubstr("gpa"));
  }
  EXPECT_EQ(vm_->MarkDirty(Gpa(0), 1, 7).code(), absl::StatusCode::kInvalidArgument);
  for (const uint32_t slot : {0, 1, 3}) EXPECT_EQ(Take(slot), Pages{}) << slot;
}

TEST_P(MarkDirty, AMarkMovesWithItsSlot) {
  ASSERT_EQ(vm_->MarkDirty(Gpa(107 * kPageSize), 1), absl::OkStatus());
  ASSERT_EQ(vm_->SetMemoryRegion({.slot = 0,
                                  .flags = kSlotLogDirtyPages,
                                  .gpa = Gpa(20000 * kPageSize),
                                  .size = kPages * kPageSize,
                                  .hva = Hva(0x7f0000000000)}),
            absl::OkStatus());
  ASSERT_EQ(vm_->MarkDirty(Gpa(20009 * kPageSize), 1), absl::OkStatus());
  EXPECT_EQ(Take(0), (Pages{7, 9}));
}

TEST_P(MarkDirty, IsForVcpusInTheGuestAndForVisitorsToo) {
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  if (GetParam().options.paging != Paging::kShadow) {
    const GuestEntry entry = vcpu->EnterGuest();
    EXPECT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize), 1), absl::OkStatus());
  } else {
    EXPECT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize), 1), absl::OkStatus());
  }
  ASSERT_EQ(vm_->TakeDirtyLog(0,
                              [&](uint64_t, uint64_t) {
                                EXPECT_EQ(vm_->MarkDirty(Gpa(106 * kPageSize), 1),
                                          absl::OkStatus());
                              }),
            absl::OkStatus());
  EXPECT_EQ(Take(0), Pages{6});
}

TEST_P(MarkDirty, ManualProtectionClearsMarksAsWrites) {
  ASSERT_EQ(vm_->SetManualDirtyLogProtect(kDirtyLogManualProtect), absl::OkStatus());
  ASSERT_EQ(vm_->MarkDirty(Gpa(105 * kPageSize), 1), absl::OkStatus());
  const auto dirty = [&] {
    uint64_t seen = 0;
    EXPECT_EQ(vm_->GetDirtyLog(0, [&](uint64_t, uint64_t mask) { seen |= mask; }),
              absl::OkStatus());
    return seen;
  };
  EXPECT_EQ(dirty(), uint64_t{1} << 5);
  const std::vector<uint64_t> bits{~uint64_t{0}};
  ASSERT_EQ(vm_->ClearDirtyLog(0, {0, 64}, bits), absl::OkStatus());
  EXPECT_EQ(dirty(), 0u);
}

TEST_P(MarkDirty, MarksBesideTakesAndMovesOfTheSlot) {
  constexpr uint64_t kRounds = 300;
  std::atomic<int> running{2};
  std::vector<std::thread> devices;
  for (uint64_t device = 0; device < 2; ++device) {
    devices.emplace_back([&, device] {
      for (uint64_t page = device; page < 2 * kRounds; page += 2) {
        // The slot is at one of the two places, or is on its way between them.
        EXPECT_EQ(vm_->MarkDirty(Gpa((100 + page) * kPageSize), 1), absl::OkStatus());
        EXPECT_EQ(vm_->MarkDirty(Gpa((20000 + page) * kPageSize), 1), absl::OkStatus());
      }
      --running;
    });
  }
  std::thread mover([&] {
    for (uint64_t at = 20000; running > 0; at = 20100 - at) {
      EXPECT_EQ(vm_->SetMemoryRegion({.slot = 0,
                                      .flags = kSlotLogDirtyPages,
                                      .gpa = Gpa(at * kPageSize),
                                      .size = kPages * kPageSize,
                                      .hva = Hva(0x7f0000000000)}),
                absl::OkStatus());
    }
  });
  Pages seen;
  while (running > 0) seen.merge(Take(0));
  for (std::thread& device : devices) device.join();
  mover.join();
  seen.merge(Take(0));
  for (const uint64_t page : seen) EXPECT_LT(page, 2 * kRounds);
  ASSERT_EQ(vm_->MarkDirty(Gpa(100 * kPageSize), kPages * kPageSize), absl::OkStatus());
  ASSERT_EQ(vm_->MarkDirty(Gpa(20000 * kPageSize), kPages * kPageSize), absl::OkStatus());
  EXPECT_EQ(Take(0).size(), kPages);
}

TEST_P(MarkDirty, AMarkThatReturnedBeforeATakeIsInIt) {
  std::atomic<uint64_t> marked{0};
  std::atomic<uint64_t> taken{0};
  constexpr uint64_t kRounds = 500;
  // The device takes pages in turn: it marks page n, and the next once a take that began later has
  // returned.
  std::thread device([&] {
    for (uint64_t n = 1; n <= kRounds; ++n) {
      EXPECT_EQ(vm_->MarkDirty(Gpa((100 + n) * kPageSize), 1), absl::OkStatus());
      marked.store(n);
      marked.notify_one();
      taken.wait(n - 1);
    }
  });
  std::thread other([&] {
    do {
      EXPECT_EQ(vm_->MarkDirty(Gpa((100 + kPages) * kPageSize), 64 * kPageSize), absl::OkStatus());
      std::this_thread::yield();
    } while (taken.load() < kRounds);
  });
  Pages seen;
  while (taken.load() < kRounds) {
    const uint64_t before = marked.load();
    seen.merge(Take(0));
    if (before > taken.load()) {
      EXPECT_TRUE(seen.contains(before));
      taken.store(before);
      taken.notify_one();
    }
    if (taken.load() < kRounds) marked.wait(before);
  }
  device.join();
  other.join();
  EXPECT_EQ(Take(1).size(), 64u);
}

std::vector<Kind> Kinds() {
  std::vector<Kind> kinds;
  kinds.push_back({"WriteProtection", {.dirty_tracking = DirtyTracking::kWriteProtection}});
  kinds.push_back({"DirtyBits", {.dirty_tracking = DirtyTracking::kDirtyBits}});
  kinds.push_back({"Pml", {.dirty_tracking = DirtyTracking::kPml}});
  kinds.push_back(
      {"ReverseMap", {.dirty_tracking = DirtyTracking::kWriteProtection, .reverse_map = true}});
  kinds.push_back({"Shadow", {.paging = Paging::kShadow}});
  kinds.push_back({"Nested", {.nested = true}});
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(EveryKind, MarkDirty, testing::ValuesIn(Kinds()),
                         [](const auto& kind) { return kind.param.name; });

TEST(MarkDirtyInSpaces, MarksTheSlotsOfItsAddressSpaceAlone) {
  MinimalBackend backend;
  const std::unique_ptr<Vm> vm = *Vm::Create(backend, {.address_spaces = 2});
  for (const AddressSpaceId space : {0, 1}) {
    ASSERT_EQ(vm->SetMemoryRegion({.address_space = space,
                                   .flags = kSlotLogDirtyPages,
                                   .size = MiB(1),
                                   .hva = Hva(0x7f0000000000)}),
              absl::OkStatus());
  }
  ASSERT_EQ(vm->MarkDirty(Gpa(kPageSize), 1, 1), absl::OkStatus());
  uint64_t seen[2] = {};
  for (const AddressSpaceId space : {0, 1}) {
    EXPECT_EQ(vm->TakeDirtyLog(
                  0, [&](uint64_t, uint64_t mask) { seen[space] |= mask; }, space),
              absl::OkStatus());
  }
  EXPECT_EQ(seen[0], 0u);
  EXPECT_EQ(seen[1], 2u);
}

TEST(MarkDirtyInSpaces, ALogThatStartedAllDirtyStaysSo) {
  MinimalBackend backend;
  const std::unique_ptr<Vm> vm = *Vm::Create(backend);
  ASSERT_EQ(vm->SetManualDirtyLogProtect(kDirtyLogManualProtect | kDirtyLogInitiallySet),
            absl::OkStatus());
  ASSERT_EQ(vm->SetMemoryRegion(
                {.flags = kSlotLogDirtyPages, .size = MiB(1), .hva = Hva(0x7f0000000000)}),
            absl::OkStatus());
  ASSERT_EQ(vm->MarkDirty(Gpa(0), MiB(1)), absl::OkStatus());
  uint64_t pages = 0;
  ASSERT_EQ(
      vm->TakeDirtyLog(
          0, [&](uint64_t, uint64_t mask) { pages += static_cast<uint64_t>(std::popcount(mask)); }),
      absl::OkStatus());
  EXPECT_EQ(pages, 256u);
}

}  // namespace
}  // namespace tdp
