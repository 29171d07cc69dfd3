// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests log dirty pages off the beaten path: slots of gigabytes, slots that share a table or
// lie across two parts of a log, and the flushes that the calls for the log owe.

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm_options.h"
#include "tdp/tests/mmu/logging_guest.h"
#include "tests/world/dirty_logs.h"

namespace tdp {
namespace {

using ::testing::IsEmpty;
using Pages = std::set<uint64_t>;

constexpr uint64_t kTablePages = MiB(2) / kPageSize;

constexpr Gpa PageAt(Gpa base, uint64_t page) { return base + page * kPageSize; }

class LogCorners : public testing::TestWithParam<DirtyTracking> {
 protected:
  void Write(uint64_t page, int vcpu = 0) { guest_.Write(vcpu, PageAt(base_, page)); }
  bool IsInGuest() { return guest_.vcpu(0).is_in_guest() || guest_.vcpu(1).is_in_guest(); }
  // Returns the entry of 1 GiB around `base_`.
  EntryRef LinkOfGigabyte() {
    const auto entry_in = [this](Hpa table, Level level) {
      return EntryRef(reinterpret_cast<uint64_t*>(guest_.memory().At(table)) +
                      level.IndexOf(Gfn::Of(base_)));
    };
    const EptEntry top = entry_in(guest_.vm().eptp().root(), kLevel512G).Load();
    return entry_in(top.address(), kLevel1G);
  }

