// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests log dirty pages in each way there is, with the software CPU as the one who writes.

#include "tdp/mmu/engine/dirty_round.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm_options.h"
#include "tdp/tests/mmu/logging_guest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/test_host.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Pages = std::set<uint64_t>;

constexpr Gpa PageAt(Gpa base, uint64_t page) { return base + page * kPageSize; }

// Returns the entries of level 2 and above on the way to `gpa`.
std::vector<EntryRef> UpperEntries(LoggingGuest& guest, Gpa gpa) {
  std::vector<EntryRef> entries;
  uint64_t table = guest.vm().eptp().root().raw();
  for (Level level(4); level > kLevel4K; level = level.below()) {
    auto* const at = reinterpret_cast<uint64_t*>(guest.memory().At(Hpa(table)));
    entries.emplace_back(at + level.IndexOf(Gfn::Of(gpa)));
    table = entries.back().Load().address().raw();
  }
  return entries;
}

// --- Each way of tracking -----------------------------------------------------------------------

class EveryTracking : public testing::TestWithParam<DirtyTracking> {
 protected:
  void Start(sim::CachePolicy policy = sim::CachePolicy::kRealistic, VmOptions options = {}) {
    guest_ = std::make_unique<LoggingGuest>(
        LoggingGuestOptions{.tracking = GetParam(), .policy = policy}, options);
  }
  bool by_hardware() const { return IsByHardware(GetParam()); }

  std::unique_ptr<LoggingGuest> guest_;
};

INSTANTIATE_TEST_SUITE_P(DirtyLog, EveryTracking, EachTracking(), NameOfTracking);

TEST_P(EveryTracking, ATakeShowsThePagesWrittenSinceTheOneBefore) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  guest_->Write(0, PageAt(Gpa(0), 5));
  guest_->Write(1, PageAt(Gpa(0), 600));
  guest_->Read(0, PageAt(Gpa(0), 7));
  EXPECT_EQ(guest_->Take(0), Pages({5, 600}));
  EXPECT_EQ(guest_->Take(0), Pages());
  guest_->Write(0, PageAt(Gpa(0), 5));
  guest_->Write(1, PageAt(Gpa(0), 7));
  EXPECT_EQ(guest_->Take(0), Pages({5, 7}));
  EXPECT_EQ(guest_->Take(0), Pages());
}

// The page beside it in its table decides by which way this one is taken out.
TEST_P(EveryTracking, ATakeShowsAPageThatWasZappedByItself) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  using Pair = std::pair<uint64_t, uint64_t>;
  for (const auto& [page, beside] : {Pair{5, 700}, Pair{20, 21}, Pair{41, 40}}) {
    // A read comes first, so that no fault tells of the write where the CPU does.
    for (const uint64_t used : {page, beside}) {
      guest_->Read(0, PageAt(Gpa(0), used));
      guest_->Write(0, PageAt(Gpa(0), used));
    }
    guest_->Settle(*guest_->vm().ZapRange(Gfn(page), PageCount(1)));
    EXPECT_EQ(guest_->Take(0), Pages({page, beside}));
    EXPECT_EQ(guest_->Take(0), Pages());
  }
}

TEST_P(EveryTracking, LoggingStartsCleanWhateverWasWrittenBefore) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4));
  for (uint64_t page = 0; page < 1024; ++page) guest_->Write(page % 2 != 0, PageAt(Gpa(0), page));
  guest_->SetLogging(0, true);
  EXPECT_EQ(guest_->Take(0), Pages());
  guest_->Write(0, PageAt(Gpa(0), 3));
  guest_->Write(1, PageAt(Gpa(0), 511));
  guest_->Read(1, PageAt(Gpa(0), 512));
  EXPECT_EQ(guest_->Take(0), Pages({3, 511}));
}

TEST_P(EveryTracking, LoggingStartsCleanAgainAfterATimeWithout) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  guest_->Write(0, PageAt(Gpa(0), 1));
  guest_->SetLogging(0, false);
  guest_->Write(0, PageAt(Gpa(0), 2));
  guest_->Write(0, PageAt(Gpa(0), 700));
  guest_->SetLogging(0, true);
  EXPECT_EQ(guest_->Take(0), Pages());
  guest_->Write(0, PageAt(Gpa(0), 700));
  guest_->Write(0, PageAt(Gpa(0), 3));
  EXPECT_EQ(guest_->Take(0), Pages({3, 700}));
}

