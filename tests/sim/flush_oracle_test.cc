// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/flush_oracle.h"

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <thread>

#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGva = 0x40000000;
constexpr uint64_t kGpa = MiB(64);
constexpr uint64_t kHpa = MiB(512);

// Describes a change of one entry behind a cached translation, and whether a flush is owed for it.
struct Rule {
  const char* name;
  int level;  // of the entry that changes; the page is a leaf of `leaf_level`
  int leaf_level;
  uint64_t clear;
  uint64_t set;
  ChangeKind owed;  // kNone: no flush is owed
  bool accessed_dirty = true;
};

std::ostream& operator<<(std::ostream& out, const Rule& rule) { return out << rule.name; }

class FlushRule : public testing::TestWithParam<Rule> {
 protected:
  FlushRule() : FlushRule(FlushOracleOptions()) {}
  explicit FlushRule(const FlushOracleOptions& options) : oracle_(options) {
    world_.cpu().SetFlushOracle(&oracle_);
    world_.MapEpt(kGpa, kHpa, GetParam().leaf_level);
    world_.MapGuest(kGva, kGpa);
    world_.Enter(GetParam().accessed_dirty);
  }

  void Use() {
    const AccessResult result = world_.cpu().Access(Gva(kGva), AccessKind::kLoad);
    ASSERT_TRUE(result.ok()) << world_.cpu().exit().DebugString();
  }
  // Makes the rule's change, as an engine would, with a table of other memory where one appears.
  void Change() {
    place_ = world_.EptEntryAt(kGpa, GetParam().level);
    before_ = world_.Load(place_);
    after_ = (before_ & ~GetParam().clear) | GetParam().set;
    world_.Store(place_, after_);
    oracle_.OnStore(Hpa(place_), before_, after_, "the test");
  }

  World world_;
  FlushOracle oracle_;
  uint64_t place_ = 0;
  uint64_t before_ = 0;
  uint64_t after_ = 0;
};

TEST_P(FlushRule, IsReportedIfOwedAndNotDone) {
  world_.cpu().Access(Gva(kGva), AccessKind::kStore);
  Change();
  oracle_.Settle();
  Use();
  if (GetParam().owed == ChangeKind::kNone) {
    EXPECT_EQ(oracle_.report_count(), 0u) << oracle_.reports()[0].DebugString();
    return;
  }
  ASSERT_GE(oracle_.report_count(), 1u);
  const StaleUse use = oracle_.reports()[0];
  EXPECT_EQ(use.kind, GetParam().owed) << use.DebugString();
  EXPECT_EQ(use.entry, Hpa(place_));
  EXPECT_EQ(use.cached, before_);
  EXPECT_EQ(use.now, after_);
  EXPECT_EQ(use.level, GetParam().level);
  EXPECT_EQ(use.gva, Gva(kGva));
  EXPECT_EQ(use.gpa, Gpa(kGpa));
  EXPECT_EQ(use.where, "the test");
}

TEST_P(FlushRule, IsQuietAfterInvept) {
  world_.cpu().Access(Gva(kGva), AccessKind::kStore);
  Change();
  world_.cpu().InveptSingle(world_.eptp());
  oracle_.Settle();
  world_.cpu().Access(Gva(kGva), AccessKind::kLoad);
  EXPECT_EQ(oracle_.report_count(), 0u);
}

TEST_P(FlushRule, IsQuietUntilSettled) {
  world_.cpu().Access(Gva(kGva), AccessKind::kStore);
  Change();
  Use();
  EXPECT_EQ(oracle_.report_count(), 0u);
}

TEST_P(FlushRule, IsQuietForTranslationsMadeAfterTheChange) {
  Change();
  oracle_.Settle();
  world_.cpu().Access(Gva(kGva), AccessKind::kLoad);
  world_.cpu().Access(Gva(kGva), AccessKind::kLoad);
  EXPECT_EQ(oracle_.report_count(), 0u);
}

