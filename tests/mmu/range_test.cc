// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests age, split and collapse ranges.

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr Hva kRam{TiB(1)};

class RangeTest : public HostTest {
 protected:
  void Start(VmOptions options = {}, ByteCount size = GiB(4), uint32_t flags = 0) {
    HostTest::Start(options);
    SetFlags(flags, size);
  }
  void SetFlags(uint32_t flags, ByteCount size = GiB(4)) {
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.flags = flags, .gpa = Gpa(0), .size = size, .hva = kRam}).ok());
  }

  // Sets bits in the entry as a CPU does.
  void SetBits(Gpa gpa, uint64_t bits) { EntryRef(EntryOf(*vm_, gpa)).FetchOr(bits); }
  bool Age(Hva start, ByteCount size) {
    AgeResult aged = *vm_->AgeHostRange(start, size);
    last_age_owed_ = aged.flush.is_owed();
    aged.flush.Settle();
    return aged.young;
  }
  void Split(Gpa gpa, ByteCount size, Level to = kLevel4K) {
    vm_->SplitRange(Gfn::Of(gpa), PageCount::FromBytes(size), to)->Settle();
  }
  uint64_t Collapse(Gpa gpa, ByteCount size) {
    return *vm_->CollapseRange(Gfn::Of(gpa), PageCount::FromBytes(size));
  }

  bool last_age_owed_ = false;
};

// --- Aging ---

TEST_F(RangeTest, APageIsYoungFromItsUseToItsAging) {
  Start();
  Fault(Gpa(0x3000));
  EXPECT_TRUE(*vm_->TestAge(kRam, MiB(2)));
  EXPECT_FALSE(*vm_->TestAge(kRam, 0x3000)) << "pages before it are not";
  EXPECT_TRUE(Age(kRam + 0x3000, KiB(4)));
  EXPECT_FALSE(last_age_owed_) << "A bits alone owe nothing";
  EXPECT_FALSE(Age(kRam, GiB(4)));
  SetBits(Gpa(0x3000), ept::kAccessed);
  EXPECT_TRUE(*vm_->TestAge(kRam, GiB(4)));
}

TEST_F(RangeTest, EveryPageOfALargeRangeBecomesOld) {
  for (const Use bits : {Use::kIfOffered, Use::kNever}) {
    vcpu_.reset();
    Start({.accessed_dirty = bits});
    for (uint64_t i = 0; i < 100; ++i) {
      for (const uint64_t page : {0, 1, 77}) Fault(Gpa(i * MiB(2) + page * kPageSize));
    }
    EXPECT_TRUE(Age(kRam, MiB(200)));
    EXPECT_FALSE(*vm_->TestAge(kRam, MiB(200)));
  }
}

TEST_F(RangeTest, WhatRemembersMmioIsNoPageThatWasUsed) {
  HostTest::Start({.accessed_dirty = Use::kNever});
  ASSERT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kMmio);
  SetFlags(0, MiB(2));
  EXPECT_FALSE(*vm_->TestAge(kRam, MiB(2)));
  EXPECT_FALSE(Age(kRam, MiB(2)));
}

TEST_F(RangeTest, AgingKeepsRightsAndD) {
  Start();
  Fault(Gpa(0x3000));
  const EptEntry before = EntryAt(Gpa(0x3000));
  Age(kRam, MiB(2));
  EXPECT_EQ(EntryAt(Gpa(0x3000)), before.WithoutAccessed());
}

TEST_F(RangeTest, LargeLeavesAreYoungAndOldAsAWhole) {
  host_.order = 18;
  Start();
  Fault(Gpa(GiB(1)));
  ASSERT_EQ(LevelOf(Gpa(GiB(1))), 3);
  EXPECT_TRUE(*vm_->TestAge(kRam + GiB(1) + MiB(500), KiB(4)));
  EXPECT_TRUE(Age(kRam + GiB(1) + MiB(500), KiB(4)));
  EXPECT_FALSE(*vm_->TestAge(kRam, GiB(4)));
}