TEST_P(EveryTracking, SlotsThatShareATableAreLoggedApart) {
  Start();
  // Both ends of both slots lie inside a table of leaves.
  const Gpa second(MiB(3) + 8 * kPageSize);
  guest_->AddSlot(0, Gpa(MiB(1) + 3 * kPageSize), MiB(2) + 5 * kPageSize);
  guest_->AddSlot(1, second, MiB(2));
  const Gpa first(MiB(1) + 3 * kPageSize);
  const uint64_t last = guest_->PagesOf(0) - 1;
  guest_->Write(0, PageAt(first, last));
  guest_->Write(0, PageAt(second, 0));
  guest_->SetLogging(0, true);
  guest_->SetLogging(1, true);
  EXPECT_EQ(guest_->Take(0), Pages());
  for (int round = 0; round < 3; ++round) {
    guest_->Write(0, PageAt(first, 0));
    guest_->Write(0, PageAt(first, last));
    guest_->Write(1, PageAt(second, 0));
    guest_->Write(1, PageAt(second, 511));
    EXPECT_EQ(guest_->Take(1), Pages({0, 511})) << round;
    EXPECT_EQ(guest_->Take(0), Pages({0, last})) << round;
    EXPECT_EQ(guest_->Take(0), Pages()) << round;
  }
}

TEST_P(EveryTracking, AWriteInALargePageDirtiesItsFourKilobytesAlone) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(8), 9);
  guest_->Write(0, Gpa(0));
  guest_->Write(0, Gpa(MiB(2)));
  ASSERT_EQ(guest_->vm().Translate(Gpa(MiB(2)))->level, kLevel2M);
  guest_->StartMigration(0);
  guest_->Write(1, PageAt(Gpa(0), 513));
  EXPECT_EQ(guest_->Take(0), Pages({513}));
  EXPECT_EQ(guest_->vm().Translate(Gpa(MiB(2)))->level, kLevel4K);
  EXPECT_EQ(guest_->vm().Translate(Gpa(0))->level, kLevel2M) << "nobody wrote there";
  guest_->Write(0, PageAt(Gpa(0), 600));
  guest_->Write(1, PageAt(Gpa(0), 513));
  EXPECT_EQ(guest_->Take(0), Pages({513, 600}));
}

TEST_P(EveryTracking, ASplitWithoutAWriteDirtiesNothing) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(8), 9);
  for (uint64_t at = 0; at < 4; ++at) guest_->Write(0, Gpa(at * MiB(2)));
  guest_->StartMigration(0);
  guest_->Write(0, Gpa(MiB(6)));  // its table alone is split
  EXPECT_EQ(guest_->Take(0), Pages({1536}));
  guest_->Settle(*guest_->vm().SplitRange(Gfn(0), PageCount(512), kLevel4K));
  guest_->Settle(*guest_->vm().ZapRange(Gfn(600), PageCount(1)));
  guest_->Read(0, PageAt(Gpa(0), 1));
  guest_->Read(1, PageAt(Gpa(0), 601));
  EXPECT_EQ(guest_->Take(0), Pages());
  guest_->Write(0, PageAt(Gpa(0), 2));
  guest_->Write(1, PageAt(Gpa(0), 602));
  EXPECT_EQ(guest_->Take(0), Pages({2, 602}));
}

TEST_P(EveryTracking, TheFirstWritesTakeAFaultAPageOrOneATable) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(2));
  for (uint64_t page = 0; page < 512; ++page) guest_->Write(0, PageAt(Gpa(0), page));
  guest_->SetLogging(0, true);
  int faults = 0;
  for (uint64_t page = 0; page < 512; ++page) faults += guest_->Write(0, PageAt(Gpa(0), page));
  EXPECT_EQ(faults, by_hardware() ? 1 : 512);
  EXPECT_EQ(guest_->Take(0).size(), 512u);
  faults = 0;
  for (uint64_t page = 0; page < 512; ++page) faults += guest_->Write(0, PageAt(Gpa(0), page));
  EXPECT_EQ(faults, by_hardware() ? 0 : 512);
  EXPECT_EQ(guest_->Take(0).size(), 512u);
}