constexpr uint64_t kType = ept::kMemoryTypeMask;
INSTANTIATE_TEST_SUITE_P(
    All, FlushRule,
    testing::Values(
        // These take a right away, at the leaf and above.
        Rule{"leaf_write_removed", 1, 1, ept::kWrite, 0, ChangeKind::kRightRemoved},
        Rule{"leaf_execute_removed", 1, 1, ept::kExecute, 0, ChangeKind::kRightRemoved},
        Rule{"table_write_removed", 3, 1, ept::kWrite, 0, ChangeKind::kRightRemoved},
        Rule{"leaf_gone", 1, 1, ~uint64_t{0}, 0, ChangeKind::kRightRemoved},
        Rule{"subtree_gone", 2, 1, ~uint64_t{0}, 0, ChangeKind::kRightRemoved},
        Rule{"large_leaf_gone", 2, 2, ~uint64_t{0}, 0, ChangeKind::kRightRemoved},
        // These change an address.
        Rule{"page_moved", 1, 1, ept::kAddressMask, MiB(640), ChangeKind::kAddressChanged},
        Rule{"table_moved", 2, 1, ept::kAddressMask, MiB(640), ChangeKind::kAddressChanged},
        // These make a leaf a table, or a table a leaf.
        Rule{"leaf_split", 2, 2, ept::kLargePage | kType, 0, ChangeKind::kLeafTableChanged},
        Rule{"table_collapsed", 2, 1, ept::kAddressMask, MiB(512) | ept::kLargePage | kWriteBack,
             ChangeKind::kLeafTableChanged},
        // These change a leaf's type.
        Rule{"type_changed", 1, 1, kType, 0, ChangeKind::kMemoryTypeChanged},
        Rule{"ignore_pat_set", 1, 1, 0, ept::kIgnorePat, ChangeKind::kIgnorePatChanged},
        // These clear A and D, which matter only while the flags are on.
        Rule{"accessed_cleared", 1, 1, ept::kAccessed, 0, ChangeKind::kAccessedCleared},
        Rule{"table_accessed_cleared", 4, 1, ept::kAccessed, 0, ChangeKind::kAccessedCleared},
        Rule{"dirty_cleared", 1, 1, ept::kDirty, 0, ChangeKind::kDirtyCleared},
        Rule{"dirty_cleared_flags_off", 1, 1, ept::kDirty | ept::kAccessed, 0, ChangeKind::kNone,
             false},
        // These owe nothing: they change bits that hardware ignores, or give a right (by the
        // fixture's Permit test).
        Rule{"software_bits", 1, 1, 0, ept::kSoftMask, ChangeKind::kNone},
        Rule{"suppress_ve_set", 1, 1, 0, ept::kSuppressVe, ChangeKind::kNone},
        Rule{"table_ignored_bits", 3, 1, 0, ept::kSoftHostWritable | ept::kDirty,
             ChangeKind::kNone},
        Rule{"user_execute_set", 1, 1, 0, ept::kUserExecute, ChangeKind::kNone}),
    [](const auto& test) { return std::string(test.param.name); });

// --- rules that are not the change of one entry's bits ---

class FlushOracleTest : public testing::Test {
 protected:
  void Start(const FlushOracleOptions& options = {}) {
    oracle_ = std::make_unique<FlushOracle>(options);
    world_.cpu().SetFlushOracle(oracle_.get());
    leaf_ = world_.MapEpt(kGpa, kHpa);
    world_.MapGuest(kGva, kGpa);
    world_.Enter(true);
  }
  bool Touch(AccessKind kind = AccessKind::kLoad) {
    return world_.cpu().Access(Gva(kGva), kind).ok();
  }
  void Change(uint64_t place, uint64_t after) {
    const uint64_t before = world_.Load(place);
    world_.Store(place, after);
    oracle_->OnStore(Hpa(place), before, after, "the test");
  }

  World world_;
  std::unique_ptr<FlushOracle> oracle_;
  uint64_t leaf_ = 0;
};

