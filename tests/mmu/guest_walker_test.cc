// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/guest/guest_walker.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/guest/nested_ept_walker.h"

namespace tdp {
namespace {

// Gives memory of the aligned operator new back to the aligned operator delete.
struct AlignedDelete {
  void operator()(std::byte* bytes) const {
    ::operator delete[](bytes, std::align_val_t{kPageSize});
  }
};

constexpr uint64_t kTable = guest::kPresent | guest::kWrite | guest::kUser;

// Has frames that can be holes, read-only memory, or not there yet.
class FakeMemory {
 public:
  enum class Kind { kRam, kHole, kReadOnly, kAbsent };

  // Finds pages that are simply there, as long as nothing happens between two looks.
  class AtHand {
   public:
    explicit AtHand(const FakeMemory& memory) : memory_(memory) {}
    bool Find(Gpa page, const std::byte*& found) const {
      const auto kind = memory_.kinds.find(page.raw() >> kPageShift);
      if (memory_.before_reach || page.raw() >= kBytes ||
          (kind != memory_.kinds.end() && kind->second != Kind::kRam)) {
        return false;
      }
      found = memory_.bytes.get() + page.raw();
      return true;
    }

   private:
    const FakeMemory& memory_;
  };

  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why) {
    if (before_reach) before_reach(gpa, to_write);
    switch (kinds[gpa.raw() >> kPageShift]) {
      case Kind::kHole:
        why = GuestWalkOutcome::kNoMemory;
        return nullptr;
      case Kind::kAbsent:
        why = GuestWalkOutcome::kNeedsPage;
        return nullptr;
      case Kind::kReadOnly:
        if (to_write) return nullptr;
        break;
      case Kind::kRam:
        break;
    }
    return bytes.get() + gpa.raw();
  }
  void Wrote(Gpa gpa) { written.push_back(gpa); }
  void AskAgain(Gpa gpa) { asked_again.push_back(gpa); }
  void Set(uint64_t gpa, uint64_t value) { std::memcpy(bytes.get() + gpa, &value, 8); }
  uint64_t Get(uint64_t gpa) const {
    uint64_t value;
    std::memcpy(&value, bytes.get() + gpa, 8);
    return value;
  }

  std::map<uint64_t, Kind> kinds;
  std::function<void(Gpa, bool)> before_reach;
  std::vector<Gpa> written;
  std::vector<Gpa> asked_again;

 private:
  static constexpr size_t kBytes = 64 * kPageSize;
  std::unique_ptr<std::byte[], AlignedDelete> bytes{new (std::align_val_t{kPageSize})
                                                        std::byte[kBytes]()};
};

// This guest has 4 levels: its tables are in frames 1 to 4 and map gva 0x5000 to gpa 0x123000.
class GuestWalkerTest : public testing::Test {
 protected:
  void SetUp() override {
    for (uint64_t level = 4; level > 1; --level) {
      memory_.Set((5 - level) * kPageSize, (6 - level) * kPageSize | kTable);
    }
    memory_.Set(kLeafAddress, 0x123000 | kTable);
    roots_.cr3 = kPageSize;
  }
  GuestWalk Walk(Gva gva = Gva(0x5678), GuestAccess access = GuestAccess::Read()) {
    GuestWalk walk;
    GvaToGpa(paging_, roots_, memory_, gva, access, walk);
    return walk;
  }

  static constexpr uint64_t kLeafAddress = 4 * kPageSize + 5 * 8;

  FakeMemory memory_;
  GuestPaging paging_{GuestControls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                    .cr4 = guest::kCr4PhysicalAddressExtension,
                                    .efer = guest::kEferLongModeActive}};
  GuestRoots roots_;
};