TEST_P(EveryTracking, AfterAnEagerPushDownTheFirstWriteSplitsNothing) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(8), 9);
  for (uint64_t at = 0; at < 4; ++at) guest_->Write(0, Gpa(at * MiB(2)));
  guest_->SetLogging(0, true);
  ASSERT_EQ(guest_->vm().PushDownDirtyLog(0), absl::OkStatus());
  EXPECT_EQ(guest_->vm().Translate(Gpa(MiB(4)))->level, kLevel4K);
  const FaultStats before = guest_->vcpu(0).stats();
  guest_->Write(0, PageAt(Gpa(0), 77));
  guest_->Write(0, PageAt(Gpa(0), 1077));
  const FaultStats after = guest_->vcpu(0).stats();
  EXPECT_EQ(after.splits, before.splits);
  EXPECT_EQ(after.fixed - before.fixed, by_hardware() ? 0u : 2u);
  EXPECT_EQ(after.fast - before.fast, after.fixed - before.fixed) << "without asking the host";
  EXPECT_EQ(guest_->Take(0), Pages({77, 1077}));
}

// The store histories found this: the walk took the hole for that of a whole table.
TEST_P(EveryTracking, AnEagerPushDownReachesATableWhoseFirstPageIsAHole) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4));
  guest_->Write(0, PageAt(Gpa(0), 512 + 77));
  guest_->SetLogging(0, true);
  ASSERT_EQ(guest_->vm().PushDownDirtyLog(0), absl::OkStatus());
  const Translation pushed = *guest_->vm().Translate(PageAt(Gpa(0), 512 + 77));
  EXPECT_EQ(pushed.access.can_write(), by_hardware());
  EXPECT_EQ(pushed.entry.is_writable(), by_hardware()) << "the leaf holds the protection now";
  guest_->Write(0, PageAt(Gpa(0), 512 + 77));
  EXPECT_EQ(guest_->Take(0), Pages({512 + 77}));
}

TEST_P(EveryTracking, AnEagerPushDownWithoutTablesSaysSoAndLosesNothing) {
  Start(sim::CachePolicy::kRealistic, {.table_quota = 40});
  guest_->AddSlot(0, Gpa(0), MiB(64), 9);
  for (uint64_t at = 0; at < 32; ++at) guest_->Write(0, Gpa(at * MiB(2)));
  guest_->SetLogging(0, true);
  EXPECT_TRUE(absl::IsResourceExhausted(guest_->vm().PushDownDirtyLog(0)));
  EXPECT_EQ(guest_->Take(0), Pages());
  EXPECT_TRUE(guest_->vm().Translate(Gpa(MiB(62))).ok());
}

TEST_P(EveryTracking, PagesThatAreTakenAwayKeepTheirMarks) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(8), 0, kSlotLogDirtyPages);
  const auto write_all = [&] {
    for (const uint64_t page : {1u, 600u, 1100u, 1600u}) guest_->Write(0, PageAt(Gpa(0), page));
  };
  const Pages all{1, 600, 1100, 1600};
  write_all();
  guest_->Settle(*guest_->vm().ZapRange(Gfn(1), PageCount(1)));
  guest_->Settle(*guest_->vm().ZapRange(Gfn(512), PageCount(512)));
  EXPECT_EQ(guest_->Take(0), all) << "a page and a table";
  write_all();
  guest_->Settle(*guest_->vm().ZapAll());
  EXPECT_EQ(guest_->Take(0), all) << "everything";
  write_all();
  guest_->InvalidateHost(0, 1, 700);
  EXPECT_EQ(guest_->Take(0), all) << "by the host";
  EXPECT_EQ(guest_->Take(0), Pages());
}

TEST_P(EveryTracking, ATakeFindsWhatWasTakenAwayButNotFlushedYet) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(8), 0, kSlotLogDirtyPages);
  guest_->Write(0, PageAt(Gpa(0), 3));
  guest_->Write(0, PageAt(Gpa(0), 513));
  PendingFlush page = *guest_->vm().ZapRange(Gfn(3), PageCount(1));
  PendingFlush table = *guest_->vm().ZapRange(Gfn(512), PageCount(512));
  EXPECT_EQ(guest_->Take(0), Pages({3, 513}));
  guest_->Settle(std::move(page));
  guest_->Settle(std::move(table));
}