TEST_F(FlushOracleTest, ARightGivenOwesNothing) {
  Start();
  world_.Store(leaf_, kHpa | ept::kRead | kWriteBack);
  ASSERT_TRUE(Touch());
  Change(leaf_, world_.Load(leaf_) | ept::kWrite);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_TRUE(Touch(AccessKind::kStore));
  EXPECT_EQ(oracle_->report_count(), 0u);
}

TEST_F(FlushOracleTest, RightsThatALeafHasBesideItsOwnAreMissedToo) {
  Start();
  for (const uint64_t right :
       {ept::kSubPageWrite, ept::kPagingWrite, ept::kSupervisorShadowStack}) {
    world_.Store(leaf_, kHpa | kRwx | kWriteBack | right);
    world_.cpu().ClearCaches();
    ASSERT_TRUE(Touch());
    Change(leaf_, world_.Load(leaf_) & ~right);
    oracle_->Settle();
    EXPECT_TRUE(Touch());
    ASSERT_EQ(oracle_->report_count(), 1u);
    EXPECT_EQ(oracle_->reports()[0].kind, ChangeKind::kRightRemoved);
    oracle_->ClearReports();
  }
}

TEST_F(FlushOracleTest, AHoleOrAMisconfigurationThatIsFilledOwesNothing) {
  Start();
  for (const uint64_t unmapped : {uint64_t{0}, uint64_t{ept::kWrite | ept::kExecute}}) {
    world_.Store(leaf_, unmapped);
    world_.cpu().ClearCaches();
    EXPECT_FALSE(Touch());
    Change(leaf_, kHpa | kRwx | kWriteBack);
    oracle_->Settle();
    EXPECT_TRUE(Touch());
    EXPECT_TRUE(Touch());
    EXPECT_EQ(oracle_->report_count(), 0u);
  }
}

// Write protection is pushed down a level here: a child loses W while its parent withholds it, then
// the parent gets it back. The translation's rights never grew smaller.
TEST_F(FlushOracleTest, ARightThatTheParentWithheldIsNotMissed) {
  Start();
  const uint64_t parent = world_.EptEntryAt(kGpa, 2);
  world_.Store(parent, world_.Load(parent) & ~ept::kWrite);
  ASSERT_TRUE(Touch());
  Change(leaf_, world_.Load(leaf_) & ~ept::kWrite);
  Change(parent, world_.Load(parent) | ept::kWrite);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
}

TEST_F(FlushOracleTest, AnEntryPutBackAsItWasOwesNothing) {
  Start();
  ASSERT_TRUE(Touch());
  const uint64_t before = world_.Load(leaf_);
  Change(leaf_, 0);
  Change(leaf_, before);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
}

TEST_F(FlushOracleTest, AnotherThreadsSettleDoesNotMakeMyChangeDue) {
  Start();
  ASSERT_TRUE(Touch());
  Change(leaf_, 0);
  std::thread([this] { oracle_->Settle(); }).join();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u);
}

TEST_F(FlushOracleTest, SettleAllMakesEveryThreadsChangeDue) {
  Start();
  ASSERT_TRUE(Touch());
  std::thread([this] { Change(leaf_, 0); }).join();
  oracle_->SettleAll();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u);
}

TEST_F(FlushOracleTest, TheSameRootWithAnotherWalkLengthOwesAFlush) {
  Start();
  ASSERT_TRUE(Touch());
  // The CPU reads the same root as a level-5 table, and uses the cached translation before any walk
  // could fail.
  const Eptp longer = Eptp::Make(world_.eptp().root(), 5, true);
  ASSERT_EQ(world_.cpu().Enter(longer), Event::kNone);
  ASSERT_TRUE(Touch());
  ASSERT_EQ(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].kind, ChangeKind::kWalkLengthChanged);
}