TEST_F(RangeTest, WithoutABitsAgingTakesTheRightsAndOwesTheFlush) {
  Start({.accessed_dirty = Use::kNever});
  Fault(Gpa(0x3000));
  EXPECT_TRUE(Age(kRam, MiB(2)));
  EXPECT_TRUE(last_age_owed_);
  EXPECT_TRUE(EntryAt(Gpa(0x3000)).access().is_empty());
  EXPECT_FALSE(*vm_->TestAge(kRam, MiB(2)));
  EXPECT_FALSE(Age(kRam, MiB(2)));
  EXPECT_FALSE(last_age_owed_) << "nothing was taken";
}

TEST_F(RangeTest, TheNextAccessOfAnAgedPageAsksTheHostNothing) {
  Start({.accessed_dirty = Use::kNever});
  Fault(Gpa(0x3000));
  Age(kRam, MiB(2));
  const int before = host_.resolves;
  EXPECT_EQ(Fault(Gpa(0x3000), kReadFault), FaultOutcome::kFixed);
  EXPECT_FALSE(EntryAt(Gpa(0x3000)).is_writable()) << "W waits for a write";
  EXPECT_TRUE(*vm_->TestAge(kRam, MiB(2)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_TRUE(EntryAt(Gpa(0x3000)).is_writable());
  EXPECT_EQ(host_.resolves, before);
}

// Aging that saved W would fall into this trap: logging is switched on between aging and the next
// read.
TEST_F(RangeTest, AnAgedPageDoesNotComeBackWritableBehindTheDirtyLog) {
  Start({.accessed_dirty = Use::kNever}, MiB(2));
  Fault(Gpa(0x3000));
  Age(kRam, MiB(2));
  SetFlags(kSlotLogDirtyPages, MiB(2));
  EXPECT_EQ(Fault(Gpa(0x4000)), FaultOutcome::kFixed) << "brings W back above both pages";
  EXPECT_EQ(Fault(Gpa(0x3000), kReadFault), FaultOutcome::kFixed);
  EXPECT_FALSE(vm_->Translate(Gpa(0x3000))->access.can_write());
}

// --- Splitting ---

// A of the link tells cold tables from others, and tells a harvest of D bits where to look.
TEST_F(RangeTest, TheLinkToTheTableOfASplitLeafIsAsUsedAsTheLeafWas) {
  host_.order = 9;
  Start({.max_leaf_level = kLevel2M});
  for (const Gpa gpa : {Gpa(MiB(2)), Gpa(MiB(4))}) {
    Fault(gpa);
    uint64_t* const link = EntryOf(*vm_, gpa);
    if (gpa == Gpa(MiB(4))) Age(kRam + MiB(4), MiB(2));
    const bool used = EntryRef(link).Load().accessed();
    Split(gpa, MiB(2));
    ASSERT_EQ(EntryRef(link).Load().kind(kLevel2M), EntryKind::kTable);
    EXPECT_EQ(EntryRef(link).Load().accessed(), used);
  }
}

TEST_F(RangeTest, ASplitKeepsFramesRightsAAndD) {
  host_.order = 9;
  Start();
  Fault(Gpa(MiB(2)), kReadFault);
  Fault(Gpa(MiB(4)));
  const EptEntry clean = EntryAt(Gpa(MiB(2)));
  Split(Gpa(0), MiB(8));
  for (uint64_t i = 0; i < 512; ++i) {
    const EptEntry entry = EntryAt(Gpa(MiB(2) + i * kPageSize));
    ASSERT_EQ(entry, clean.SplitChild(kLevel2M, static_cast<int>(i)));
  }
  EXPECT_FALSE(EntryAt(Gpa(MiB(2) + 0x5000)).dirty());
  EXPECT_TRUE(EntryAt(Gpa(MiB(4) + 0x5000)).dirty());
}

TEST_F(RangeTest, WhatWasYoungAsOneLeafIsYoungAfterTheSplit) {
  host_.order = 9;
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0));
  Split(Gpa(0), MiB(2));
  EXPECT_TRUE(*vm_->TestAge(kRam + MiB(1), kPageSize));
  EXPECT_TRUE(Age(kRam + MiB(1), kPageSize));
}

