// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// No recorded oracle covers 5-level EPT, MBEC, #VE and sub-page permissions. So every single bit
// and every pair of bits of every entry on the way of an access is tried here, for every kind of
// access, against a walk by rules written as a table for the tests (`ept_rule_table.h`). The tests
// check the event with all its fields, the flags that are set, and that nothing else is written.

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/virtualization_exception.h"
#include "tests/sim/ept_rule_table.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGpa = GiB(1) + MiB(64) + KiB(40);
constexpr uint64_t kHpa = GiB(8) + MiB(64) + KiB(40);
// The page is so far from every table that two flipped bits of an address do not lead to it.
constexpr uint64_t kInformation = 0x355555000;
constexpr AccessKind kKinds[] = {AccessKind::kFetch, AccessKind::kLoad, AccessKind::kStore,
                                 AccessKind::kModify};

// Calls `visit(value)` with every value that differs from `base` in one bit or two.
void ForEachFlip(uint64_t base, const std::function<void(uint64_t)>& visit) {
  for (int first = 0; first < 64; ++first) {
    visit(base ^ uint64_t{1} << first);
    for (int second = 0; second < first; ++second) {
      visit(base ^ (uint64_t{1} << first | uint64_t{1} << second));
    }
  }
}

struct Setting {
  EptRuleCpu cpu;
  int levels;
  int leaf;  // level
  bool accessed_dirty;
  bool ve;
};

constexpr EptRuleCpu kPlain = {"plain", 46, true, true, true, false, false};
constexpr EptRuleCpu kMbec = {"mbec", 46, true, true, true, true, false};
constexpr EptRuleCpu kOldMbec = {"old_mbec", 40, false, true, false, true, false};
constexpr Setting kSettings[] = {
    {kPlain, 5, 1, true, false},   {kPlain, 5, 2, false, false},  {kPlain, 5, 3, true, true},
    {kMbec, 4, 1, true, false},    {kMbec, 5, 2, true, true},     {kMbec, 4, 3, false, true},
    {kOldMbec, 4, 1, false, true}, {kOldMbec, 4, 2, true, false}, {kPlain, 4, 1, false, true},
};

// Keeps an entry that a walk read, with the value it has when the walk is done.
struct Seen {
  uint64_t place;
  uint64_t before;
  uint64_t after;
};

struct Expectation {
  Event event = Event::kNone;
  uint64_t qualification = 0;
  uint64_t hpa = 0;
  std::vector<Seen> seen;
};

class ExhaustiveWalk : public testing::TestWithParam<Setting> {
 protected:
  ExhaustiveWalk()
      : setting_(GetParam()), world_(ConfigOf(setting_), PagingMode::kNone, setting_.levels) {
    const uint64_t page = uint64_t{1} << (12 + 9 * (setting_.leaf - 1));
    world_.MapEpt(kGpa & ~(page - 1), kHpa & ~(page - 1), setting_.leaf,
                  kRwx | ept::kUserExecute | kWriteBack);
    Controls controls;
    controls.mbec = setting_.cpu.mbec;
    controls.ve = setting_.ve;
    controls.ve_information = Hpa(kInformation);
    EXPECT_TRUE(world_.cpu().SetControls(controls).ok());
    world_.Enter(setting_.accessed_dirty);
  }

  static CpuConfig ConfigOf(const Setting& setting) {
    CpuConfig config = NoCaches();
    config.features = FeaturesOf(setting.cpu);
    config.features.mbec = true;
    return config;
  }