TEST_F(FlushOracleTest, TheSameRootWithFlagsNewlyOnOwesAFlush) {
  Start();
  ASSERT_EQ(world_.Enter(false), Event::kNone);
  world_.cpu().ClearCaches();
  ASSERT_TRUE(Touch());
  ASSERT_EQ(world_.Enter(true), Event::kNone);
  ASSERT_TRUE(Touch());
  ASSERT_EQ(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].kind, ChangeKind::kAccessedDirtyEnabled);
}

TEST_F(FlushOracleTest, TheSameRootWithFlagsNewlyOnOwesAFlushWhateverRanBetween) {
  Start();
  ASSERT_EQ(world_.Enter(false), Event::kNone);
  world_.cpu().ClearCaches();
  ASSERT_TRUE(Touch());
  for (const bool accessed_dirty : {false, true}) {
    const Eptp between = Eptp::Make(Hpa(world_.NewFrame()), 4, accessed_dirty);
    ASSERT_EQ(world_.cpu().Enter(between), Event::kNone);
  }
  ASSERT_EQ(world_.Enter(true), Event::kNone);
  ASSERT_TRUE(Touch());
  ASSERT_EQ(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].kind, ChangeKind::kAccessedDirtyEnabled);
}

TEST_F(FlushOracleTest, AChangeThatIsNotDueHidesNoneBelowThatIs) {
  Start();
  ASSERT_TRUE(Touch());
  std::thread([this] { Change(world_.EptEntryAt(kGpa, 3), 0); }).join();
  Change(leaf_, 0);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  ASSERT_EQ(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].level, 1);
}

TEST_F(FlushOracleTest, TheSameRootWithFlagsOffOwesNothing) {
  Start();
  ASSERT_TRUE(Touch());
  ASSERT_EQ(world_.Enter(false), Event::kNone);
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
}

// INVVPID and INVLPG need not drop guest-physical mappings, so they are no substitute.
TEST_F(FlushOracleTest, InvvpidLeavesTheNestedTlbStale) {
  Start();
  ASSERT_TRUE(Touch());
  Change(leaf_, MiB(640) | kRwx | kWriteBack | ept::kAccessed);
  ASSERT_TRUE(world_.cpu().Invvpid(1, 1));
  oracle_->Settle();
  const AccessResult result = world_.cpu().Access(Gva(kGva), AccessKind::kLoad);
  EXPECT_EQ(result.hpa, Hpa(kHpa)) << "the nested TLB still has the old page";
  EXPECT_EQ(oracle_->report_count(), 1u);
}

// A cached upper entry is used for a page that was never touched.
TEST_F(FlushOracleTest, AStalePagingStructureCacheIsReported) {
  Start();
  world_.MapEpt(kGpa + kPageSize, kHpa + kPageSize);
  world_.MapGuest(kGva + kPageSize, kGpa + kPageSize);
  ASSERT_TRUE(Touch());
  Change(world_.EptEntryAt(kGpa, 2), 0);
  oracle_->Settle();
  EXPECT_TRUE(world_.cpu().Access(Gva(kGva + kPageSize), AccessKind::kLoad).ok())
      << "the walk began at the cached upper entry";
  ASSERT_GE(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].level, 2);
}

TEST_F(FlushOracleTest, EntriesAndExitsFlushNothingUnderAVpid) {
  Start();
  ASSERT_TRUE(Touch());
  Change(leaf_, 0);
  oracle_->Settle();
  world_.cpu().Kick();
  EXPECT_EQ(world_.Enter(true), Event::kKick);
  EXPECT_EQ(world_.Enter(true), Event::kNone);
  EXPECT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u);
}

// --- without anybody to announce stores ---

TEST_F(FlushOracleTest, ComparingAtEveryUseFindsUnannouncedChangesAfterTheNextSettle) {
  Start({.every_use = true});
  ASSERT_TRUE(Touch());
  world_.Store(leaf_, 0);
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u) << "the operation may still be under way";
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u);
}

TEST_F(FlushOracleTest, SettlingAtOnceReportsTheFirstUse) {
  Start({.every_use = true, .settle_at_once = true});
  ASSERT_TRUE(Touch());
  world_.Store(leaf_, 0);
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u);
}

