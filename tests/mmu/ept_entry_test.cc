// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/ept_entry.h"

#include <cstdint>
#include <random>

#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr EntryRules kRules{EptCapabilities::All(), 46, false, false};
constexpr EptEntry kLeaf =
    EptEntry::Leaf(Hfn(0x12345), kLevel4K, Access::All(), MemoryType::kWriteBack);

constexpr EntryRules Rules(EptCapabilities capabilities, int bits = 46) {
  return {capabilities, bits, false, false};
}

TEST(EptEntry, MakersGiveTheKindTheyName) {
  static_assert(EptEntry::Empty().kind(kLevel4K) == EntryKind::kHole);
  static_assert(EptEntry::Empty(true).kind(kLevel512G) == EntryKind::kHole);
  static_assert(kLeaf.kind(kLevel4K) == EntryKind::kLeaf);
  static_assert(
      EptEntry::Leaf(Hfn(512), kLevel2M, Access::Read(), MemoryType::kWriteBack).kind(kLevel2M) ==
      EntryKind::kLeaf);
  static_assert(EptEntry::Table(Hpa(0x5000)).kind(kLevel2M) == EntryKind::kTable);
  static_assert(EptEntry::Mmio(Gfn(7), 3).kind(kLevel4K) == EntryKind::kMmio);
}

TEST(EptEntry, LeafKeepsFrameRightsAndType) {
  static_assert(kLeaf.frame() == Hfn(0x12345) && kLeaf.access() == Access::All());
  static_assert(kLeaf.memory_type() == MemoryType::kWriteBack && !kLeaf.ignore_pat());
  static_assert(!kLeaf.accessed() && !kLeaf.dirty());
  static_assert(kLeaf.WithDirty().WithoutDirty() == kLeaf);
  static_assert(kLeaf.WithoutWrite().access() == Access::ReadExecute());
  static_assert(kLeaf.WithMemoryType(MemoryType::kUncacheable).memory_type() ==
                MemoryType::kUncacheable);
}

TEST(EptEntry, AccessTrackingHidesThePageFromTheCpuAndKeepsItsRights) {
  constexpr EptEntry kReadOnly = kLeaf.WithAccess(Access::ReadExecute()).WithHostWritable();
  constexpr EptEntry kTracked = kReadOnly.WithAccessTracked();
  static_assert(!kTracked.is_present() && kTracked.access_tracked());
  static_assert(kTracked.kind(kLevel4K) == EntryKind::kLeaf, "still maps the frame");
  static_assert(kTracked.WithRightsRestored() == kReadOnly);
}

// Only a write brings W back, since that may have to be logged.
TEST(EptEntry, AccessTrackingKeepsNoWrite) {
  EXPECT_EQ(kLeaf.WithAccessTracked().WithRightsRestored().access(), Access::ReadExecute());
}

TEST(EptEntry, GrantsAddRightsAndUseAndLeaveFrameAndType) {
  const EptEntry narrow = kLeaf.WithAccess(Access::Read()).WithMemoryType(MemoryType::kUncacheable);
  const EptEntry wider = narrow.WithGrantsOf(kLeaf.WithDirty());
  EXPECT_EQ(wider.access(), Access::All());
  EXPECT_TRUE(wider.dirty());
  EXPECT_EQ(wider.memory_type(), MemoryType::kUncacheable);
  EXPECT_EQ(wider.frame(), kLeaf.frame());
}

TEST(EptEntry, MmioEntriesAreMisconfiguredOnEveryCpu) {
  constexpr EptEntry kMmio = EptEntry::Mmio(Gfn(0xfee00), 0xabcde);
  static_assert(kMmio.is_present());
  EXPECT_EQ(kMmio.Check(kLevel4K, kRules), EntryDefect::kWriteWithoutRead);
  EXPECT_EQ(kMmio.mmio_gfn(), Gfn(0xfee00));
}

TEST(EptEntry, MmioEntriesKeepTheLowBitsOfTheirGeneration) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t generation = random();
    const Gfn gfn(random() & ((uint64_t{1} << 40) - 1));
    const EptEntry entry = EptEntry::Mmio(gfn, generation);
    EXPECT_EQ(entry.mmio_generation(),
              generation & ((uint64_t{1} << ept::kMmioGenerationBits) - 1));
    EXPECT_EQ(entry.mmio_gfn(), gfn);
    EXPECT_TRUE(entry.is_mmio());
  }
}

TEST(EptEntry, SplitChildrenMapTheSameFramesWithTheSameRightsAndAccessedDirtyBits) {
  const EptEntry large =
      EptEntry::Leaf(Hfn(0x40000), kLevel1G, Access::Read(), MemoryType::kUncacheable)
          .WithAccessed()
          .WithDirty()
          .WithHostWritable();
  const EptEntry middle = large.SplitChild(kLevel1G, 5);
  EXPECT_EQ(middle.kind(kLevel2M), EntryKind::kLeaf);
  EXPECT_EQ(middle.frame(), Hfn(0x40000 + 5 * 512));
  const EptEntry small = middle.SplitChild(kLevel2M, 7);
  EXPECT_EQ(small.frame(), Hfn(0x40000 + 5 * 512 + 7));
  EXPECT_EQ(small.access(), Access::Read());
  EXPECT_EQ(small.memory_type(), MemoryType::kUncacheable);
  EXPECT_TRUE(small.accessed() && small.dirty() && small.host_writable());
  EXPECT_EQ(small.Check(kLevel4K, kRules), EntryDefect::kNone);
  EXPECT_EQ(small.EnlargedTo(kLevel1G), large);
}