  // Walks by the table.
  Expectation Expect(AccessKind kind) {
    Expectation e;
    constexpr uint64_t kAsked[] = {4, 1, 2, 3};
    const uint64_t access = kAsked[static_cast<int>(kind)];
    const bool write = (access & 2) != 0;
    uint64_t rights = setting_.cpu.mbec ? 15 : 7;
    uint64_t table = world_.eptp().root().raw();
    for (int level = setting_.levels;; --level) {
      const uint64_t place = table + (kGpa >> (12 + 9 * (level - 1)) & 511) * 8;
      const uint64_t entry = world_.Load(place);
      e.seen.push_back({place, entry, entry});
      if (!ExpectPresent(entry, setting_.cpu)) return Violation(e, access, 0, entry);
      if (ExpectMisconfigured(entry, level, setting_.cpu)) {
        e.event = Event::kEptMisconfiguration;
        return e;
      }
      rights &= (entry & 7) | (Bit(entry, 10) ? 8 : 0);
      if (KindOf(entry, level) < kLeaf3) {
        table = entry & 0xffffffffff000;
        continue;
      }
      // An unpaged address is a user-mode one: under MBEC bit 10 lets it be fetched.
      const uint64_t needed = access == 4 && setting_.cpu.mbec ? 8 : access;
      if ((rights & needed) != needed) return Violation(e, access, rights, entry);
      const uint64_t below = (uint64_t{1} << (12 + 9 * (level - 1))) - 1;
      e.hpa = (entry & 0xffffffffff000 & ~below) | (kGpa & below);
      break;
    }
    if (!setting_.accessed_dirty) return e;
    for (Seen& seen : e.seen) seen.after |= uint64_t{1} << 8;
    if (write) e.seen.back().after |= uint64_t{1} << 9;
    return e;
  }

  // Bits 7 to 10 say that there is a linear address, the final one, of user mode and writable.
  Expectation Violation(Expectation e, uint64_t access, uint64_t rights, uint64_t last) {
    e.qualification = access | rights << 3 | 0x780;
    e.event =
        setting_.ve && !Bit(last, 63) ? Event::kVirtualizationException : Event::kEptViolation;
    return e;
  }

  void Check(AccessKind kind) {
    const Expectation e = Expect(kind);
    const AccessResult result = world_.cpu().Access(Gva(kGpa), kind, 4);
    ASSERT_EQ(result.event, e.event);
    const Exit& exit = world_.cpu().exit();
    if (e.event == Event::kNone) {
      ASSERT_EQ(result.hpa, Hpa(e.hpa));
    } else {
      ASSERT_EQ(exit.qualification.raw(), e.qualification);
      ASSERT_EQ(exit.gpa, Gpa(kGpa));
    }
    for (const Seen& seen : e.seen) {
      ASSERT_EQ(world_.Load(seen.place), seen.after) << absl::StrFormat("at %#x", seen.place);
      world_.Store(seen.place, seen.before);
    }
    CheckInformation(e);
  }

  // Checks that the information page is as table 26-2 has it after #VE, and untouched otherwise.
  void CheckInformation(const Expectation& e) {
    const bool delivered = e.event == Event::kVirtualizationException;
    ASSERT_EQ(world_.Load(kInformation), delivered ? 0xffffffff00000030 : 0);
    ASSERT_EQ(world_.Load(kInformation + 8), delivered ? e.qualification : 0);
    ASSERT_EQ(world_.Load(kInformation + 16), delivered ? kGpa : 0);
    ASSERT_EQ(world_.Load(kInformation + 24), delivered ? kGpa : 0);
    for (uint64_t offset = 0; offset < 40; offset += 8) world_.Store(kInformation + offset, 0);
  }

  const Setting setting_;
  World world_;
};

TEST_P(ExhaustiveWalk, EverySingleBitAndPairOfEachEntryFollowsTheTable) {
  for (int level = setting_.leaf; level <= setting_.levels; ++level) {
    const uint64_t place = world_.EptEntryAt(kGpa, level);
    const uint64_t whole = world_.Load(place);
    ForEachFlip(whole, [&](uint64_t value) {
      for (const AccessKind kind : kKinds) {
        if (HasFatalFailure()) return;
        SCOPED_TRACE(absl::StrFormat("%#x at level %d, access kind %d", value, level,
                                     static_cast<int>(kind)));
        world_.Store(place, value);
        Check(kind);
      }
    });
    ASSERT_FALSE(HasFatalFailure());
    world_.Store(place, whole);
  }
}

