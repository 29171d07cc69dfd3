// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/region_slots.h"

#include <bit>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_log_request.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/slot_plan.h"
#include "tdp/tests/memslot/region_machine.h"

namespace tdp {
namespace {

using Kind = SlotStep::Kind;

// This machine writes its steps down.
class Machine {
 public:
  Machine() : pc_(tree_), slots_(&tree_, pc_.system, &sink_) {
    EXPECT_TRUE(slots_.OnRegionsChanged().ok());
    slots_.set_observer([this](Kind kind, uint32_t, const PlannedSlot& slot) {
      steps_.emplace_back(kind, slot.gpa.raw());
    });
  }

  using Steps = std::vector<std::pair<Kind, uint64_t>>;
  Steps TakeSteps() { return std::exchange(steps_, {}); }

  RegionTree tree_;
  Pc pc_;
  SlotSetSink sink_;
  RegionSlots slots_;
  Steps steps_;
};

TEST(RegionSlots, APcBecomesItsSlots) {
  Machine machine;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const RegionSlots::Applied& applied : machine.slots_.slots()) {
    ranges.emplace_back(applied.slot.gpa.raw(), applied.slot.size);
  }
  const std::vector<std::pair<uint64_t, uint64_t>> want{{0, 0xa0000},
                                                        {0xc0000, 0x20000},
                                                        {0xe0000, 0x20000},
                                                        {0x100000, GiB(3) - MiB(1)},
                                                        {GiB(4) - KiB(256), KiB(256)},
                                                        {GiB(4), GiB(1)}};
  EXPECT_EQ(ranges, want);
  EXPECT_EQ(machine.slots_.slots()[2].slot.flags, kSlotReadOnly);
  EXPECT_EQ(machine.slots_.slots()[0].slot.flags, kSlotLogDirtyPages);
  EXPECT_EQ(machine.slots_.slots()[5].slot.hva, Hva(0x100000000000 + GiB(3)));
  EXPECT_TRUE(machine.sink_.set().CheckInvariants().ok());
}

TEST(RegionSlots, ShowingSmramJoinsTheRamAroundIt) {
  Machine machine;
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, true).ok());
  EXPECT_EQ(machine.TakeSteps(),
            (Machine::Steps{{Kind::kDelete, 0}, {Kind::kDelete, 0xc0000}, {Kind::kCreate, 0}}));
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, false).ok());
  EXPECT_EQ(machine.TakeSteps(),
            (Machine::Steps{{Kind::kDelete, 0}, {Kind::kCreate, 0}, {Kind::kCreate, 0xc0000}}));
}

TEST(RegionSlots, OnlyTheDifferenceIsApplied) {
  Machine machine;
  const int calls = machine.sink_.calls();
  machine.tree_.Begin();
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, true).ok());
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, false).ok());
  ASSERT_TRUE(machine.tree_.Commit().ok());
  EXPECT_EQ(machine.sink_.calls(), calls);
}

TEST(RegionSlots, AReadOnlyChangeIsADeletionAndACreation) {
  Machine machine;
  ASSERT_TRUE(machine.tree_.SetReadOnly(machine.pc_.system, true).ok());
  for (const auto& [kind, gpa] : machine.TakeSteps()) {
    EXPECT_TRUE(kind == Kind::kDelete || kind == Kind::kCreate);
  }
  EXPECT_EQ(machine.slots_.slots()[0].slot.flags, kSlotReadOnly | kSlotLogDirtyPages);
}

TEST(RegionSlots, ALoggingChangeIsAChangeOfFlags) {
  Machine machine;
  ASSERT_TRUE(machine.tree_.SetLogDirty(machine.pc_.ram, false).ok());
  for (const auto& [kind, gpa] : machine.TakeSteps()) EXPECT_EQ(kind, Kind::kFlags);
}

TEST(RegionSlots, ARegionThatMovesIsOneStep) {
  Machine machine;
  RegionSpec spec{.name = "bar", .kind = RegionKind::kRam, .size = MiB(1)};
  spec.host = Hva(0x300000000000);
  Region* const bar = MustCreate(machine.tree_, std::move(spec));
  MustAttach(machine.tree_, machine.pc_.pci, bar, 0xe0000000);
  machine.TakeSteps();
  ASSERT_TRUE(machine.tree_.SetOffset(bar, 0xe0080000).ok());
  EXPECT_EQ(machine.TakeSteps(), (Machine::Steps{{Kind::kMove, 0xe0080000}}));
}