TEST_F(RangeTest, OnlyLeavesThatTouchTheRangeAreSplitAndOnlyAsFarAsAskedFor) {
  host_.order = 18;
  Start();
  Fault(Gpa(0));
  Fault(Gpa(GiB(1)));
  Split(Gpa(GiB(1) + MiB(7)), MiB(2), kLevel2M);
  EXPECT_EQ(LevelOf(Gpa(0)), 3);
  EXPECT_EQ(LevelOf(Gpa(GiB(1))), 2);
  Split(Gpa(GiB(1) + MiB(7)), MiB(2));
  EXPECT_EQ(LevelOf(Gpa(GiB(1) + MiB(4))), 2);
  EXPECT_EQ(LevelOf(Gpa(GiB(1) + MiB(6))), 1) << "the range begins inside it";
  EXPECT_EQ(LevelOf(Gpa(GiB(1) + MiB(8))), 1);
  EXPECT_EQ(LevelOf(Gpa(GiB(1) + MiB(10))), 2);
}

TEST_F(RangeTest, AWholeGiBSplitsTo4K) {
  host_.order = 18;
  Start();
  Fault(Gpa(GiB(1)));
  Split(Gpa(0), GiB(4));
  EXPECT_EQ(LevelOf(Gpa(GiB(1))), 1);
  EXPECT_EQ(LevelOf(Gpa(GiB(2) - 1)), 1);
  EXPECT_EQ(EntryAt(Gpa(GiB(2) - 1)).frame(), Hfn::Of(Hpa(kRam.raw() + GiB(2) - KiB(4))));
}

TEST_F(RangeTest, ASplitThatRunsOutOfTablesLeavesWhatItDidAndSaysSo) {
  host_.order = 9;
  Start({.table_quota = 64});
  for (uint64_t i = 0; i < 100; ++i) Fault(Gpa(i * MiB(2)));
  const auto flush = vm_->SplitRange(Gfn(0), PageCount::FromBytes(MiB(200)));
  EXPECT_TRUE(absl::IsResourceExhausted(flush.status())) << flush.status();
  EXPECT_EQ(LevelOf(Gpa(0)), 1);
  EXPECT_EQ(LevelOf(Gpa(MiB(198))), 2);
}

TEST_F(RangeTest, WhereNothingIsLargeASplitNeedsNoTablesAndOwesNothing) {
  Start({.table_quota = 40});
  Fault(Gpa(0));
  auto flush = vm_->SplitRange(Gfn(0), PageCount(512));
  ASSERT_TRUE(flush.ok());
  EXPECT_FALSE(flush->is_owed());
}

// --- Collapsing ---

TEST_F(RangeTest, ACollapseUndoesASplit) {
  host_.order = 18;
  Start();
  Fault(Gpa(GiB(1)));
  const EptEntry before = EntryAt(Gpa(GiB(1)));
  Split(Gpa(0), GiB(4));
  const size_t tables = vm_->Stats().tables_in_use;
  EXPECT_EQ(Collapse(Gpa(0), GiB(4)), 513u) << "512 of 2 MiB, then one of 1 GiB";
  EXPECT_EQ(EntryAt(Gpa(GiB(1))), before);
  EXPECT_EQ(vm_->Stats().tables_in_use, tables - 513);
}

// A fault, not a collapse, gives back what a log took from the way to the small leaves.
TEST_F(RangeTest, ACollapsedLeafHasNoRightThatTheWayToItsPagesLacks) {
  host_.order = 9;
  Start({.dirty_tracking = DirtyTracking::kWriteProtection}, MiB(4));
  Fault(Gpa(0x3000));
  Split(Gpa(0), MiB(2));
  ASSERT_TRUE(EntryAt(Gpa(0x3000)).is_writable());
  SetFlags(kSlotLogDirtyPages, MiB(4));
  SetFlags(0, MiB(4));
  ASSERT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  EXPECT_FALSE(EntryAt(Gpa(0x3000)).is_writable());
  EXPECT_EQ(Fault(Gpa(0x3000),
                  ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true)),
            FaultOutcome::kFixed);
  EXPECT_TRUE(EntryAt(Gpa(0x3000)).is_writable());
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 2);
}