// Each set of rights stands above each set of rights in the leaf.
TEST_P(ExhaustiveWalk, EveryPairOfRightsAboveAndInTheLeafFollowsTheTable) {
  constexpr uint64_t kRights = kRwx | ept::kUserExecute;
  const uint64_t leaf = world_.EptEntryAt(kGpa, setting_.leaf);
  const uint64_t above = world_.EptEntryAt(kGpa, setting_.leaf + 1);
  const uint64_t leaf_value = world_.Load(leaf) & ~kRights;
  const uint64_t above_value = world_.Load(above) & ~kRights;
  for (uint64_t pair = 0; pair < 256; ++pair) {
    for (const AccessKind kind : kKinds) {
      SCOPED_TRACE(absl::StrFormat("rights %#x, access kind %d", pair, static_cast<int>(kind)));
      world_.Store(leaf, leaf_value | (pair & 7) | (pair & 8) << 7);
      world_.Store(above, above_value | (pair >> 4 & 7) | (pair >> 4 & 8) << 7);
      Check(kind);
      ASSERT_FALSE(HasFatalFailure());
    }
  }
}

// The page is busy if any bit of its second word is set.
TEST_P(ExhaustiveWalk, AnyBitOfTheBusyWordKeepsAViolationAnExit) {
  world_.Store(world_.EptEntryAt(kGpa, setting_.leaf), 0);
  for (int bit = 0; bit < 64; ++bit) {
    world_.Store(kInformation, uint64_t{1} << bit);
    const bool convertible = setting_.ve && bit < 32;
    ASSERT_EQ(world_.cpu().Access(Gva(kGpa), AccessKind::kLoad, 1).event,
              convertible ? Event::kVirtualizationException : Event::kEptViolation);
    ASSERT_EQ(world_.Load(kInformation), convertible ? 0xffffffff00000030 : uint64_t{1} << bit);
  }
}

std::string NameOf(const testing::TestParamInfo<Setting>& info) {
  const Setting& s = info.param;
  return absl::StrFormat("%s_%d_levels_leaf_%d%s%s", s.cpu.name, s.levels, s.leaf,
                         s.accessed_dirty ? "_flags" : "", s.ve ? "_ve" : "");
}

INSTANTIATE_TEST_SUITE_P(All, ExhaustiveWalk, testing::ValuesIn(kSettings), NameOf);

// --- sub-page permissions ---

class ExhaustiveSubPages : public testing::Test {
 protected:
  ExhaustiveSubPages() : world_(NoCaches(), PagingMode::kNone) {
    leaf_ = world_.MapEpt(kGpa & ~kPageOffsetMask, kHpa & ~kPageOffsetMask, 1,
                          ept::kRead | ept::kSubPageWrite | kWriteBack);
    Controls controls;
    controls.spp = true;
    uint64_t table = world_.NewFrame();
    controls.sppt_root = Hpa(table);
    root_ = table;
    for (int level = 4; level >= 2; --level) {
      const uint64_t next = world_.NewFrame();
      places_.push_back(table + (kGpa >> (12 + 9 * (level - 1)) & 511) * 8);
      world_.Store(places_.back(), next | 1);
      table = next;
    }
    places_.push_back(table + (kGpa >> 12 & 511) * 8);
    // These bits let pieces 0, 3, 4 and 31 be written.
    world_.Store(places_.back(), 1 | 1 << 6 | 1 << 8 | uint64_t{1} << 62);
    EXPECT_TRUE(world_.cpu().SetControls(controls).ok());
    world_.Enter();
  }

  struct Outcome {
    Event event;
    uint64_t qualification;
  };