TEST_F(GuestWalkerTest, AWalkTellsWhereItWent) {
  const GuestWalk walk = Walk();
  ASSERT_EQ(walk.outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(walk.gpa, Gpa(0x123678));
  EXPECT_EQ(walk.top, 4);
  EXPECT_EQ(walk.level, 1);
  EXPECT_EQ(walk.page_bytes, kPageSize);
  EXPECT_EQ(walk.entry_addresses[1], Gpa(kLeafAddress));
  EXPECT_EQ(walk.entries[1], memory_.Get(kLeafAddress));
}

TEST_F(GuestWalkerTest, AReadSetsAAndAWriteSetsDInTheLeafAlone) {
  Walk();
  EXPECT_EQ(memory_.Get(kLeafAddress) & (guest::kAccessed | guest::kDirty), guest::kAccessed);
  Walk(Gva(0x5000), GuestAccess::Write());
  EXPECT_EQ(memory_.Get(kLeafAddress) & guest::kDirty, guest::kDirty);
  EXPECT_EQ(memory_.Get(kPageSize) & (guest::kAccessed | guest::kDirty), guest::kAccessed);
}

TEST_F(GuestWalkerTest, TheMemoryHearsOfEveryEntryWritten) {
  Walk();
  EXPECT_THAT(memory_.written,
              testing::ElementsAre(Gpa(0x1000), Gpa(0x2000), Gpa(0x3000), Gpa(kLeafAddress)));
  memory_.written.clear();
  Walk();
  EXPECT_TRUE(memory_.written.empty());
  Walk(Gva(0x5000), GuestAccess::Write());
  EXPECT_THAT(memory_.written, testing::ElementsAre(Gpa(kLeafAddress)));
}

TEST_F(GuestWalkerTest, AnAccessThatFaultsSetsNothing) {
  memory_.Set(kLeafAddress, 0x123000 | guest::kPresent | guest::kUser);
  const GuestWalk walk = Walk(Gva(0x5000), GuestAccess::Write());
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kPageFault);
  EXPECT_EQ(walk.error_code, guest::kFaultPresent | guest::kFaultWrite);
  EXPECT_EQ(memory_.Get(kPageSize) & guest::kAccessed, 0u);
}

TEST_F(GuestWalkerTest, ATableInAHoleIsToldWithItsAddress) {
  memory_.kinds[3] = FakeMemory::Kind::kHole;
  const GuestWalk walk = Walk();
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kNoMemory);
  EXPECT_EQ(walk.gpa, Gpa(3 * kPageSize));
  EXPECT_EQ(walk.level, 2);
}

TEST_F(GuestWalkerTest, ATableThatIsNotThereYetIsAskedForAndChangesNothing) {
  memory_.kinds[4] = FakeMemory::Kind::kAbsent;
  const GuestWalk walk = Walk();
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_EQ(walk.gpa, Gpa(kLeafAddress));
  EXPECT_EQ(memory_.Get(kPageSize) & guest::kAccessed, 0u);
}

TEST_F(GuestWalkerTest, TablesInReadOnlyMemoryAreUsedWithoutFlags) {
  memory_.kinds[4] = FakeMemory::Kind::kReadOnly;
  const GuestWalk walk = Walk();
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kMapped);
  EXPECT_TRUE(walk.write_protected_table);
  EXPECT_EQ(memory_.Get(kLeafAddress) & guest::kAccessed, 0u);
  EXPECT_EQ(walk.entries[1] & guest::kAccessed, 0u);
  EXPECT_EQ(memory_.Get(kPageSize) & guest::kAccessed, guest::kAccessed);
}

TEST_F(GuestWalkerTest, AnEntryThatChangesUnderTheWalkIsReadAgain) {
  bool changed = false;
  memory_.before_reach = [&](Gpa gpa, bool to_write) {
    if (!to_write || gpa != Gpa(kLeafAddress) || changed) return;
    changed = true;
    memory_.Set(kLeafAddress, 0x456000 | kTable);
  };
  const GuestWalk walk = Walk();
  EXPECT_TRUE(changed);
  EXPECT_EQ(walk.gpa, Gpa(0x456678));
  EXPECT_EQ(memory_.Get(kLeafAddress), 0x456000 | kTable | guest::kAccessed);
}

// Another CPU of the guest's writes the entry as fast as it is read.
TEST_F(GuestWalkerTest, AnEntryThatNeverStandsStillEndsTheWalk) {
  int changes = 0;
  memory_.before_reach = [&](Gpa gpa, bool to_write) {
    if (!to_write || gpa != Gpa(kLeafAddress) || changes == 1000) return;
    memory_.Set(kLeafAddress, uint64_t(++changes) << 52 | 0x123000 | kTable);
  };
  const GuestWalk walk = Walk();
  EXPECT_LT(changes, 100);
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_EQ(walk.gpa, Gpa(kLeafAddress));
  EXPECT_THAT(memory_.asked_again, testing::ElementsAre(Gpa(kLeafAddress)));
}