TEST_F(FlushOracleTest, LateAgingCanBeAllowed) {
  Start({.accessed_clear_owed = false});
  ASSERT_TRUE(Touch());
  Change(leaf_, world_.Load(leaf_) & ~ept::kAccessed);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
}

TEST_F(FlushOracleTest, BitsOfFeaturesThatNoCpuHasOnAreSoftwares) {
  Start({.ignored_bits = ept::kSupervisorShadowStack});
  Change(leaf_, world_.Load(leaf_) | ept::kSupervisorShadowStack);
  ASSERT_TRUE(Touch());
  Change(leaf_, world_.Load(leaf_) & ~ept::kSupervisorShadowStack);
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
  Change(leaf_, world_.Load(leaf_) & ~(ept::kSupervisorShadowStack | ept::kWrite));
  oracle_->Settle();
  ASSERT_TRUE(Touch());
  EXPECT_EQ(oracle_->report_count(), 1u) << "the rest of the entry counts";
}

// --- operations ---

TEST_F(FlushOracleTest, ChangesOfAnOperationAreDueAtItsEnd) {
  Start();
  ASSERT_TRUE(Touch());
  oracle_->BeginOperation();
  Change(leaf_, 0);
  Touch();
  EXPECT_EQ(oracle_->report_count(), 0u) << "the operation is under way";
  oracle_->EndOperation();
  Touch();
  EXPECT_EQ(oracle_->report_count(), 1u);
}

TEST_F(FlushOracleTest, OfManyChangesOfOneEntryTheLastIsNamed) {
  Start();
  ASSERT_TRUE(Touch());
  for (int i = 0; i < 100; ++i) {
    oracle_->BeginOperation();
    Change(leaf_, (kHpa + kPageSize * (2 + i % 2)) | kRwx | kWriteBack);
    oracle_->EndOperation();
  }
  Touch();
  ASSERT_EQ(oracle_->report_count(), 1u);
  EXPECT_EQ(oracle_->reports()[0].change, oracle_->clock() - 1);
}

TEST_F(FlushOracleTest, ResetForgetsChangesAndReports) {
  Start();
  ASSERT_TRUE(Touch());
  Change(leaf_, 0);
  oracle_->SettleAll();
  Touch();
  EXPECT_EQ(oracle_->report_count(), 1u);
  world_.cpu().ClearCaches();
  oracle_->Reset();
  EXPECT_EQ(oracle_->report_count(), 0u);
  EXPECT_FALSE(Touch());
  EXPECT_EQ(oracle_->report_count(), 0u);
}

// --- the first dimension: tables that CR3 points to, with EPT off ---

struct LinearRule {
  const char* name;
  int level;
  uint64_t clear;
  uint64_t set;
  ChangeKind owed;
};
std::ostream& operator<<(std::ostream& out, const LinearRule& rule) { return out << rule.name; }

class LinearFlushRule : public testing::TestWithParam<LinearRule> {
 protected:
  LinearFlushRule() : oracle_({.linear = true}) {
    cpu_.SetFlushOracle(&oracle_);
    Controls controls;
    controls.ept = false;
    EXPECT_TRUE(cpu_.SetControls(controls).ok());
    Registers r;
    r.cr0 = kCr0Pe | kCr0Pg | kCr0Wp;
    r.cr3 = kTables;
    r.cr4 = kCr4Pae;
    r.efer = kEferLme | kEferLma | kEferNxe;
    cpu_.SetRegisters(r);
    for (int level = 4; level > 1; --level) {
      Store(Place(level), (kTables + kPageSize * static_cast<uint64_t>(5 - level)) | kGuestTable);
    }
    Store(Place(1), kHpa | kGuestLeaf);
  }
  static uint64_t Place(int level) {
    return kTables + kPageSize * static_cast<uint64_t>(4 - level) +
           8 * (kGva >> (12 + 9 * (level - 1)) & 511);
  }
  void Store(uint64_t place, uint64_t value) { memory_.physical().Store(place, value); }
  void Use() {
    cpu_.Enter(Eptp());
    cpu_.Access(Gva(kGva), AccessKind::kStore);
  }