std::set<uint64_t> TakeDirty(RegionSlots& slots, const Region& region) {
  std::set<uint64_t> pages;
  EXPECT_TRUE(slots
                  .TakeDirty(region,
                             [&](uint64_t base, uint64_t mask) {
                               for (; mask != 0; mask &= mask - 1) {
                                 pages.insert(base + std::countr_zero(mask));
                               }
                             })
                  .ok());
  return pages;
}

TEST(RegionSlots, DirtyPagesOutliveTheirSlotWhileTheMemoryStays) {
  Machine machine;
  machine.sink_.Write(Gpa(0x5000));
  machine.sink_.Write(Gpa(0xc1000));
  machine.sink_.Write(Gpa(GiB(4) + 0x2000));
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, true).ok());
  machine.sink_.Write(Gpa(0xa3000));
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, false).ok());
  const uint64_t above = GiB(3) / kPageSize;
  EXPECT_EQ(TakeDirty(machine.slots_, *machine.pc_.ram),
            (std::set<uint64_t>{5, 0xa3, 0xc1, above + 2}));
  EXPECT_TRUE(TakeDirty(machine.slots_, *machine.pc_.ram).empty());
  machine.sink_.Write(Gpa(0x7000));
  ASSERT_TRUE(machine.tree_.SetLogDirty(machine.pc_.ram, false).ok());
  EXPECT_EQ(TakeDirty(machine.slots_, *machine.pc_.ram), std::set<uint64_t>{7});
}

// Adds RAM that logs dirty pages, at `offset` of the PCI hole.
Region* AddRam(Machine& machine, const std::string& name, ByteCount size, uint64_t offset) {
  RegionSpec spec{.name = name, .kind = RegionKind::kRam, .size = size};
  spec.host = Hva(0x300000000000);
  spec.log_dirty = true;
  Region* const ram = MustCreate(machine.tree_, std::move(spec));
  MustAttach(machine.tree_, machine.pc_.pci, ram, offset);
  return ram;
}

constexpr uint64_t kHole = 0xe0000000;

TEST(RegionSlots, ARegionThatIsMadeAnewHasNoneOfTheOldOnesPages) {
  for (const bool at_once : {false, true}) {
    Machine machine;
    Region* const old = AddRam(machine, "old", MiB(1), kHole);
    machine.sink_.Write(Gpa(kHole + 0x3000));
    // The region has saved pages then, and pages that are still in the slot's log.
    ASSERT_TRUE(machine.tree_.SetOffset(old, kHole + MiB(1)).ok());
    ASSERT_TRUE(machine.tree_.SetReadOnly(old, true).ok());
    ASSERT_TRUE(machine.tree_.SetReadOnly(old, false).ok());
    machine.sink_.Write(Gpa(kHole + MiB(1) + 0x5000));
    if (at_once) machine.tree_.Begin();
    ASSERT_TRUE(machine.tree_.Detach(old).ok());
    ASSERT_TRUE(machine.tree_.Destroy(old).ok());
    // Whatever address the next regions get, one of them is likely to get the old one's.
    for (int i = 0; i < 8; ++i) {
      Region* const fresh = AddRam(machine, "fresh", MiB(1), kHole + MiB(1));
      if (!at_once || i == 7) {
        if (at_once) {
          ASSERT_TRUE(machine.tree_.Commit().ok());
        }
        EXPECT_TRUE(TakeDirty(machine.slots_, *fresh).empty());
        machine.sink_.Write(Gpa(kHole + MiB(1) + 0x7000));
        EXPECT_EQ(TakeDirty(machine.slots_, *fresh), std::set<uint64_t>{7});
      }
      ASSERT_TRUE(machine.tree_.Detach(fresh).ok());
    }
  }
}