TEST_F(RangeTest, ACollapsedLeafIsAccessedAndDirtyIfOneOfItsPagesWas) {
  host_.order = 9;
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0), kReadFault);
  Age(kRam, MiB(2));
  Split(Gpa(0), MiB(2));
  SetBits(Gpa(0x7000), ept::kAccessed | ept::kDirty);
  ASSERT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  EXPECT_TRUE(EntryAt(Gpa(0)).accessed() && EntryAt(Gpa(0)).dirty());
  Age(kRam, MiB(2));
  Split(Gpa(0), MiB(2));
  ASSERT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  EXPECT_FALSE(EntryAt(Gpa(0)).accessed());
}

// A CPU that has the table cached writes through it after it was replaced and before the flush.
TEST_F(RangeTest, ADBitSetInTheOldTableBeforeTheFlushIsNotLost) {
  struct LateCpu : EntryStoreHook {
    void OnStore(const uint64_t*, EptEntry before, EptEntry after) override {
      if (after.kind(kLevel2M) != EntryKind::kLeaf || before.kind(kLevel2M) != EntryKind::kTable) {
        return;
      }
      auto* table = reinterpret_cast<uint64_t*>(before.address().raw());
      table[7] |= ept::kDirty;
      ++seen;
    }
    int seen = 0;
  } cpu;
  host_.order = 9;
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0), kReadFault);
  Split(Gpa(0), MiB(2));
  SetEntryStoreHook(&cpu);
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  SetEntryStoreHook(nullptr);
  ASSERT_EQ(cpu.seen, 1);
  EXPECT_TRUE(EntryAt(Gpa(0)).dirty());
}

// A vCPU is still in the guest when a collapse has changed its tables, and does something there
// before it is kicked out.
class CollapseBesideAGuest : public RangeTest {
 protected:
  void StartSplit(VmOptions options = {}) {
    host_.order = 9;
    options.max_leaf_level = kLevel2M;
    Start(options);
    Fault(Gpa(0), kReadFault);
    Split(Gpa(0), MiB(2));
    old_table_ = EntryOf(*vm_, Gpa(0));
  }
  uint64_t CollapseWhile(std::function<void()> in_guest) {
    std::optional<GuestEntry> entry(vcpu_->EnterGuest());
    host_.on_kick = [&] {
      in_guest();
      entry.reset();
    };
    const uint64_t collapsed = Collapse(Gpa(0), MiB(2));
    EXPECT_FALSE(entry.has_value()) << "nobody was waited for";
    return collapsed;
  }

  uint64_t* old_table_ = nullptr;
};

TEST_F(CollapseBesideAGuest, TheCollapseWaitsUntilNobodyWalksTheOldTable) {
  StartSplit();
  const size_t tables = vm_->Stats().tables_in_use;
  size_t during = 0;
  EXPECT_EQ(CollapseWhile([&] { during = vm_->Stats().tables_in_use; }), 1u);
  EXPECT_EQ(during, tables) << "the guest may still walk it";
  EXPECT_EQ(vm_->Stats().tables_in_use, tables - 1);
}

TEST_F(CollapseBesideAGuest, ADBitThatIsSetJustBeforeTheExitIsNotLost) {
  StartSplit();
  EXPECT_EQ(CollapseWhile([&] { EntryRef(old_table_ + 7).FetchOr(ept::kDirty); }), 1u);
  EXPECT_TRUE(EntryAt(Gpa(0)).dirty());
}

// Where a page has D the CPU writes nothing down, so the log would miss the next write.
TEST_F(CollapseBesideAGuest, ALateDBitIsNotGivenToAPageWhoseLogHasBegunSince) {
  host_.offered.pml = true;
  StartSplit({.dirty_tracking = DirtyTracking::kPml});
  std::optional<GuestEntry> entry(vcpu_->EnterGuest());
  host_.on_kick = [&] {
    host_.on_kick = nullptr;
    EntryRef(old_table_ + 7).FetchOr(ept::kDirty);
    entry.reset();
    std::thread([this] {
      SetFlags(kSlotLogDirtyPages);
      EXPECT_LE(Fault(Gpa(0)), FaultOutcome::kSpurious);
    }).join();
  };
  ASSERT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  const EptEntry page = EntryAt(Gpa(7 * kPageSize));
  EXPECT_TRUE(page.is_writable()) << "the write to page 0 has opened it";
  EXPECT_FALSE(page.dirty());
}