TEST_P(EveryTracking, AMovedSlotTakesItsLogAlong) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  guest_->Write(0, PageAt(Gpa(0), 5));
  ASSERT_EQ(guest_->vm().SetMemoryRegion({.slot = 0,
                                          .flags = kSlotLogDirtyPages,
                                          .gpa = Gpa(GiB(1)),
                                          .size = MiB(4),
                                          .hva = LoggingGuest::kRam}),
            absl::OkStatus());
  guest_->Write(0, PageAt(Gpa(GiB(1)), 6));
  EXPECT_EQ(guest_->Take(0), Pages({5, 6}));
}

TEST_P(EveryTracking, AMovedSlotTakesAlongWhatIsTakenAwayButNotFlushedYet) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  guest_->Write(0, PageAt(Gpa(0), 3));
  guest_->Write(0, PageAt(Gpa(0), 513));
  PendingFlush page = *guest_->vm().ZapRange(Gfn(3), PageCount(1));
  PendingFlush table = *guest_->vm().ZapRange(Gfn(512), PageCount(512));
  ASSERT_EQ(guest_->vm().SetMemoryRegion({.slot = 0,
                                          .flags = kSlotLogDirtyPages,
                                          .gpa = Gpa(GiB(1)),
                                          .size = MiB(4),
                                          .hva = LoggingGuest::kRam}),
            absl::OkStatus());
  guest_->Settle(std::move(page));
  guest_->Settle(std::move(table));
  EXPECT_EQ(guest_->Take(0), Pages({3, 513}));
}

TEST_P(EveryTracking, ASlotThatDoesNotLogIsNotFound) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4));
  const auto nothing = [](uint64_t, uint64_t) {};
  EXPECT_TRUE(absl::IsNotFound(guest_->vm().TakeDirtyLog(0, nothing)));
  EXPECT_TRUE(absl::IsNotFound(guest_->vm().TakeDirtyLog(7, nothing)));
  EXPECT_TRUE(absl::IsInvalidArgument(guest_->vm().TakeDirtyLog(0, nothing, 5)));
  EXPECT_TRUE(absl::IsNotFound(guest_->vm().PushDownDirtyLog(0)));
}

TEST_P(EveryTracking, AFaultThatMeetsAPushOfAnotherIsRetriedAndChangesNothing) {
  Start();
  guest_->AddSlot(0, Gpa(0), MiB(4));
  guest_->Write(0, PageAt(Gpa(0), 1));
  guest_->SetLogging(0, true);
  const EntryRef entry = UpperEntries(*guest_, Gpa(0)).back();
  ASSERT_FALSE(entry.Load().is_writable());
  entry.FetchOr(ept::kTablePushing);
  const auto write = ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);
  const Gpa page = PageAt(Gpa(0), 1);
  EXPECT_EQ(guest_->vcpu(0).HandleEptViolation(page, write).outcome, FaultOutcome::kRetry);
  EXPECT_FALSE(guest_->vm().Translate(page)->access.can_write());
  entry.FetchAnd(~ept::kTablePushing);
  EXPECT_LE(guest_->vcpu(0).HandleEptViolation(page, write).outcome, FaultOutcome::kSpurious);
  EXPECT_TRUE(guest_->vm().Translate(page)->access.can_write());
  EXPECT_EQ(guest_->Take(0), Pages({1}));
}

