// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/memory_types.h"

#include <algorithm>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kOn = 1 << 11;
constexpr uint64_t kFixedOn = 1 << 10;
constexpr uint64_t kUc = 0, kWc = 1, kWt = 4, kWp = 5, kWb = 6;

MtrrState::Variable Range(uint64_t type, Gpa base, ByteCount size, int bits = 46) {
  return {base.raw() | type, (((uint64_t{1} << bits) - 1) & ~(size - 1)) | kOn};
}

// Returns what firmware sets up: write-back, the legacy video hole, the PCI hole below 4 GiB.
MtrrState Pc() {
  MtrrState state;
  state.default_type = kWb | kOn | kFixedOn;
  state.fixed.fill(0x0606060606060606);
  state.fixed[2] = 0;  // a0000 to bffff
  state.variable[0] = Range(kUc, Gpa(GiB(3)), GiB(1));
  return state;
}

MemoryType TypeAt(const MtrrState& state, Gpa gpa) {
  return MemoryTypeMap::Make(state)->TypeOf(Gfn::Of(gpa));
}

TEST(MemoryTypeMap, APcHasItsHolesUncachedAndTheRestWriteBack) {
  EXPECT_EQ(TypeAt(Pc(), Gpa(0)), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(Pc(), Gpa(0x9f000)), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(Pc(), Gpa(0xa0000)), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(Pc(), Gpa(0xbffff)), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(Pc(), Gpa(0xc0000)), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(Pc(), Gpa(GiB(3) - 1)), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(Pc(), Gpa(GiB(3))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(Pc(), Gpa(GiB(4))), MemoryType::kWriteBack);
}

TEST(MemoryTypeMap, WithMtrrsOffEverythingIsUncached) {
  MtrrState state = Pc();
  state.default_type &= ~kOn;
  EXPECT_EQ(TypeAt(state, Gpa(GiB(8))), MemoryType::kUncacheable);
}

TEST(MemoryTypeMap, OverlapsAreUncachedOverAllAndWriteThroughOverWriteBack) {
  MtrrState state;
  state.default_type = kUc | kOn;
  state.variable[0] = Range(kWb, Gpa(0), GiB(1));
  state.variable[1] = Range(kWt, Gpa(MiB(256)), MiB(256));
  state.variable[2] = Range(kUc, Gpa(MiB(384)), MiB(64));
  EXPECT_EQ(TypeAt(state, Gpa(MiB(255))), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(state, Gpa(MiB(256))), MemoryType::kWriteThrough);
  EXPECT_EQ(TypeAt(state, Gpa(MiB(384))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(MiB(448))), MemoryType::kWriteThrough);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(1))), MemoryType::kUncacheable);
}

// Follows the SDM's own words, for one address at a time.
MemoryType ByTheBook(const MtrrState& s, uint64_t address) {
  if ((s.default_type & kOn) == 0) return MemoryType::kUncacheable;
  const auto type = [](uint64_t word) { return static_cast<MemoryType>(word & 0xff); };
  if ((s.default_type & kFixedOn) != 0 && address < 0x100000) {
    if (address < 0x80000) return type(s.fixed[0] >> (address / 0x10000 * 8));
    if (address < 0xc0000) {
      const uint64_t i = (address - 0x80000) / 0x4000;
      return type(s.fixed[1 + i / 8] >> (i % 8 * 8));
    }
    const uint64_t i = (address - 0xc0000) / 0x1000;
    return type(s.fixed[3 + i / 8] >> (i % 8 * 8));
  }
  bool seen[8] = {};
  int kinds = 0;
  for (const auto& [base, mask] : s.variable) {
    const uint64_t bits = mask & ~uint64_t{0xfff};
    if ((mask & kOn) == 0 || (address & bits) != (base & bits)) continue;
    if (!seen[base & 0xff]) ++kinds;
    seen[base & 0xff] = true;
  }
  if (kinds == 0) return type(s.default_type);
  if (seen[kUc]) return MemoryType::kUncacheable;
  if (kinds == 2 && seen[kWt] && seen[kWb]) return MemoryType::kWriteThrough;
  for (int t = 0; t < 8; ++t) {
    if (kinds == 1 && seen[t]) return static_cast<MemoryType>(t);
  }
  return MemoryType::kUncacheable;  // undefined
}