TEST_F(GuestWalkerTest, ATableThatGoesBeforeItsFlagsAreSetIsAskedForByItsAddress) {
  memory_.before_reach = [&](Gpa gpa, bool to_write) {
    if (to_write && gpa == Gpa(kLeafAddress)) memory_.kinds[4] = FakeMemory::Kind::kAbsent;
  };
  const GuestWalk walk = Walk();
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_EQ(walk.gpa, Gpa(kLeafAddress));
}

TEST_F(GuestWalkerTest, NonCanonicalAddressesAreNoPageFaults) {
  EXPECT_EQ(Walk(Gva(uint64_t{1} << 47)).outcome, GuestWalkOutcome::kNonCanonical);
  EXPECT_EQ(Walk(Gva(0xffff800000000000)).outcome, GuestWalkOutcome::kPageFault);
}

TEST_F(GuestWalkerTest, PdptesAreTakenTogetherOrNotAtAll) {
  const GuestPaging pae({.cr0 = guest::kCr0Paging, .cr4 = guest::kCr4PhysicalAddressExtension});
  for (uint64_t i = 0; i < 4; ++i) memory_.Set(0x2060 + i * 8, (i + 1) << 12 | guest::kPresent);
  EXPECT_EQ(LoadPdptes(pae, 0x2067, memory_, roots_), GuestWalkOutcome::kMapped);
  EXPECT_EQ(roots_.pdptes[3], 0x4001u);
  memory_.Set(0x2078, 0x9000 | guest::kPresent | guest::kWrite);  // reserved in a PDPTE
  EXPECT_EQ(LoadPdptes(pae, 0x2060, memory_, roots_), GuestWalkOutcome::kPageFault);
  EXPECT_EQ(roots_.pdptes[3], 0x4001u);
}

// EPT12 lies over the same memory: its tables in frames 16 to 19 map the first 64 frames one to
// one.
class NestedWalkTest : public GuestWalkerTest {
 protected:
  void SetUp() override {
    GuestWalkerTest::SetUp();
    for (uint64_t level = 4; level > 1; --level) {
      memory_.Set((20 - level) * kPageSize, (21 - level) * kPageSize | ept::kRightsMask);
    }
    for (uint64_t i = 0; i < 64; ++i) SetLeaf(i, i << kPageShift | ept::kRightsMask | 6 << 3);
    memory_.Set(kLeafAddress, 0x23000 | kTable);
  }
  void SetLeaf(uint64_t gfn, uint64_t entry) { memory_.Set(19 * kPageSize + gfn * 8, entry); }
  GuestWalk Nested(NestedMemory<FakeMemory>& nested, GuestAccess access = GuestAccess::Read()) {
    GuestWalk walk;
    GvaToGpa(paging_, roots_, nested, Gva(0x5678), access, walk);
    return walk;
  }

  static Eptp MakeEptp(bool accessed_dirty) {
    return Eptp::Make(Hpa(16 * kPageSize), 4, accessed_dirty);
  }
  EntryRules rules_{EptCapabilities::All(), 46, false, false};
};