TEST(EptEntry, ANotPresentEntryBreaksNoRuleWhateverItsOtherBits) {
  const EptEntry junk(~uint64_t{0} & ~ept::kRightsMask);
  EXPECT_EQ(junk.Check(kLevel2M, kRules), EntryDefect::kNone);
}

// The cases have each reserved or forbidden pattern of reference tables 29-1 to 29-6, at each
// level.
TEST(EptEntry, CheckNamesTheRuleThatFails) {
  const EptEntry table = EptEntry::Table(Hpa(0x1000));
  for (int level = 1; level <= 5; ++level) {
    const EptEntry good = level == 1 ? kLeaf : table;
    EXPECT_EQ(good.Check(Level(level), kRules), EntryDefect::kNone) << level;
    EXPECT_EQ(EptEntry(good.raw() & ~ept::kRead).Check(Level(level), kRules),
              EntryDefect::kWriteWithoutRead);
    EXPECT_EQ(EptEntry(good.raw() | ept::Bit(46)).Check(Level(level), kRules),
              EntryDefect::kReservedBit);
    EXPECT_EQ(
        EptEntry(good.raw() | ept::Bit(46)).Check(Level(level), Rules(EptCapabilities::All(), 47)),
        EntryDefect::kNone);
  }
  for (int level = 2; level <= 5; ++level) {
    for (int bit = 3; bit <= 6; ++bit) {
      EXPECT_EQ(EptEntry(table.raw() | ept::Bit(bit)).Check(Level(level), kRules),
                EntryDefect::kReservedBit);
    }
  }
  EXPECT_EQ(EptEntry(table.raw() | ept::kLargePage).Check(kLevel512G, kRules),
            EntryDefect::kReservedBit);
}

TEST(EptEntry, ExecuteOnlyNeedsItsCapability) {
  const EptEntry execute_only = kLeaf.WithAccess(Access::Execute());
  EXPECT_EQ(execute_only.Check(kLevel4K, kRules), EntryDefect::kNone);
  const EptCapabilities without = EptCapabilities::All().Without(ept::kCapExecuteOnly);
  EXPECT_EQ(execute_only.Check(kLevel4K, Rules(without)), EntryDefect::kExecuteWithoutRead);
  EntryRules mbec = Rules(without);
  mbec.mbec = true;
  const EptEntry user_execute_only = kLeaf.WithAccess(Access::UserExecute());
  EXPECT_EQ(user_execute_only.Check(kLevel4K, mbec), EntryDefect::kExecuteWithoutRead);
  EXPECT_EQ(user_execute_only.Check(kLevel4K, Rules(without)), EntryDefect::kNone) << "not present";
}

TEST(EptEntry, LargePagesNeedTheirCapabilityAndTheirAlignment) {
  const EptEntry two = EptEntry::Leaf(Hfn(0x200), kLevel2M, Access::All(), MemoryType::kWriteBack);
  const EptCapabilities without = EptCapabilities::All().Without(ept::kCap2M);
  EXPECT_EQ(two.Check(kLevel2M, kRules), EntryDefect::kNone);
  EXPECT_EQ(two.Check(kLevel2M, Rules(without)), EntryDefect::kLargePageNotOffered);
  for (int bit = 12; bit < 21; ++bit) {
    EXPECT_EQ(EptEntry(two.raw() | ept::Bit(bit)).Check(kLevel2M, kRules),
              EntryDefect::kMisalignedLargePage);
  }
  EXPECT_EQ(two.Check(kLevel1G, kRules), EntryDefect::kMisalignedLargePage);
}

TEST(EptEntry, MemoryTypesTwoThreeAndSevenAreReserved) {
  for (uint64_t type = 0; type < 8; ++type) {
    const EptEntry leaf = kLeaf.WithMemoryType(static_cast<MemoryType>(type));
    const bool reserved = type == 2 || type == 3 || type == 7;
    EXPECT_EQ(leaf.Check(kLevel4K, kRules),
              reserved ? EntryDefect::kReservedMemoryType : EntryDefect::kNone)
        << type;
  }
}

TEST(EptEntry, PagingWriteNeedsReadWhereItIsInUse) {
  EntryRules rules = kRules;
  const EptEntry entry(kLeaf.WithAccess(Access::Execute()).raw() | ept::kPagingWrite);
  EXPECT_EQ(entry.Check(kLevel4K, rules), EntryDefect::kNone);
  rules.paging_write = true;
  EXPECT_EQ(entry.Check(kLevel4K, rules), EntryDefect::kPagingWriteWithoutRead);
}

TEST(EptEntry, PrintsWhatItIs) {
  EXPECT_EQ(kLeaf.WithAccessed().DebugString(kLevel4K), "leaf 0x12345000 rwxu A WB");
  EXPECT_EQ(EptEntry::Empty().DebugString(kLevel4K), "hole");
  EXPECT_EQ(EptEntry::Mmio(Gfn(0x10), 2).DebugString(kLevel4K), "mmio gfn 0x10 generation 2");
}

}  // namespace
}  // namespace tdp