  static constexpr uint64_t kTables = MiB(8);
  HostMemory memory_{{.size = GiB(1)}};
  FlushOracle oracle_;
  Cpu cpu_{memory_.physical()};
};

TEST_P(LinearFlushRule, IsReportedIfOwedAndNotDone) {
  Use();
  const uint64_t place = Place(GetParam().level);
  const uint64_t before = memory_.physical().Load(place);
  const uint64_t after = (before & ~GetParam().clear) | GetParam().set;
  oracle_.BeginOperation();
  Store(place, after);
  oracle_.OnStore(Hpa(place), before, after, "the test");
  Use();
  EXPECT_EQ(oracle_.report_count(), 0u);
  oracle_.EndOperation();
  Use();
  if (GetParam().owed == ChangeKind::kNone) {
    EXPECT_EQ(oracle_.report_count(), 0u) << oracle_.reports()[0].DebugString();
    return;
  }
  ASSERT_GE(oracle_.report_count(), 1u);
  EXPECT_EQ(oracle_.reports()[0].kind, GetParam().owed);
  EXPECT_EQ(oracle_.reports()[0].level, GetParam().level);
  EXPECT_EQ(oracle_.reports()[0].where, "the test");
  oracle_.ClearReports();
  cpu_.Invlpg(Gva(kGva));
  Use();
  EXPECT_EQ(oracle_.report_count(), 0u);
}

INSTANTIATE_TEST_SUITE_P(
    All, LinearFlushRule,
    testing::Values(
        LinearRule{"leaf_gone", 1, ~uint64_t{0}, 0, ChangeKind::kRightRemoved},
        LinearRule{"subtree_gone", 3, ~uint64_t{0}, 0, ChangeKind::kRightRemoved},
        LinearRule{"write_removed", 1, kGuestWrite, 0, ChangeKind::kRightRemoved},
        LinearRule{"table_write_removed", 4, kGuestWrite, 0, ChangeKind::kRightRemoved},
        LinearRule{"user_removed", 2, kGuestUser, 0, ChangeKind::kRightRemoved},
        LinearRule{"execute_disabled", 1, 0, kGuestNoExecute, ChangeKind::kRightRemoved},
        LinearRule{"page_moved", 1, ept::kAddressMask, MiB(640), ChangeKind::kAddressChanged},
        LinearRule{"table_becomes_leaf", 2, ept::kAddressMask, MiB(640) | kGuestLargePage,
                   ChangeKind::kLeafTableChanged},
        LinearRule{"dirty_cleared", 1, kGuestDirty, 0, ChangeKind::kDirtyCleared},
        LinearRule{"accessed_cleared", 1, kGuestAccessed, 0, ChangeKind::kAccessedCleared},
        LinearRule{"memory_type", 1, 0, uint64_t{1} << 3, ChangeKind::kMemoryTypeChanged},
        LinearRule{"memory_type_by_pat", 1, 0, uint64_t{1} << 7, ChangeKind::kMemoryTypeChanged},
        LinearRule{"ignored_bit", 1, 0, uint64_t{1} << 9, ChangeKind::kNone}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(LinearChange, OfTheMemoryTypeOfALargePageIsNoneOfItsAddress) {
  constexpr uint64_t kLarge = MiB(640) | 0xe7;
  constexpr uint64_t kPat = uint64_t{1} << 12;
  EXPECT_EQ(ClassifyLinearChange(kLarge, kLarge | kPat, 2), ChangeKind::kMemoryTypeChanged);
  EXPECT_EQ(ClassifyLinearChange(kLarge, kLarge + MiB(2), 2), ChangeKind::kAddressChanged);
}

}  // namespace
}  // namespace tdp::sim