MtrrState Random(std::mt19937_64& random) {
  constexpr uint64_t kTypes[] = {kUc, kWc, kWt, kWp, kWb};
  const auto any_type = [&] { return kTypes[random() % 5]; };
  MtrrState state;
  state.physical_address_bits = 36;
  state.default_type = any_type() | (random() % 8 != 0 ? kOn : 0) | (random() % 2 ? kFixedOn : 0);
  for (uint64_t& fixed : state.fixed) {
    for (int i = 0; i < 8; ++i) fixed = fixed << 8 | any_type();
  }
  for (MtrrState::Variable& variable : state.variable) {
    if (random() % 2 == 0) continue;
    const ByteCount size = uint64_t{1} << (12 + random() % 22);
    variable = Range(any_type(), Gpa(random() % GiB(4) & ~(size - 1)), size, 36);
  }
  return state;
}

TEST(MemoryTypeMap, EveryFrameHasTheTypeThatTheRulesGiveIt) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    const MtrrState state = Random(random);
    const auto map = MemoryTypeMap::Make(state);
    ASSERT_TRUE(map.ok()) << map.status();
    for (int j = 0; j < 400; ++j) {
      const uint64_t page = random() % ((random() % 2 == 0 ? MiB(2) : GiB(5)) >> kPageShift);
      ASSERT_EQ(map->TypeOf(Gfn(page)), ByTheBook(state, page << kPageShift)) << page;
    }
    constexpr Gfn kLimit(MiB(1) >> kPageShift);
    for (Gfn at(0); at < kLimit; at = map->EndOfRun(at, kLimit)) {
      ASSERT_GT(map->EndOfRun(at, kLimit), at);
      ASSERT_EQ(map->TypeOf(at), map->TypeOf(map->EndOfRun(at, kLimit) - PageCount(1)));
    }
  }
}

// A CPU takes any mask within its width, whatever bits it has.
TEST(MemoryTypeMap, AnyMaskMeansTheFramesThatAgreeWithTheBaseInItsBits) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    MtrrState state = Random(random);
    const uint64_t width = (uint64_t{1} << state.physical_address_bits) - 1;
    for (MtrrState::Variable& variable : state.variable) {
      variable.base = (variable.base & 0xff) | (random() & width & ~kPageOffsetMask);
      variable.mask =
          (random() & random() & width & ~kPageOffsetMask) | (random() % 3 == 0 ? kOn : 0);
    }
    const auto map = MemoryTypeMap::Make(state);
    ASSERT_TRUE(map.ok()) << map.status();
    const uint64_t page = (random() & width) >> kPageShift >> random() % 24;
    const Gfn limit(page + 64);
    Gfn end = map->EndOfRun(Gfn(page), limit);
    ASSERT_GT(end, Gfn(page));
    ASSERT_EQ(map->TypeOf(Gfn(page)), ByTheBook(state, page << kPageShift));
    for (Gfn gfn(page); gfn < std::min(end, limit); gfn += PageCount(1)) {
      ASSERT_EQ(map->TypeOf(gfn), map->TypeOf(Gfn(page))) << "inside a run";
    }
    if (end < limit) {
      ASSERT_NE(map->TypeOf(end), map->TypeOf(Gfn(page))) << "a run that is not the whole";
    }
    const Gfn first = Gfn(page).AlignDown(kLevel2M.pages());
    bool uniform = true;
    for (uint64_t j = 0; j < kLevel2M.pages().raw(); ++j) {
      uniform = uniform && map->TypeOf(first + PageCount(j)) == map->TypeOf(first);
    }
    if (map->IsUniform(Gfn(page), kLevel2M)) {
      ASSERT_TRUE(uniform);
    }
  }
}

TEST(MemoryTypeMap, MasksThatFirmwareWritesForOtherWidthsOrWithGaps) {
  MtrrState state;
  state.default_type = kWb | kOn;
  state.physical_address_bits = 46;
  // This mask was written for a CPU of 36 bits: the range comes again every 64 GiB.
  state.variable[0] = {GiB(3) | kUc, 0xfc0000800};
  EXPECT_EQ(TypeAt(state, Gpa(GiB(3))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(64 + 3))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(TiB(32) + GiB(3))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(64 + 2))), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(4))), MemoryType::kWriteBack);
  // This one has no bit of the address: the range is all there is.
  state.variable[0] = {GiB(3) | kWt, 0x800};
  EXPECT_EQ(TypeAt(state, Gpa(0)), MemoryType::kWriteThrough);
  EXPECT_EQ(TypeAt(state, Gpa(TiB(63))), MemoryType::kWriteThrough);
  // This one has a gap at bit 31, which makes two ranges, 2 GiB apart.
  state.variable[0] = {GiB(1) | kUc, 0x3fff40000800};
  EXPECT_EQ(TypeAt(state, Gpa(GiB(1))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(3))), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(2))), MemoryType::kWriteBack);
  EXPECT_EQ(TypeAt(state, Gpa(GiB(5))), MemoryType::kWriteBack);
  const auto map = MemoryTypeMap::Make(state);
  EXPECT_TRUE(map->IsUniform(Gfn::Of(Gpa(GiB(3))), kLevel1G));
  EXPECT_EQ(map->EndOfRun(Gfn::Of(Gpa(GiB(2))), Gfn::Of(Gpa(GiB(9)))), Gfn::Of(Gpa(GiB(3))));
}