TEST_F(CollapseBesideAGuest, ALateDBitIsNotGivenToAnotherFrame) {
  StartSplit();
  EptEntry moved;
  EXPECT_EQ(CollapseWhile([&] {
              EntryRef(old_table_ + 7).FetchOr(ept::kDirty);
              // This is as if the page had been taken away and faulted in again elsewhere.
              EntryRef entry(EntryOf(*vm_, Gpa(0)));
              moved = EptEntry(entry.Load().raw() + MiB(2));
              entry.Exchange(moved);
            }),
            1u);
  EXPECT_EQ(EntryAt(Gpa(0)), moved);
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam, MiB(2)).ok());
}

TEST_F(RangeTest, ASplitOwesTheFlushOfTheLeafThatItReplaced) {
  host_.order = 9;
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0));
  absl::StatusOr<PendingFlush> flush = vm_->SplitRange(Gfn(0), PageCount(1), kLevel4K);
  ASSERT_TRUE(flush.ok());
  EXPECT_TRUE(flush->is_owed());
  flush->Settle();
}

// Regression: the vCPU's note of the table that its last fault used would lead into the old one,
// whether the host's answer is a page of that size or one that the note alone is asked about.
TEST_F(RangeTest, AFaultBehindACollapseFindsTheLeaf) {
  Start({.max_leaf_level = kLevel2M});
  for (const int order : {9, 0}) {
    const Gpa table(MiB(2) * static_cast<uint64_t>(order));
    host_.order = 0;
    Fault(table + 0x5000);
    host_.order = 9;
    ASSERT_EQ(Collapse(table, MiB(2)), 1u);
    host_.order = order;
    EXPECT_EQ(Fault(table + 0x6000), FaultOutcome::kSpurious);
  }
}

TEST_F(RangeTest, APageWithARuleOfItsOwnKeepsTheTableOfItsNeighbours) {
  Start({.max_leaf_level = kLevel2M});
  const ViewId view = *vm_->CreateView();
  ASSERT_TRUE(vm_->SetViewRights(view, Gfn(9), PageCount(1), Access::Read()).ok());
  ASSERT_TRUE(vcpu_->SetView(view).ok());
  Fault(Gpa(0x5000));
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 0u);
  EXPECT_FALSE(vm_->Translate(Gpa(0x9000), 0, view).ok());
}

TEST_F(RangeTest, APageThatIsWritableKeepsItsTableWhereTheLeafWouldNotBe) {
  host_.writable = false;  // until it is written, as copy on write is
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0x5000));
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 0u);
  EXPECT_TRUE(EntryAt(Gpa(0x5000)).is_writable());
}

TEST_F(RangeTest, WhatTheHostDoesNotBackByALargePageIsNotCollapsed) {
  Start();
  for (uint64_t i = 0; i < 512; ++i) Fault(Gpa(i * kPageSize));
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 0u);
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
}

TEST_F(RangeTest, AnotherFrameOrAnotherTypeInTheTableForbidsTheCollapse) {
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0));
  host_.offset = MiB(64);
  Fault(Gpa(0x1000));
  host_.offset = 0;
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 0u);
  EXPECT_EQ(LevelOf(Gpa(0x1000)), 1);
  const absl::Status broken = vm_->CheckInvariants();
  EXPECT_THAT(broken.message(), testing::HasSubstr("gfn 0x1 level 1: maps frame 0x10004001, but"))
      << "the host has changed its mind and told nobody";
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam, MiB(2)).ok());
}

TEST_F(RangeTest, HolesBecomePartOfTheLeaf) {
  Start({.max_leaf_level = kLevel2M});
  Fault(Gpa(0x5000));
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(4)), 1u) << "and a table without leaves is not there";
  EXPECT_EQ(LevelOf(Gpa(MiB(2) - 1)), 2);
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 0);
}