TEST(RegionSlots, WhatIsKnownOfARegionThatIsDestroyedStaysUntilACommitSucceeds) {
  Machine machine;
  Region* const old = AddRam(machine, "old", MiB(1), kHole);
  machine.sink_.FailAt(machine.sink_.calls() + 1);
  const absl::Status failed = machine.tree_.Detach(old);
  EXPECT_EQ(failed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(failed.message().substr(0, 4), "/old") << "the region is named: " << failed;
  ASSERT_TRUE(machine.tree_.Destroy(old).ok());
  Region* const fresh = MustCreate(machine.tree_, {.name = "fresh", .size = MiB(1)});
  EXPECT_NE(fresh, old) << "the slot of the old one still stands";
  machine.tree_.Begin();
  ASSERT_TRUE(machine.tree_.Commit().ok());
  for (const RegionSlots::Applied& applied : machine.slots_.slots()) {
    EXPECT_NE(applied.slot.region, old);
  }
}

TEST(RegionSlots, PagesBeyondTheNewEndAreForgottenForGood) {
  Machine machine;
  Region* const ram = AddRam(machine, "bar", MiB(1), kHole);
  for (const uint64_t page : {0, 63, 64, 100, 130, 255}) {
    machine.sink_.Write(Gpa(kHole + page * kPageSize));
  }
  ASSERT_TRUE(machine.tree_.SetSize(ram, 65 * kPageSize).ok());
  ASSERT_TRUE(machine.tree_.SetSize(ram, MiB(1)).ok());
  EXPECT_EQ(TakeDirty(machine.slots_, *ram), (std::set<uint64_t>{0, 63, 64}));
}

TEST(RegionSlots, PagesBeyondAnEndThatIsNotCommittedYetAreNotShown) {
  Machine machine;
  Region* const ram = AddRam(machine, "bar", MiB(1), kHole);
  machine.sink_.Write(Gpa(kHole));
  machine.sink_.Write(Gpa(kHole + 200 * kPageSize));
  machine.tree_.Begin();
  ASSERT_TRUE(machine.tree_.SetSize(ram, 64 * kPageSize).ok());
  EXPECT_EQ(TakeDirty(machine.slots_, *ram), std::set<uint64_t>{0});
  ASSERT_TRUE(machine.tree_.Commit().ok());
}

TEST(RegionSlots, WithManualProtectionAPageIsShownOnce) {
  Machine machine;
  ASSERT_TRUE(machine.sink_.SetManualDirtyLogProtect(kDirtyLogManualProtect).ok());
  const uint64_t far = GiB(2) / kPageSize;
  // The slot at 0 ends inside a word, with page 159.
  for (const uint64_t page :
       {uint64_t{3}, uint64_t{64}, uint64_t{159}, far, far + 200, GiB(3) / kPageSize - 1}) {
    machine.sink_.Write(Gpa(page * kPageSize));
  }
  EXPECT_EQ(TakeDirty(machine.slots_, *machine.pc_.ram),
            (std::set<uint64_t>{3, 64, 159, far, far + 200, GiB(3) / kPageSize - 1}));
  EXPECT_TRUE(TakeDirty(machine.slots_, *machine.pc_.ram).empty());
  machine.sink_.Write(Gpa(0x3000));
  // The slot goes, and comes back with a new log.
  ASSERT_TRUE(machine.tree_.SetEnabled(machine.pc_.smram, true).ok());
  EXPECT_EQ(TakeDirty(machine.slots_, *machine.pc_.ram), std::set<uint64_t>{3});
  EXPECT_TRUE(TakeDirty(machine.slots_, *machine.pc_.ram).empty());
}

// The slot above 4 GiB begins at page 5 of its region, the one below shows the same pages.
TEST(RegionSlots, PagesKeepTheirPlaceWhereverTheSlotBeginsInItsRegion) {
  Machine machine;
  Region* const ram = AddRam(machine, "bar", MiB(1), kHole);
  AddAlias(machine.tree_, machine.pc_.pci, "part", ram, 5 * kPageSize, 240 * kPageSize,
           kHole + MiB(2));
  std::set<uint64_t> pages;
  for (uint64_t i = 0; i < 240; i += 7) {
    machine.sink_.Write(Gpa(kHole + MiB(2) + i * kPageSize));
    pages.insert(5 + i);
  }
  machine.sink_.Write(Gpa(kHole + 250 * kPageSize));
  pages.insert(250);
  EXPECT_EQ(TakeDirty(machine.slots_, *ram), pages);
}

TEST(RegionSlots, ARegionThatGetsAnotherParentKeepsItsPages) {
  for (const bool at_once : {false, true}) {
    Machine machine;
    Region* const ram = AddRam(machine, "bar", MiB(1), kHole);
    machine.sink_.Write(Gpa(kHole + 0x3000));
    if (at_once) machine.tree_.Begin();
    ASSERT_TRUE(machine.tree_.Detach(ram).ok());
    MustAttach(machine.tree_, machine.pc_.system, ram, GiB(64));
    if (at_once) {
      ASSERT_TRUE(machine.tree_.Commit().ok());
    }
    machine.sink_.Write(Gpa(GiB(64) + 0x4000));
    EXPECT_EQ(TakeDirty(machine.slots_, *ram), (std::set<uint64_t>{3, 4}));
  }
}

TEST(RegionSlots, AFailedStepIsMadeUpForByTheNextCommit) {
  for (int fail = 1; fail <= 3; ++fail) {
    Machine machine;
    machine.sink_.FailAt(machine.sink_.calls() + fail);
    EXPECT_FALSE(machine.tree_.SetEnabled(machine.pc_.smram, true).ok());
    EXPECT_EQ(machine.sink_.set().size(), machine.slots_.slots().size());
    machine.tree_.Begin();
    EXPECT_TRUE(machine.tree_.Commit().ok());
    EXPECT_EQ(machine.slots_.slots().size(), 5u);
  }
}

TEST(SlotPlan, RangesAreCutToWholePagesAndToTheLargestSlot) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = 0x9000};
  spec.host = Hva(0x100000000000);
  Region* const ram = MustCreate(tree, std::move(spec));
  AddAlias(tree, root, "alias", ram, 0x800, 0x6000, 0x10800);
  SlotPlanLimits limits;
  limits.largest_slot = PageCount(2);
  const std::vector<PlannedSlot> slots = PlanSlots(Flatten(*root), limits);
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[0].gpa, Gpa(0x11000));
  EXPECT_EQ(slots[0].hva, Hva(0x100000001000));
  EXPECT_EQ(slots[2].gpa, Gpa(0x15000));
  EXPECT_EQ(slots[2].size, 0x1000u);
}