// Every second page is of the range, and the others have the same type: many edges and no change.
TEST(MemoryTypeMap, AMaskOfOneBitIsAnsweredInFewSteps) {
  MtrrState state;
  state.default_type = kWb | kOn;
  state.variable[0] = {kWb, uint64_t{1} << kPageShift | kOn};
  const auto map = MemoryTypeMap::Make(state);
  const Gfn limit = Gfn::Of(Gpa(TiB(16)));
  EXPECT_GT(map->EndOfRun(Gfn(5), limit), Gfn(5));
  EXPECT_EQ(map->TypeOf(Gfn(5)), MemoryType::kWriteBack);
  state.variable[0].base = kUc;
  EXPECT_EQ(TypeAt(state, Gpa(0x4000)), MemoryType::kUncacheable);
  EXPECT_EQ(TypeAt(state, Gpa(0x5000)), MemoryType::kWriteBack);
}

TEST(MemoryTypeMap, WhatWrmsrWouldRefuseIsInvalidByName) {
  const auto message = [](auto change) {
    MtrrState state = Pc();
    change(state);
    return std::string(MemoryTypeMap::Make(state).status().message());
  };
  EXPECT_THAT(message([](auto& s) { s.default_type = 2; }), HasSubstr("IA32_MTRR_DEF_TYPE 0x2"));
  EXPECT_THAT(message([](auto& s) { s.default_type |= 1 << 9; }), HasSubstr("reserved bit"));
  EXPECT_THAT(message([](auto& s) { s.fixed[4] = 0x0700; }), HasSubstr("fixed MTRR 4"));
  EXPECT_THAT(message([](auto& s) { s.variable[3].base = 3; }), HasSubstr("PHYSBASE3"));
  EXPECT_THAT(message([](auto& s) { s.variable[0].mask |= 1; }), HasSubstr("PHYSMASK0"));
  EXPECT_THAT(message([](auto& s) { s.variable[0].base |= uint64_t{1} << 46; }),
              HasSubstr("PHYSBASE0"));
  EXPECT_THAT(message([](auto& s) { s.variable[0].mask |= uint64_t{1} << 46; }),
              HasSubstr("PHYSMASK0"));
  EXPECT_THAT(message([](auto& s) { s.physical_address_bits = 53; }),
              HasSubstr("physical_address_bits is 53"));
}

class MemoryTypesTest : public HostTest {
 protected:
  MemoryTypesTest() {
    host_.order = 18;
    Start();
    EXPECT_TRUE(vm_->SetMemoryRegion({.size = GiB(8), .hva = Hva(TiB(1))}).ok());
  }
  Translation At(Gpa gpa) {
    EXPECT_LE(vcpu_->HandleEptViolation(gpa, kWriteFault).outcome, FaultOutcome::kSpurious);
    return *vm_->Translate(gpa);
  }
};

TEST_F(MemoryTypesTest, WithoutNonCoherentDmaTheGuestsTypesDoNotCount) {
  ASSERT_TRUE(vm_->SetMemoryTypes({.mtrrs = Pc()}).ok());
  const Translation found = At(Gpa(GiB(3)));
  EXPECT_EQ(found.entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_TRUE(found.entry.ignore_pat());
  EXPECT_EQ(found.level, kLevel1G);
}

TEST_F(MemoryTypesTest, WithItLeavesHaveTheTypeOfTheMtrrsAndObeyThePat) {
  ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = Pc()}).ok());
  EXPECT_EQ(At(Gpa(GiB(3))).entry.memory_type(), MemoryType::kUncacheable);
  EXPECT_EQ(At(Gpa(GiB(4))).entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_FALSE(At(Gpa(GiB(4))).entry.ignore_pat());
}