TEST_F(NestedWalkTest, TablesOfL2AreReachedThroughEpt12) {
  SetLeaf(2, 33 << kPageShift | ept::kRightsMask | 6 << 3);  // its level-3 table is elsewhere
  memory_.Set(33 * kPageSize, 3 * kPageSize | kTable);
  memory_.Set(2 * kPageSize, 0);
  NestedMemory<FakeMemory> nested(MakeEptp(false), rules_, memory_);
  const GuestWalk walk = Nested(nested);
  ASSERT_EQ(walk.outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(walk.gpa, Gpa(0x23678));
}

TEST_F(NestedWalkTest, AViolationIsOnTheTableAndSaysSo) {
  SetLeaf(3, 0);
  NestedMemory<FakeMemory> nested(MakeEptp(false), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNestedFault);
  EXPECT_EQ(nested.fault().outcome, NestedEptOutcome::kViolation);
  EXPECT_EQ(nested.fault_gpa(), Gpa(3 * kPageSize));
  EXPECT_EQ(nested.fault().qualification.raw(), ept::kQualRead | ept::kQualLinearAddressValid);
}

TEST_F(NestedWalkTest, WithAccessedAndDirtyFlagsReadingATableIsAWrite) {
  SetLeaf(3, 3 << kPageShift | ept::kRead | 6 << 3);
  NestedMemory<FakeMemory> nested(MakeEptp(true), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNestedFault);
  EXPECT_EQ(nested.fault().qualification.raw(),
            ept::kQualRead | ept::kQualWrite | ept::kQualReadable | ept::kQualLinearAddressValid);
  SetLeaf(3, 3 << kPageShift | ept::kRightsMask | 6 << 3);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(memory_.Get(19 * kPageSize + 3 * 8) & (ept::kAccessed | ept::kDirty),
            ept::kAccessed | ept::kDirty);
  EXPECT_EQ(memory_.Get(16 * kPageSize) & (ept::kAccessed | ept::kDirty), ept::kAccessed);
}

TEST_F(NestedWalkTest, AMisconfigurationComesBeforeRights) {
  SetLeaf(3, 3 << kPageShift | ept::kWrite | 6 << 3);
  NestedMemory<FakeMemory> nested(MakeEptp(false), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNestedFault);
  EXPECT_EQ(nested.fault().outcome, NestedEptOutcome::kMisconfiguration);
}

TEST_F(NestedWalkTest, WhatMustBeFetchedFirstIsAnAddressOfL1) {
  SetLeaf(3, 34 << kPageShift | ept::kRightsMask | 6 << 3);
  memory_.kinds[34] = FakeMemory::Kind::kAbsent;
  NestedMemory<FakeMemory> nested(MakeEptp(false), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_EQ(nested.fault().gpa, Gpa(34 * kPageSize));
  memory_.kinds[34] = FakeMemory::Kind::kRam;
  memory_.kinds[18] = FakeMemory::Kind::kAbsent;  // a table of EPT12 itself
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_EQ(nested.fault().gpa, Gpa(18 * kPageSize));
}

TEST_F(NestedWalkTest, AnEntryOfEpt12ThatNeverStandsStillEndsTheWalk) {
  const Gpa entry(19 * kPageSize + 3 * 8);
  int changes = 0;
  memory_.before_reach = [&](Gpa gpa, bool to_write) {
    if (!to_write || gpa != entry || changes == 1000) return;
    SetLeaf(3, uint64_t(++changes) << 52 | 3 << kPageShift | ept::kRightsMask | 6 << 3);
  };
  NestedMemory<FakeMemory> nested(MakeEptp(true), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_LT(changes, 100);
  EXPECT_EQ(nested.fault().outcome, NestedEptOutcome::kNeedsPage);
  EXPECT_EQ(nested.fault().gpa, entry);
  EXPECT_THAT(memory_.asked_again, testing::ElementsAre(entry));
}

TEST_F(NestedWalkTest, AnEntryOfL2sThatNeverStandsStillIsAskedForByItsAddressOfL1) {
  SetLeaf(4, 40 << kPageShift | ept::kRightsMask | 6 << 3);
  const Gpa entry(40 * kPageSize + 5 * 8);
  int changes = 0;
  memory_.Set(entry.raw(), 0x23000 | kTable);
  memory_.before_reach = [&](Gpa gpa, bool to_write) {
    if (!to_write || gpa != entry || changes == 1000) return;
    memory_.Set(entry.raw(), uint64_t(++changes) << 52 | 0x23000 | kTable);
  };
  NestedMemory<FakeMemory> nested(MakeEptp(false), rules_, memory_);
  EXPECT_EQ(Nested(nested).outcome, GuestWalkOutcome::kNeedsPage);
  EXPECT_LT(changes, 100);
  EXPECT_THAT(memory_.asked_again, testing::ElementsAre(entry));
}

}  // namespace
}  // namespace tdp