// There would be slots without end, of no pages each.
TEST(SlotPlan, ALargestSlotThatThereCannotBeIsTheNextThatThereCan) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = 0x3000};
  spec.host = Hva(0x100000000000);
  AddAlias(tree, root, "alias", MustCreate(tree, std::move(spec)), 0, 0x3000, 0x10000);
  SlotPlanLimits limits;
  limits.largest_slot = PageCount(0);
  EXPECT_EQ(PlanSlots(Flatten(*root), limits).size(), 3u);
  limits.largest_slot = PageCount(~uint64_t{0});
  EXPECT_EQ(PlanSlots(Flatten(*root), limits).size(), 1u);
  RegionSpec large{.name = "large", .kind = RegionKind::kRam, .size = TiB(9)};
  MustAttach(tree, root, MustCreate(tree, std::move(large)), TiB(1));
  EXPECT_EQ(PlanSlots(Flatten(*root), limits).size(), 3u) << "a slot has less than 8 TiB";
}

// Both show the same memory, so that either could take the place of the other.
TEST(SlotPlan, ASlotWhosePlaceStaysIsNotMovedForItsTwin) {
  PlannedSlot slot;
  slot.gpa = Gpa(0x10000);
  slot.size = 0x1000;
  slot.hva = Hva(0x100000000000);
  PlannedSlot twin = slot;
  twin.gpa = Gpa(0x20000);
  EXPECT_EQ(PlanSteps(std::vector{slot, twin}, std::vector{twin}),
            (std::vector<SlotStep>{{SlotStep::Kind::kDelete, 0, 0}}));
}

TEST(RegionSlots, FlashIsReadAsASlotThatCannotBeWrittenOrNotAtAll) {
  Machine machine;
  RegionSpec spec{.name = "flash", .kind = RegionKind::kRomDevice, .size = MiB(1)};
  spec.host = Hva(0x300000000000);
  Region* const flash = MustCreate(machine.tree_, std::move(spec));
  MustAttach(machine.tree_, machine.pc_.pci, flash, kHole);
  const auto slot = [&] { return machine.sink_.set().FindByGfn(0, Gfn::Of(Gpa(kHole))); };
  ASSERT_TRUE(slot().has_value());
  EXPECT_TRUE(slot()->is_read_only());
  ASSERT_TRUE(machine.tree_.SetRomMode(flash, false).ok());
  EXPECT_FALSE(slot().has_value());
}