// Two CPUs keep what they may keep, beside every operation that can come between a write and its
// take. The copy is the model: after a last take it is what the guest wrote, page by page.
TEST_P(EveryTracking, NoWriteIsLostWhateverHappensBetween) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    Start(seed % 2 != 0 ? sim::CachePolicy::kRealistic : sim::CachePolicy::kAdversarial);
    std::mt19937_64 random(seed);
    const Gpa base[2] = {Gpa(3 * kPageSize), Gpa(MiB(8))};
    guest_->AddSlot(0, base[0], MiB(5) + 7 * kPageSize);
    guest_->AddSlot(1, base[1], MiB(8), 9);
    guest_->before_leaving = [&](int i) {
      // The CPU works on through what it has cached, up to the last moment.
      const uint32_t slot = random() % 2;
      if (random() % 2 == 0)
        guest_->cpu(i).Access(Gva(PageAt(base[slot], random() % 512).raw()), sim::AccessKind::kLoad,
                              8);
    };
    guest_->StartMigration(0);
    guest_->StartMigration(1);
    Pages written[2];
    for (int step = 0; step < 3000; ++step) {
      const auto slot = static_cast<uint32_t>(random() % 2);
      const uint64_t page = random() % 8 != 0 ? random() % 40 * 37 % guest_->PagesOf(slot)
                                              : random() % guest_->PagesOf(slot);
      const int cpu = static_cast<int>(random() % 2);
      switch (random() % 64) {
        case 0: {
          const Pages shown = guest_->Take(slot);
          for (const uint64_t p : shown) EXPECT_TRUE(written[slot].contains(p)) << p;
          break;
        }
        case 1:
          guest_->Settle(*guest_->vm().ZapRange(Gfn::Of(PageAt(base[slot], page)),
                                                PageCount(1 + random() % 1024)));
          break;
        case 2:
          guest_->InvalidateHost(slot, page, 1 + random() % (guest_->PagesOf(slot) - page));
          break;
        case 3:
          if (random() % 4 == 0) guest_->Settle(*guest_->vm().ZapAll());
          break;
        case 4:
          EXPECT_EQ(guest_->vm().PushDownDirtyLog(slot), absl::OkStatus());
          break;
        case 5:
          guest_->Leave(cpu);
          break;
        case 6:
          if (random() % 4 == 0) {
            guest_->SetLogging(slot, false);
            // With PML a CPU logs whether or not the slot does: what it still holds is older.
            for (const int i : {0, 1}) guest_->Leave(i);
            guest_->StartMigration(slot);
            written[slot].clear();
          }
          break;
        default:
          if (random() % 3 == 0) {
            guest_->Read(cpu, PageAt(base[slot], page));
          } else {
            guest_->Write(cpu, PageAt(base[slot], page));
            written[slot].insert(page);
          }
      }
    }
    for (const uint32_t slot : {0u, 1u}) {
      guest_->Take(slot);
      EXPECT_THAT(guest_->Differences(slot), IsEmpty());
      EXPECT_EQ(guest_->Take(slot), Pages()) << "nothing was written between";
    }
    guest_.reset();
  }
}

// --- D bits ---

class DirtyBits : public testing::Test {
 protected:
  // A CPU writes page 1 and keeps the upper entries in its caches. The take scans; at the kick of
  // its flush the CPU writes page 2, through what it has, and only then leaves.
  // `between` is called on the lowest upper entry before the take.
  Pages TakeWithLateWrite(const std::function<void(EntryRef)>& between = [](EntryRef) {}) {
    guest_.AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
    guest_.Read(0, PageAt(Gpa(0), 2));
    guest_.Write(0, PageAt(Gpa(0), 1));
    between(UpperEntries(guest_, Gpa(0)).back());
    bool late = false;
    guest_.before_leaving = [&](int i) {
      if (!std::exchange(late, true)) {
        EXPECT_EQ(guest_.Write(i, PageAt(Gpa(0), 2)), 0) << "no exit";
      }
    };
    return guest_.Take(0);
  }

  LoggingGuest guest_;
};

TEST_F(DirtyBits, AWriteThroughACachedUpperEntryAfterTheScanIsInTheNextTake) {
  EXPECT_EQ(TakeWithLateWrite(), Pages({1}));
  // Entries above this one reach beyond the slot, so their A bits are left alone.
  const EntryRef lowest = UpperEntries(guest_, Gpa(0)).back();
  EXPECT_FALSE(lowest.Load().accessed()) << "the CPU set no A: it did not read the entry again";
  EXPECT_EQ(guest_.Take(0), Pages({2}));
  EXPECT_EQ(guest_.Take(0), Pages());
}

// Without the note of the last harvest the write is lost: this shows what the note is for.
TEST_F(DirtyBits, AHarvestGuidedByAccessedBitsAloneLosesThatWrite) {
  EXPECT_EQ(TakeWithLateWrite(), Pages({1}));
  for (const EntryRef entry : UpperEntries(guest_, Gpa(0))) entry.FetchAnd(~ept::kTableRevisit);
  EXPECT_EQ(guest_.Take(0), Pages()) << "page 2 was written";
}

// A search for cold tables clears A and flushes nothing.
TEST_F(DirtyBits, AnAccessedBitThatAnotherClearedWithoutAFlushLosesNothing) {
  EXPECT_EQ(TakeWithLateWrite([](EntryRef entry) {
              EptEntry value = entry.Load();
              ASSERT_TRUE(value.accessed());
              ASSERT_TRUE(entry.CompareExchange(value, value.WithAccessedTaken()));
            }),
            Pages({1}));
  EXPECT_EQ(guest_.Take(0), Pages({2}));
  EXPECT_EQ(guest_.Take(0), Pages());
}