TEST_F(MemoryTypesTest, ALargeLeafNeverStraddlesTwoTypes) {
  MtrrState state = Pc();
  state.variable[1] = Range(kWt, Gpa(GiB(5) + MiB(4)), MiB(2));
  state.variable[2] = Range(kWp, Gpa(GiB(6) + MiB(2) + KiB(64)), KiB(4));
  ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = state}).ok());
  EXPECT_EQ(At(Gpa(GiB(3))).level, kLevel1G);
  EXPECT_EQ(At(Gpa(GiB(5))).level, kLevel2M);
  EXPECT_EQ(At(Gpa(GiB(5) + MiB(4))).level, kLevel2M);
  EXPECT_EQ(At(Gpa(GiB(6) + MiB(2))).level, kLevel4K);
  EXPECT_EQ(At(Gpa(GiB(6))).level, kLevel2M);
  EXPECT_EQ(At(Gpa(0)).level, kLevel4K) << "the video hole is in its first 2 MiB";
  EXPECT_EQ(At(Gpa(MiB(2))).level, kLevel2M);
}

TEST_F(MemoryTypesTest, AMaskWithGapsTypesEachOfItsRanges) {
  MtrrState state = Pc();
  state.variable[0] = {MiB(2) | kUc, (uint64_t{1} << 21 | uint64_t{1} << 23) | kOn};
  ASSERT_EQ(vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = state}), absl::OkStatus());
  for (const uint64_t at : {MiB(2), MiB(6), MiB(18), GiB(4) + MiB(6)}) {
    EXPECT_EQ(At(Gpa(at)).entry.memory_type(), MemoryType::kUncacheable) << at;
    EXPECT_EQ(At(Gpa(at)).level, kLevel2M);
  }
  EXPECT_EQ(At(Gpa(MiB(4))).entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_EQ(At(Gpa(MiB(10))).entry.memory_type(), MemoryType::kWriteBack);
}

TEST_F(MemoryTypesTest, AChangeTakesTheOldMappingsAway) {
  At(Gpa(GiB(3)));
  ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = Pc()}).ok());
  EXPECT_FALSE(vm_->Translate(Gpa(GiB(3))).ok());
  At(Gpa(GiB(3)));
  ASSERT_TRUE(vm_->SetMemoryTypes({}).ok());
  EXPECT_FALSE(vm_->Translate(Gpa(GiB(3))).ok());
}

TEST_F(MemoryTypesTest, BadRegistersChangeNothing) {
  At(Gpa(GiB(3)));
  EXPECT_TRUE(absl::IsInvalidArgument(
      vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = {.default_type = 7}})));
  EXPECT_TRUE(vm_->Translate(Gpa(GiB(3))).ok());
}

TEST_F(MemoryTypesTest, WithCachesDisabledAllIsUncachedWhateverThePatSays) {
  ASSERT_TRUE(
      vm_->SetMemoryTypes({.non_coherent_dma = true, .caches_disabled = true, .mtrrs = Pc()}).ok());
  // `ignore_pat` keeps a guest whose CR0.CD is set from a write-combining page.
  EXPECT_EQ(At(Gpa(GiB(4))).entry.memory_type(), MemoryType::kUncacheable);
  EXPECT_TRUE(At(Gpa(GiB(4))).entry.ignore_pat());
}

TEST_F(MemoryTypesTest, WhatTheHostMapsUncachedIsUncachedAndTheGuestsPatCounts) {
  host_.memory_type = MemoryType::kUncacheable;
  EXPECT_EQ(At(Gpa(0)).entry.memory_type(), MemoryType::kUncacheable);
  EXPECT_FALSE(At(Gpa(0)).entry.ignore_pat());
}

TEST_F(MemoryTypesTest, PrefaultAndCollapseMakeTheSameLeaves) {
  MtrrState state = Pc();
  state.variable[1] = Range(kWt, Gpa(MiB(4) + KiB(64)), KiB(64));
  ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true, .mtrrs = state}).ok());
  host_.order = 0;
  ASSERT_EQ(*vcpu_->Prefault(Gpa(MiB(2)), MiB(4)), MiB(4));
  EXPECT_EQ(vm_->Translate(Gpa(MiB(4)))->entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(4) + KiB(64)))->entry.memory_type(), MemoryType::kWriteThrough);
  host_.order = 18;
  EXPECT_EQ(*vm_->CollapseRange(Gfn(0), PageCount::FromBytes(MiB(8))), 1u);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(2)))->level, kLevel2M);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(4)))->level, kLevel4K);
}

}  // namespace
}  // namespace tdp