TEST(RegionSlots, WithRingsLoggingIsSwitchedOffAndNoPageIsTaken) {
  Machine machine;
  machine.sink_.UseRings();
  Region* const ram = AddRam(machine, "bar", MiB(1), kHole);
  EXPECT_TRUE(machine.tree_.SetLogDirty(ram, false).ok());
  ASSERT_TRUE(machine.tree_.SetLogDirty(ram, true).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(machine.slots_.TakeDirty(*ram, [](uint64_t, uint64_t) {})));
}

// Slots of both spaces have id 0, and the guest writes through either.
TEST(RegionSlots, OfAnotherAddressSpaceLeaveTheFirstAlone) {
  for (const uint64_t manual : {uint64_t{0}, kDirtyLogManualProtect}) {
    SlotSetSink sink(SlotLimits{.address_spaces = 2});
    ASSERT_TRUE(sink.SetManualDirtyLogProtect(manual).ok());
    ASSERT_TRUE(sink.SetMemoryRegion({.slot = 0,
                                      .flags = kSlotLogDirtyPages,
                                      .size = MiB(1),
                                      .hva = Hva(0x200000000000)})
                    .ok());
    RegionTree tree;
    Region* const root = MustCreate(tree, {.name = "smm", .size = kWholeAddressSpace});
    RegionSlots slots(&tree, root, &sink, 1);
    RegionSpec spec{.name = "smram", .kind = RegionKind::kRam, .size = MiB(1)};
    spec.host = Hva(0x300000000000);
    spec.log_dirty = true;
    Region* const smram = MustCreate(tree, std::move(spec));
    MustAttach(tree, root, smram, 0);
    sink.Write(Gpa(0x3000), 0);
    sink.Write(Gpa(0x5000), 1);
    EXPECT_EQ(TakeDirty(slots, *smram), std::set<uint64_t>{5});
    EXPECT_TRUE(TakeDirty(slots, *smram).empty());
    sink.Write(Gpa(0x7000), 1);
    ASSERT_TRUE(tree.SetEnabled(smram, false).ok());
    EXPECT_FALSE(sink.set().FindById(1, 0).has_value());
    ASSERT_TRUE(sink.set().FindById(0, 0).has_value());
    EXPECT_TRUE(sink.set().FindById(0, 0)->state->dirty_log()->IsDirty(3));
    EXPECT_EQ(TakeDirty(slots, *smram), std::set<uint64_t>{7});
  }
}

TEST(SlotPlan, MemoryAtAnOddPlaceInItsPageIsNoSlot) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = 0x9000};
  Region* const ram = MustCreate(tree, std::move(spec));
  AddAlias(tree, root, "alias", ram, 0x800, 0x6000, 0x10000);
  EXPECT_TRUE(PlanSlots(Flatten(*root)).empty());
}

TEST(SlotPlan, MovesThatWaitForEachOtherAreBrokenByOneDeletion) {
  std::vector<PlannedSlot> before;
  for (uint64_t i = 0; i < 3; ++i) {
    PlannedSlot slot;
    slot.gpa = Gpa(i * 0x1000);
    slot.size = 0x1000;
    slot.hva = Hva(0x10000 + i * 0x1000);
    before.push_back(slot);
  }
  std::vector<PlannedSlot> after = before;
  for (uint64_t i = 0; i < 3; ++i) after[i].gpa = Gpa((i + 1) % 3 * 0x1000);
  std::map<Kind, int> kinds;
  const std::vector<SlotStep> steps = PlanSteps(before, after);
  for (const SlotStep& step : steps) ++kinds[step.kind];
  EXPECT_EQ(steps.front().kind, Kind::kDelete) << "the first move needs the place";
  EXPECT_EQ(kinds, (std::map<Kind, int>{{Kind::kDelete, 1}, {Kind::kMove, 2}, {Kind::kCreate, 1}}));
}