TEST_F(DirtyBits, AFaultThatPresetsTheBitIsInTheTakeEvenIfTheCpuNeverWalks) {
  guest_.AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  const auto write = ExitQualification::Make(Access::Write(), Access::None(), true, true);
  EXPECT_EQ(guest_.vcpu(0).HandleEptViolation(PageAt(Gpa(0), 9), write).outcome,
            FaultOutcome::kFixed);
  EXPECT_EQ(guest_.Take(0), Pages({9}));
}

TEST_F(DirtyBits, AReadFaultMapsThePageWritableAndItsWriteNeedsNoExit) {
  guest_.AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  EXPECT_EQ(guest_.Read(0, PageAt(Gpa(0), 4)), 1);
  EXPECT_EQ(guest_.Write(0, PageAt(Gpa(0), 4)), 0);
  EXPECT_EQ(guest_.Take(0), Pages({4}));
}

// A harvest looks only at those lines of eight entries that were in use at an earlier one, or that
// faults have used since.
TEST_F(DirtyBits, APageInALineThatNoHarvestHasSeenInUseIsInTheNextTake) {
  guest_.AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  for (uint64_t page = 0; page < 1024; page += 8) {
    guest_.Read(0, PageAt(Gpa(0), page));
    guest_.Write(0, PageAt(Gpa(0), page));
    EXPECT_EQ(guest_.Take(0), Pages({page}));
  }
  guest_.Write(0, PageAt(Gpa(0), 3));
  guest_.Write(1, PageAt(Gpa(0), 1016));
  EXPECT_EQ(guest_.Take(0), Pages({3, 1016}));
}

// Faults of a slot that does not log tell harvests nothing.
TEST_F(DirtyBits, APageThatCameWhileNothingWasLoggedIsFoundWhenItIsWrittenUnderTheLog) {
  guest_.AddSlot(0, Gpa(0), MiB(4), 0, kSlotLogDirtyPages);
  guest_.Write(0, PageAt(Gpa(0), 1));
  for (int round = 1; round < 8; ++round) {
    const uint64_t page = static_cast<uint64_t>(round) * 64;
    guest_.Take(0);
    guest_.SetLogging(0, false);
    guest_.Read(0, PageAt(Gpa(0), page));
    guest_.Read(0, PageAt(Gpa(0), page + 8));
    guest_.SetLogging(0, true);
    EXPECT_EQ(guest_.Take(0), Pages());
    EXPECT_LE(guest_.Write(0, PageAt(Gpa(0), page)), 1);
    EXPECT_EQ(guest_.Write(0, PageAt(Gpa(0), page + 8)), 0) << "the CPU alone knows of it";
    EXPECT_EQ(guest_.Take(0), Pages({page, page + 8}));
  }
}

// The slot has the whole table of links, so that a harvest goes by what it has learned of it.
TEST_F(DirtyBits, AWriteBelowATableThatCameAfterATakeIsInTheNextTake) {
  guest_.AddSlot(0, Gpa(0), GiB(1), 0, kSlotLogDirtyPages);
  guest_.Write(0, Gpa(0));
  EXPECT_EQ(guest_.Take(0), Pages({0}));
  EXPECT_EQ(guest_.Take(0), Pages());
  constexpr uint64_t kPage = 300 * 512 + 7;
  guest_.Read(0, PageAt(Gpa(0), kPage));
  EXPECT_EQ(guest_.Write(0, PageAt(Gpa(0), kPage)), 0);
  EXPECT_EQ(guest_.Take(0), Pages({kPage}));
}

TEST_F(DirtyBits, ATableThatComesBackForOtherFramesHasNothingOfItsLinesLeft) {
  guest_.AddSlot(0, Gpa(0), MiB(64), 0, kSlotLogDirtyPages);
  for (uint64_t round = 0; round < 200; ++round) {
    const uint64_t page = round % 32 * 512 + round * 8 % 512;
    guest_.Read(0, PageAt(Gpa(0), page));
    guest_.Write(0, PageAt(Gpa(0), page));
    EXPECT_EQ(guest_.Take(0), Pages({page}));
    if (round % 3 == 0) guest_.vm().ZapRange(Gfn(0), PageCount(16 * 512))->Settle();
  }
}