// More than one section replaces, each with a hole in front.
TEST_F(RangeTest, ManyTablesThatBeginWithAHoleAreAllCollapsed) {
  constexpr uint64_t kGigabytes = 20;
  host_.order = 18;
  Start({}, GiB(kGigabytes));
  for (uint64_t i = 0; i < kGigabytes; ++i) Fault(Gpa(GiB(i)));
  Split(Gpa(0), GiB(kGigabytes), kLevel2M);
  for (uint64_t i = 0; i < kGigabytes; ++i) {
    vm_->ZapRange(Gfn::Of(Gpa(GiB(i))), kLevel2M.pages())->Settle();
  }
  EXPECT_EQ(Collapse(Gpa(0), GiB(kGigabytes)), kGigabytes);
}

// Regression: recovery of huge pages in KVM read permits outside the slot where the host page began
// below it.
TEST_F(RangeTest, ASlotThatBeginsOrEndsInsideAHostPageIsNotCollapsedThere) {
  vm_ = *Vm::Create(host_, {});
  vcpu_ = *vm_->CreateVcpu();
  ASSERT_TRUE(
      vm_->SetMemoryRegion({.gpa = Gpa(MiB(1)), .size = MiB(4), .hva = kRam + MiB(1)}).ok());
  for (uint64_t i = 0; i < 1024; ++i) Fault(Gpa(MiB(1) + i * kPageSize));
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(8)), 1u);
  EXPECT_EQ(LevelOf(Gpa(MiB(1))), 1);
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 2);
  EXPECT_EQ(LevelOf(Gpa(MiB(4))), 1);
}

TEST_F(RangeTest, ASlotThatLogsIsNotCollapsedAndOneThatHasLoggedIs) {
  host_.order = 9;
  Start({.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel2M}, MiB(4),
        kSlotLogDirtyPages);
  for (uint64_t i = 0; i < 512; ++i) Fault(Gpa(i * kPageSize), kReadFault);
  Fault(Gpa(0x9000));
  EXPECT_EQ(Collapse(Gpa(0), MiB(4)), 0u);
  SetFlags(0, MiB(4));
  EXPECT_EQ(Collapse(Gpa(0), MiB(4)), 1u);
  EXPECT_EQ(Fault(Gpa(0x9000)), FaultOutcome::kSpurious);
  EXPECT_TRUE(EntryAt(Gpa(0)).dirty());
}

TEST_F(RangeTest, APageThatTheHostMayNotWriteCollapsesReadOnly) {
  host_.writable = false;
  Start({.max_leaf_level = kLevel2M});
  for (uint64_t i = 0; i < 512; ++i) Fault(Gpa(i * kPageSize), kReadFault);
  host_.order = 9;
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  EXPECT_FALSE(EntryAt(Gpa(0)).is_writable());
  EXPECT_FALSE(EntryAt(Gpa(0)).host_writable());
}

TEST_F(RangeTest, MisuseIsAWordedError) {
  Start();
  EXPECT_THAT(std::string(vm_->SplitRange(Gfn(0), PageCount(1), kLevel1G).status().message()),
              HasSubstr("level 3"));
  EXPECT_THAT(std::string(vm_->CollapseRange(Gfn(0), PageCount(1), 5).status().message()),
              HasSubstr("address space 5"));
  EXPECT_THAT(std::string(vm_->AgeHostRange(Hva(1), 4096).status().message()),
              HasSubstr("start 0x1"));
}

TEST_F(RangeTest, WhatRemembersMmioIsNotCollapsed) {
  host_.order = 9;
  HostTest::Start();
  ASSERT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kMmio);
  SetFlags(0);
  EXPECT_EQ(Collapse(Gpa(0), MiB(2)), 0u);
  EXPECT_FALSE(IsMapped(Gpa(0)));
}

TEST_F(RangeTest, WithoutABitsWhatIsCollapsedOfOldPagesIsOld) {
  host_.order = 9;
  Start({.accessed_dirty = Use::kNever});
  Fault(Gpa(0));
  Split(Gpa(0), MiB(2));
  Age(kRam, MiB(2));
  ASSERT_EQ(Collapse(Gpa(0), MiB(2)), 1u);
  EXPECT_FALSE(*vm_->TestAge(kRam, MiB(2)));
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  EXPECT_TRUE(*vm_->TestAge(kRam, MiB(2)));
}

}  // namespace
}  // namespace tdp