// Each of so many slots waits for its neighbour to leave, and of what every alias shows there are
// as many copies: a time in the square of their number would be minutes.
TEST(SlotPlan, AHundredThousandSlotsMoveAtOnceInOrder) {
  constexpr uint64_t kSlots = 100000;
  for (const bool are_copies : {false, true}) {
    std::vector<PlannedSlot> before(kSlots);
    for (uint64_t i = 0; i < kSlots; ++i) {
      before[i].gpa = Gpa(i * 0x2000);
      before[i].size = 0x2000;
      before[i].hva = Hva(MiB(1) + (are_copies ? 0 : i * 0x2000));
    }
    std::vector<PlannedSlot> after = before;
    for (PlannedSlot& slot : after) slot.gpa = slot.gpa + 0x1000;
    const std::vector<SlotStep> steps = PlanSteps(before, after);
    ASSERT_EQ(steps.size(), kSlots);
    for (uint64_t i = 0; i < kSlots; ++i) {
      ASSERT_EQ(steps[i], (SlotStep{Kind::kMove, kSlots - 1 - i, kSlots - 1 - i}));
    }
  }
}

// One of them alone has to go.
TEST(SlotPlan, ACircleOfManySlotsIsBrokenOnce) {
  constexpr uint64_t kSlots = 1000;
  std::vector<PlannedSlot> before(kSlots);
  for (uint64_t i = 0; i < kSlots; ++i) {
    before[i].gpa = Gpa(i * 0x1000);
    before[i].size = 0x1000;
    before[i].hva = Hva(MiB(1) + i * 0x1000);
  }
  std::vector<PlannedSlot> after = before;
  for (uint64_t i = 0; i < kSlots; ++i) after[i].gpa = Gpa((i + 1) % kSlots * 0x1000);
  const std::vector<SlotStep> steps = PlanSteps(before, after);
  ASSERT_EQ(steps.size(), kSlots + 1);
  EXPECT_EQ(steps.front().kind, Kind::kDelete);
  EXPECT_EQ(steps.back().kind, Kind::kCreate);
}

// The steps between random layouts must be accepted by a set that refuses every overlap, and lead
// to the layout.
TEST(SlotPlan, EveryStepIsLegalAndTheLastGivesTheNewLayout) {
  std::mt19937_64 random(31);
  for (int round = 0; round < 300; ++round) {
    RegionTree tree;
    Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
    SlotSetSink sink;
    RegionSlots slots(&tree, root, &sink);
    std::vector<Region*> rams;
    for (int i = 0; i < 6; ++i) {
      RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = (1 + random() % 6) * KiB(4)};
      spec.host = Hva(0x100000000000 + static_cast<uint64_t>(i) * MiB(1));
      spec.log_dirty = random() % 2 == 0;
      rams.push_back(MustCreate(tree, std::move(spec)));
      MustAttach(tree, root, rams.back(), random() % 24 * KiB(4), static_cast<int>(random() % 3));
    }
    for (int i = 0; i < 12; ++i) {
      tree.Begin();
      for (int change = 0; change < 3; ++change) {
        Region* const ram = rams[random() % rams.size()];
        ASSERT_TRUE(tree.SetOffset(ram, random() % 24 * KiB(4)).ok());
        ASSERT_TRUE(tree.SetEnabled(ram, random() % 4 != 0).ok());
        ASSERT_TRUE(tree.SetLogDirty(ram, random() % 2 == 0).ok());
        ASSERT_TRUE(tree.SetReadOnly(ram, random() % 4 == 0).ok());
      }
      ASSERT_TRUE(tree.Commit().ok());
      const std::vector<PlannedSlot> wanted = PlanSlots(Flatten(*root));
      ASSERT_EQ(sink.set().size(), wanted.size());
      ASSERT_TRUE(std::is_sorted(slots.slots().begin(), slots.slots().end(),
                                 [](const RegionSlots::Applied& a, const RegionSlots::Applied& b) {
                                   return a.slot.gpa < b.slot.gpa;
                                 }));
      for (const PlannedSlot& slot : wanted) {
        const std::optional<MemorySlot> found = sink.set().FindByGfn(0, Gfn::Of(slot.gpa));
        ASSERT_TRUE(found.has_value());
        ASSERT_EQ(found->base.address(), slot.gpa);
        ASSERT_EQ(found->pages.bytes(), slot.size);
        ASSERT_EQ(found->hva, slot.hva);
        ASSERT_EQ(found->flags, slot.flags);
      }
    }
  }
}

}  // namespace
}  // namespace tdp