// A harvest goes through tables of leaves some at a time, and leaves its section now and then. The
// slot begins and ends within a table and a block of 64 entries.
TEST_F(DirtyBits, APageOfEachOfManyTablesIsInTheNextTakeAndInNoOther) {
  constexpr uint64_t kFirst = 37;
  constexpr uint64_t kPages = 120 * 512 + 91;
  const Gpa base = PageAt(Gpa(0), kFirst);
  guest_.AddSlot(0, base, kPages * kPageSize, 0, kSlotLogDirtyPages);
  const auto write = [&](Pages& written, uint64_t page) {
    guest_.Write(static_cast<int>(page % 2), PageAt(base, page));
    written.insert(page);
  };
  for (uint64_t round = 0; round < 4; ++round) {
    Pages written;
    // A table in eight is left out, one is full, and the ends are there.
    for (uint64_t table = 0; table < 120; ++table) {
      if (table % 8 != round) write(written, table * 512 + (table * 67 + round * 8) % 512);
    }
    for (uint64_t page = 0; page < 512; ++page) write(written, (40 + round) * 512 + page);
    write(written, 0);
    write(written, kPages - 1);
    EXPECT_EQ(guest_.Take(0), written) << round;
    EXPECT_EQ(guest_.Take(0), Pages()) << round;
  }
}

// --- PML ---

TEST(Pml, AFullLogIsAnExitAndNothingOfItIsLost) {
  LoggingGuest guest({.tracking = DirtyTracking::kPml, .vcpus = 1});
  guest.AddSlot(0, Gpa(0), MiB(8), 0, kSlotLogDirtyPages);
  for (uint64_t page = 0; page < 2048; ++page) guest.Read(0, PageAt(Gpa(0), page));
  int exits = 0;
  for (uint64_t page = 0; page < 2048; ++page) exits += guest.Write(0, PageAt(Gpa(0), page));
  EXPECT_GE(exits, 3);
  EXPECT_EQ(guest.Take(0).size(), 2048u);
}

TEST(Pml, MisuseIsAWordedError) {
  LoggingGuest without({.tracking = DirtyTracking::kDirtyBits, .vcpus = 1});
  const Gpa page(0x1000);
  EXPECT_THAT(std::string(without.vcpu(0).LogPml({&page, 1}).message()),
              HasSubstr("dirty_tracking is D bits, not PML"));
  LoggingGuest guest({.tracking = DirtyTracking::kPml, .vcpus = 1, .oracle = false});
  const Gpa far(uint64_t{1} << 48);
  EXPECT_THAT(std::string(guest.vcpu(0).LogPml({&far, 1}).message()),
              HasSubstr("gpa 0x1000000000000 is beyond the guest's width"));
  EXPECT_EQ(guest.vcpu(0).LogPml({&page, 1}), absl::OkStatus()) << "no slot there: nothing to log";
}

// --- Options ---

TEST(DirtyTrackingOption, WhatTheBackendLacksIsAnErrorByName) {
  TestHost backend;
  const auto message = [&](VmOptions options) {
    return std::string(Vm::Create(backend, options).status().message());
  };
  EXPECT_THAT(message({.dirty_tracking = DirtyTracking::kPml}),
              HasSubstr("dirty_tracking: the backend does not offer PML"));
  EXPECT_THAT(message({.accessed_dirty = Use::kNever, .dirty_tracking = DirtyTracking::kDirtyBits}),
              HasSubstr("it needs A and D bits"));
  backend.offered.ept = backend.offered.ept.Without(ept::kCapAccessedDirty);
  EXPECT_THAT(message({.dirty_tracking = DirtyTracking::kDirtyBits}),
              HasSubstr("dirty_tracking: the backend does not offer A and D bits"));
}

TEST(DirtyTrackingOption, TheBestIsDirtyBitsWhereTheyAreInUse) {
  TestHost backend;
  const auto in_use = [&](VmOptions options) {
    return DirtyTrackingInUse(options, backend.capabilities());
  };
  EXPECT_EQ(in_use({}), DirtyTracking::kDirtyBits);
  EXPECT_EQ(in_use({.accessed_dirty = Use::kNever}), DirtyTracking::kWriteProtection);
  EXPECT_EQ(in_use({.dirty_tracking = DirtyTracking::kWriteProtection}),
            DirtyTracking::kWriteProtection);
  backend.offered.ept = backend.offered.ept.Without(ept::kCapAccessedDirty);
  EXPECT_EQ(in_use({}), DirtyTracking::kWriteProtection);
}

}  // namespace
}  // namespace tdp