  // Walks the SPP table by SDM 29.3.4: each entry is valid by bit 0, with bits 11:1 and those
  // beyond the physical width reserved; the last one has a permission in each even bit.
  Outcome Expect(unsigned offset, unsigned size) {
    constexpr uint64_t kReserved = 0xffe | ~uint64_t{0} << 46;
    const Outcome violation = {Event::kEptViolation, 0x78a};
    uint64_t table = root_;
    for (int level = 4; level >= 2; --level) {
      const uint64_t entry = world_.Load(table + (kGpa >> (12 + 9 * (level - 1)) & 511) * 8);
      if (!Bit(entry, 0)) return {Event::kSppEvent, uint64_t{1} << 11};
      if ((entry & kReserved) != 0) return {Event::kSppEvent, 0};
      table = entry & 0xffffffffff000;
    }
    const uint64_t vector = world_.Load(table + (kGpa >> 12 & 511) * 8);
    for (int bit = 1; bit < 64; bit += 2) {
      if (Bit(vector, bit)) return {Event::kSppEvent, 0};
    }
    for (unsigned byte = offset; byte < offset + size; ++byte) {
      if (!Bit(vector, static_cast<int>(byte / 128 * 2))) return violation;
    }
    return {Event::kNone, 0};
  }

  void Check(unsigned offset, unsigned size) {
    const Outcome expected = Expect(offset, size);
    const Gva gva((kGpa & ~kPageOffsetMask) + offset);
    const AccessResult result = world_.cpu().Access(gva, AccessKind::kStore, size);
    ASSERT_EQ(result.event, expected.event) << offset << " size " << size;
    if (result.ok()) return;
    const Exit& exit = world_.cpu().exit();
    ASSERT_EQ(exit.qualification.raw(), expected.qualification);
    ASSERT_EQ(exit.gpa, Gpa(gva.raw()));
    ASSERT_EQ(exit.gva, gva);
  }

  World world_;
  uint64_t root_ = 0;
  uint64_t leaf_ = 0;
  std::vector<uint64_t> places_;  // of the SPP entries, from the root down
};

TEST_F(ExhaustiveSubPages, EverySingleBitAndPairOfEachEntryFollowsTheTable) {
  for (const uint64_t place : places_) {
    const uint64_t whole = world_.Load(place);
    ForEachFlip(whole, [&](uint64_t value) {
      world_.Store(place, value);
      SCOPED_TRACE(absl::StrFormat("%#x at %#x", value, place));
      for (const auto& [offset, size] : {std::pair{0u, 1u},
                                         {3u * 128, 8u},
                                         {4u * 128 - 4, 8u},
                                         {5u * 128 - 2, 4u},
                                         {7u * 128, 1u},
                                         {4095u, 1u}}) {
        if (HasFatalFailure()) return;
        Check(offset, size);
      }
    });
    ASSERT_FALSE(HasFatalFailure());
    world_.Store(place, whole);
  }
}

TEST_F(ExhaustiveSubPages, ApplyToWritesOfLinearAddressesToSmallReadablePagesAlone) {
  const uint64_t gpa = kGpa & ~kPageOffsetMask;
  ASSERT_EQ(world_.cpu().Access(Gva(gpa), AccessKind::kStore).event, Event::kNone);
  EXPECT_EQ(world_.cpu().Access(Gva(gpa), AccessKind::kModify).event, Event::kNone);
  EXPECT_EQ(world_.cpu().Access(Gva(gpa), AccessKind::kFetch).event, Event::kEptViolation);
  EXPECT_EQ(world_.cpu().AccessGpa(Gpa(gpa), AccessKind::kStore).event, Event::kEptViolation)
      << "no linear address";
  const uint64_t upper = world_.EptEntryAt(gpa, 2);
  world_.Store(upper, world_.Load(upper) & ~ept::kWrite);
  EXPECT_EQ(world_.cpu().Access(Gva(gpa), AccessKind::kStore).event, Event::kEptViolation)
      << "W is withheld above the leaf";
  world_.Store(upper, world_.Load(upper) | ept::kWrite);
  world_.Store(leaf_, world_.Load(leaf_) & ~ept::kSubPageWrite);
  EXPECT_EQ(world_.cpu().Access(Gva(gpa), AccessKind::kStore).event, Event::kEptViolation);
  // Bit 61 of a 2 MiB leaf means nothing.
  world_.MapEpt(GiB(3), GiB(9), 2, ept::kRead | ept::kSubPageWrite | kWriteBack);
  EXPECT_EQ(world_.cpu().Access(Gva(GiB(3)), AccessKind::kStore).event, Event::kEptViolation);
}

}  // namespace
}  // namespace tdp::sim