  LoggingGuest guest_{{.tracking = GetParam()}};
  Gpa base_{};  // of slot 0
};

INSTANTIATE_TEST_SUITE_P(EveryTracking, LogCorners, EachTracking(), NameOfTracking);

// The protection begins at the entry of 1 GiB, and a write in one 2 MiB must not lift it from the
// others.
TEST_P(LogCorners, AWriteInOneTableOfAGigabyteLeavesTheOthersLogged) {
  base_ = Gpa(GiB(1));
  guest_.AddSlot(0, base_, GiB(1));
  for (uint64_t table = 0; table < 6; ++table) Write(table * kTablePages);
  guest_.SetLogging(0, true);
  EXPECT_THAT(guest_.Take(0), IsEmpty());
  Write(3);
  EXPECT_EQ(guest_.Take(0), Pages{3});
  Write(kTablePages + 5);
  Write(2 * kTablePages);
  EXPECT_EQ(guest_.Take(0), (Pages{kTablePages + 5, 2 * kTablePages}));
}

TEST_P(LogCorners, AWriteInOneLargePageOfAGigabyteLeavesTheOthersLogged) {
  base_ = Gpa(GiB(1));
  guest_.AddSlot(0, base_, GiB(1), 9);
  for (uint64_t table = 0; table < 6; ++table) Write(table * kTablePages);
  guest_.SetLogging(0, true);
  EXPECT_THAT(guest_.Take(0), IsEmpty());
  Write(3);
  Write(2 * kTablePages + 1);
  EXPECT_EQ(guest_.Take(0), (Pages{3, 2 * kTablePages + 1}));
}

// A log that ends shows before the faults are over that still found it. A vCPU that lifted the
// protection under one of them would note a way as writable of which a link then loses W: each of
// its writes there would fault, and each fault be found spurious.
TEST_P(LogCorners, AFaultThatLiftsAProtectionIsRetriedWhileAnotherPushesIt) {
  base_ = Gpa(GiB(1));
  guest_.AddSlot(0, base_, GiB(1));
  Write(0);
  guest_.SetLogging(0, true);
  guest_.SetLogging(0, false);
  const EntryRef link = LinkOfGigabyte();
  ASSERT_FALSE(link.Load().is_writable());
  link.FetchOr(ept::kTablePushing);
  const auto write = ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);
  EXPECT_EQ(guest_.vcpu(0).HandleEptViolation(base_, write).outcome, FaultOutcome::kRetry);
  EXPECT_FALSE(link.Load().is_writable());
  EXPECT_TRUE(link.Load().is_pushing());
  link.FetchAnd(~ept::kTablePushing);
  EXPECT_LE(guest_.vcpu(0).HandleEptViolation(base_, write).outcome, FaultOutcome::kSpurious);
  EXPECT_TRUE(guest_.vm().Translate(base_)->access.can_write());
}

// These are more tables below one entry of 1 GiB than a harvest goes through in one section.
TEST_P(LogCorners, WritesThroughACachedUpperEntryInManyTablesAreInTheNextTake) {
  constexpr uint64_t kTables = 40;
  base_ = Gpa(GiB(1));
  guest_.AddSlot(0, base_, GiB(1));
  guest_.SetLogging(0, true);
  Pages first;
  Pages late;
  for (uint64_t table = 0; table < kTables; ++table) {
    for (const uint64_t page : {0, 1}) Write(table * kTablePages + page);
    first.insert(table * kTablePages);
    late.insert(table * kTablePages + 1);
  }
  guest_.Take(0);
  for (const uint64_t page : first) Write(page);
  bool kicked = false;
  // The tables have been gone through: what is written now is for the next take.
  guest_.before_leaving = [&](int vcpu) {
    if (std::exchange(kicked, true)) return;
    for (const uint64_t page : late) Write(page, vcpu);
  };
  Pages seen = guest_.Take(0);
  guest_.before_leaving = nullptr;
  seen.merge(guest_.Take(0));
  first.merge(late);
  EXPECT_EQ(seen, first);
}

TEST_P(LogCorners, TwoSlotsInOneTableAreTakenInAnyOrder) {
  guest_.AddSlot(0, Gpa(0), 100 * kPageSize);
  guest_.AddSlot(1, PageAt(Gpa(0), 100), 412 * kPageSize);
  for (const uint32_t slot : {0, 1}) guest_.SetLogging(slot, true);
  const auto write_both = [&] {
    Write(50);
    Write(150);
  };
  write_both();
  EXPECT_EQ(guest_.Take(0), Pages{50});
  write_both();
  EXPECT_EQ(guest_.Take(1), Pages{50});
  EXPECT_EQ(guest_.Take(0), Pages{50});
  for (int i = 0; i < 4; ++i) {
    write_both();
    for (const uint32_t slot : {1, 0}) EXPECT_EQ(guest_.Take(slot), Pages{50}) << slot << i;
    EXPECT_THAT(guest_.Take(1), IsEmpty());
  }
}

// The second writes are no faults: with D bits only the table knows of them.
TEST_P(LogCorners, ATableThatIsTakenAwayTellsTheLogsOfAllItsSlots) {
  for (uint32_t slot = 0; slot < 3; ++slot) {
    guest_.AddSlot(slot, PageAt(Gpa(0), 150 * slot), 100 * kPageSize, 0, kSlotLogDirtyPages);
  }
  const auto write_all = [&] {
    for (uint64_t slot = 0; slot < 3; ++slot) Write(150 * slot + 50);
  };
  write_all();
  for (uint32_t slot = 0; slot < 3; ++slot) EXPECT_EQ(guest_.Take(slot), Pages{50}) << slot;
  write_all();
  guest_.Settle(guest_.vm().ZapRange(Gfn(0), PageCount(2 * kTablePages)));
  for (uint32_t slot = 0; slot < 3; ++slot) EXPECT_EQ(guest_.Take(slot), Pages{50}) << slot;
}

// Both spaces have a slot at the same address that logs, over other memory.
TEST_P(LogCorners, ATableOfSmmThatIsTakenAwayTellsTheLogOfItsOwnSpace) {
  LoggingGuest guest({.tracking = GetParam()}, {.address_spaces = 2});
  guest.AddSlot(0, Gpa(0), MiB(2), 0, kSlotLogDirtyPages);
  constexpr Hva kSmram{TiB(3)};
  ASSERT_EQ(guest.memory().Map(kSmram, MiB(2), {}), absl::OkStatus());
  ASSERT_EQ(guest.vm().SetMemoryRegion(
                {.address_space = 1, .flags = kSlotLogDirtyPages, .size = MiB(2), .hva = kSmram}),
            absl::OkStatus());
  ASSERT_EQ(guest.vcpu(0).SetAddressSpace(1), absl::OkStatus());
  const auto take = [&](AddressSpaceId space) {
    return ShownPages([&](auto visit) { return guest.vm().TakeDirtyLog(0, visit, space); });
  };
  guest.Write(0, PageAt(Gpa(0), 50));
  EXPECT_EQ(take(1), Pages{50});
  guest.Write(0, PageAt(Gpa(0), 50));
  guest.Settle(guest.vm().ZapRange(Gfn(0), PageCount(2 * kTablePages), 1));
  EXPECT_EQ(take(1), Pages{50});
  EXPECT_THAT(take(0), IsEmpty());
}

// Page 4096 of a slot is where the next part of its log begins; here that is in the middle of a
// table.
TEST_P(LogCorners, ATableThatLiesAcrossTwoPartsOfTheLogHasRoomInBoth) {
  base_ = PageAt(Gpa(0), 100);
  guest_.AddSlot(0, base_, MiB(64));
  guest_.SetLogging(0, true);
  constexpr uint64_t kNext = DirtyLog::kPagesPerChunk;
  static_assert((kNext + 100) % kTablePages != 0);
  Write(kNext - 10);
  Write(kNext + 10);
  EXPECT_EQ(guest_.Take(0), (Pages{kNext - 10, kNext + 10}));
  Write(kNext + 11);
  EXPECT_EQ(guest_.Take(0), Pages{kNext + 11});
  // A new log gets its parts in the other order.
  guest_.SetLogging(0, false);
  guest_.SetLogging(0, true);
  Write(kNext + 20);
  Write(kNext - 20);
  EXPECT_EQ(guest_.Take(0), (Pages{kNext - 20, kNext + 20}));
}

// The pages were mapped before the log, so the first write opens the whole table.
TEST_P(LogCorners, AWriteThatOpensATableMakesRoomInBothPartsOfTheLog) {
  base_ = PageAt(Gpa(0), 100);
  guest_.AddSlot(0, base_, MiB(64));
  constexpr uint64_t kNext = DirtyLog::kPagesPerChunk;
  const Pages written{kNext - 10, kNext + 10};
  for (const uint64_t page : written) Write(page);
  guest_.SetLogging(0, true);
  for (const uint64_t page : written) Write(page);
  EXPECT_EQ(guest_.Take(0), written);
}

// The next part of the log begins in the middle of the last table, which ends with the slot.
TEST_P(LogCorners, APushMakesRoomInBothPartsOfTheLogThatATableLiesAcross) {
  base_ = PageAt(Gpa(0), 100);
  constexpr uint64_t kNext = DirtyLog::kPagesPerChunk;
  guest_.AddSlot(0, base_, (kNext + kTablePages - 100) * kPageSize);
  for (const uint64_t page : {kNext - 10, kNext + 10}) Write(page);
  guest_.SetLogging(0, true);
  ASSERT_EQ(guest_.vm().PushDownDirtyLog(0), absl::OkStatus());
  for (const uint64_t page : {kNext + 10, kNext - 10}) {
    Write(page);
    EXPECT_EQ(guest_.Take(0), Pages{page});
  }
}

// The slot begins 20 pages before the end of a table, so that its log's first 64 lie in two.
TEST_P(LogCorners, AWordOfTheLogThatLiesAcrossTwoTablesIsNoticedAgainInBoth) {
  base_ = PageAt(Gpa(0), kTablePages - 20);
  guest_.AddSlot(0, base_, MiB(2), 0, kSlotLogDirtyPages);
  for (int round = 0; round < 3; ++round) {
    for (const uint64_t page : {10, 40}) Write(page);
    EXPECT_EQ(guest_.Take(0), (Pages{10, 40})) << "round " << round;
  }
}

TEST_P(LogCorners, ACollapseLeavesSlotsThatLogAlone) {
  base_ = Gpa(0);
  guest_.AddSlot(0, base_, MiB(4), 9, kSlotLogDirtyPages);
  for (uint64_t page = 0; page < kTablePages; ++page) Write(page);
  guest_.Take(0);
  Write(7);
  const auto collapsed = guest_.vm().CollapseRange(Gfn(0), PageCount(2 * kTablePages));
  ASSERT_EQ(collapsed.status(), absl::OkStatus());
  EXPECT_EQ(*collapsed, 0u);
  Write(8);
  EXPECT_EQ(guest_.Take(0), (Pages{7, 8}));
}

TEST_P(LogCorners, NoCpuIsInTheGuestWithARightToThePagesThatAVisitorSees) {
  guest_.AddSlot(0, base_, MiB(4), 0, kSlotLogDirtyPages);
  for (int i = 0; i < 3; ++i) {
    Write(5);
    ASSERT_TRUE(IsInGuest());
    int visits = 0;
    ASSERT_EQ(guest_.vm().TakeDirtyLog(0,
                                       [&](uint64_t, uint64_t) {
                                         ++visits;
                                         EXPECT_FALSE(IsInGuest());
                                       }),
              absl::OkStatus());
    EXPECT_EQ(visits, 1);
  }
}

TEST_P(LogCorners, AClearedPageIsWrittenByNoCpuUnnoticed) {
  ASSERT_EQ(guest_.vm().SetManualDirtyLogProtect(kDirtyLogManualProtect), absl::OkStatus());
  guest_.AddSlot(0, base_, MiB(4), 0, kSlotLogDirtyPages);
  const auto dirty = [&] {
    uint64_t seen = 0;
    EXPECT_EQ(guest_.vm().GetDirtyLog(0, [&](uint64_t, uint64_t mask) { seen |= mask; }),
              absl::OkStatus());
    return seen;
  };
  const std::vector<uint64_t> bits{~uint64_t{0}};
  for (int i = 0; i < 3; ++i) {
    Write(5);
    EXPECT_EQ(dirty(), uint64_t{1} << 5);
    Write(5);  // the CPU has the page cached as writable
    ASSERT_EQ(guest_.vm().ClearDirtyLog(0, {0, 64}, bits), absl::OkStatus());
    Write(5);
    EXPECT_EQ(dirty(), uint64_t{1} << 5) << i;
    ASSERT_EQ(guest_.vm().ClearDirtyLog(0, {0, 64}, bits), absl::OkStatus());
    dirty();
    ASSERT_EQ(guest_.vm().ClearDirtyLog(0, {0, 64}, bits), absl::OkStatus());
    EXPECT_EQ(dirty(), 0u);
  }
}

// The zap marks the page and has not flushed yet, and a CPU has come back since the take's flush.
TEST_P(LogCorners, ATakeFlushesOnceMoreForAPageThatAZapHasMarkedMeanwhile) {
  base_ = Gpa(0);
  guest_.AddSlot(0, base_, MiB(4), 0, kSlotLogDirtyPages);
  Write(5, 0);
  Write(6, 1);
  guest_.Take(0);
  Write(6, 1);
  std::optional<PendingFlush> owed;
  guest_.backend().leave = [&](VcpuId id) {
    guest_.Leave(static_cast<int>(id));
    if (owed.has_value() || guest_.vcpu(0).is_in_guest() || guest_.vcpu(1).is_in_guest()) return;
    if (GetParam() != DirtyTracking::kDirtyBits) return;
    Write(5, 0);  // D is set by the CPU
    owed.emplace(*guest_.vm().ZapRange(Gfn(5), PageCount(1)));
  };
  Pages seen;
  ASSERT_EQ(guest_.vm().TakeDirtyLog(0,
                                     [&](uint64_t base, uint64_t mask) {
                                       EXPECT_FALSE(IsInGuest());
                                       for (uint64_t i = 0; i < 64; ++i) {
                                         if ((mask >> i & 1) != 0) seen.insert(base + i);
                                       }
                                     }),
            absl::OkStatus());
  if (owed.has_value()) {
    EXPECT_EQ(seen, (Pages{5, 6}));
    guest_.Settle(std::move(*owed));
  } else {
    EXPECT_NE(GetParam(), DirtyTracking::kDirtyBits);
    EXPECT_EQ(seen, Pages{6});
  }
  guest_.backend().leave = [&](VcpuId id) { guest_.Leave(static_cast<int>(id)); };
}

// Whoever hands a CPU's log over need not know what faults there were.
TEST(LogOfTheCpu, APageThatNoFaultHasMadeRoomForIsLoggedToo) {
  LoggingGuest guest({.tracking = DirtyTracking::kPml, .vcpus = 1, .oracle = false});
  guest.AddSlot(0, Gpa(0), MiB(64), 0, kSlotLogDirtyPages);
  const std::array pages{Gpa(0x5000), Gpa(MiB(40)), Gpa(0x7000)};
  EXPECT_EQ(guest.vcpu(0).LogPml(pages), absl::OkStatus());
  EXPECT_EQ(guest.Take(0), (Pages{5, 7, MiB(40) / kPageSize}));
}

}  // namespace
}  // namespace tdp
