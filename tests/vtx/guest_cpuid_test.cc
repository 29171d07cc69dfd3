// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/guest_cpuid.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kAll = ~0u;
constexpr CpuidLeaf kEverything{kAll, kAll, kAll, kAll};

CpuidContext Cpu() {
  CpuidContext context;
  context.highest_basic_leaf = 0x1b;
  context.xcr0 = kGuestXcr0;
  return context;
}

CpuidLeaf Shown(uint32_t leaf, uint32_t subleaf, const CpuidContext& context = Cpu()) {
  return ShownCpuid(leaf, subleaf, kEverything, context);
}

bool IsEmpty(const CpuidLeaf& leaf) {
  return leaf.eax == 0 && leaf.ebx == 0 && leaf.ecx == 0 && leaf.edx == 0;
}

TEST(GuestCpuid, VmxAndSmxAreTheHostsAndTheGuestKnowsOfOne) {
  EXPECT_EQ(Shown(1, 0).ecx & (1u << 5 | 1u << 6), 0u);
  EXPECT_NE(Shown(1, 0).ecx & 1u << 31, 0u);
}

TEST(GuestCpuid, OsxsaveIsThatOfTheGuestsOwnCr4) {
  EXPECT_EQ(Shown(1, 0).ecx & 1u << 27, 0u);
  CpuidContext context = Cpu();
  context.guest_cr4 = 1 << 18;
  EXPECT_NE(ShownCpuid(1, 0, {}, context).ecx & 1u << 27, 0u);
}

TEST(GuestCpuid, TheGuestIsToldOfItsHypervisor) {
  EXPECT_NE(ShownCpuid(1, 0, {}, Cpu()).ecx & 1u << 31, 0u);
}

TEST(GuestCpuid, StateThatTheDriverDoesNotKeepApartIsNotOffered) {
  const CpuidLeaf features = Shown(7, 0);
  EXPECT_EQ(features.ebx & 1u << 16, 0u) << "AVX-512";
  EXPECT_EQ(features.ecx & 1u << 3, 0u) << "PKU";
  EXPECT_EQ(features.edx & 1u << 20, 0u) << "CET";
  EXPECT_EQ(features.edx & 1u << 23, 0u) << "AVX-512 with numbers of 16 bits";
  EXPECT_EQ(features.edx & (1u << 22 | 1u << 24 | 1u << 25), 0u) << "AMX";
  EXPECT_EQ(features.edx & 1u << 5, 0u) << "user interrupts";
  EXPECT_EQ(features.edx & 1u << 19, 0u) << "branch records";
  EXPECT_EQ(features.ecx & 1u << 31, 0u) << "keys of supervisor pages";
  EXPECT_EQ(features.ecx & 1u << 23, 0u) << "Key Locker";
  EXPECT_EQ(features.ecx & 1u << 29, 0u) << "ENQCMD";
  EXPECT_NE(features.ebx & 1u << 5, 0u) << "AVX2 is there";
  EXPECT_TRUE(IsEmpty(Shown(7, 1)));
  EXPECT_EQ(Shown(0xd, 0).eax, kGuestXcr0);
  EXPECT_EQ(Shown(0xd, 1).eax, 1u) << "XSAVEOPT and no more";
  EXPECT_FALSE(IsEmpty(Shown(0xd, 2)));
  EXPECT_TRUE(IsEmpty(Shown(0xd, 5)));
}

TEST(GuestCpuid, TheDebugStoreIsHiddenWithWhatCountsForIt) {
  EXPECT_EQ(Shown(1, 0).edx & 1u << 21, 0u) << "DS";
  EXPECT_EQ(Shown(1, 0).ecx & (1u << 2 | 1u << 4), 0u) << "DTES64, DS-CPL";
  EXPECT_TRUE(IsEmpty(Shown(0xa, 0)));
}

TEST(GuestCpuid, OfSgxThereIsNoTrace) {
  EXPECT_EQ(Shown(7, 0).ebx & 1u << 2, 0u);
  EXPECT_EQ(Shown(7, 0).ecx & 1u << 30, 0u) << "launch control";
  EXPECT_EQ(Shown(7, 0).edx & 1u << 1, 0u) << "attestation keys";
  for (const uint32_t subleaf : {0, 1, 2}) EXPECT_TRUE(IsEmpty(Shown(0x12, subleaf))) << subleaf;
}

TEST(GuestCpuid, WithoutFiveLevelsLinearAddressesHave48Bits) {
  EXPECT_EQ(Shown(7, 0).ecx & 1u << 16, 0u);
  EXPECT_EQ(ShownCpuid(0x80000008, 0, {0x3934, 1, 2, 3}, Cpu()).eax, 0x3034u);
  EXPECT_EQ(ShownCpuid(0x80000008, 0, {0x302e, 1, 2, 3}, Cpu()).eax, 0x302eu);
  EXPECT_EQ(ShownCpuid(0x80000008, 0, {0x3934, 1, 2, 3}, Cpu()).ecx, 2u);
}

TEST(GuestCpuid, TheSizeOfTheSavedStateIsThatOfTheComponentsThereAre) {
  EXPECT_EQ(Shown(0xd, 0).ecx, 0x340u);
  CpuidContext context = Cpu();
  context.xcr0 = 3;
  EXPECT_EQ(Shown(0xd, 0, context).ecx, 0x240u);
  EXPECT_TRUE(IsEmpty(Shown(0xd, 2, context)));
  context.xcr0 = 0;
  EXPECT_TRUE(IsEmpty(Shown(0xd, 0, context)));
}

TEST(GuestCpuid, WhatTheEmbedderHidesIsHiddenBesides) {
  CpuidContext context = Cpu();
  context.hidden.leaf1_edx = 1 << 7;
  context.hidden.leaf7_edx = 1 << 4;
  EXPECT_EQ(Shown(1, 0).edx, kAll & ~(1u << 21)) << "all but DS";
  EXPECT_EQ(Shown(1, 0, context).edx, kAll & ~(1u << 21 | 1u << 7));
  EXPECT_EQ(Shown(7, 0, context).edx & 1u << 4, 0u);
  EXPECT_NE(Shown(7, 0).edx & 1u << 4, 0u);
}

TEST(GuestCpuid, TheCountersFrequencyIsToldWhereItIsGivenAndElseTheCpusOwn) {
  EXPECT_EQ(Shown(0x15, 0).ecx, kAll);
  CpuidContext context = Cpu();
  context.tsc_hz = 100000000;
  context.highest_basic_leaf = 0xb;
  EXPECT_EQ(Shown(0, 0, context).eax, 0x16u);
  EXPECT_EQ(Shown(0x15, 0, context).ecx, 100000000u);
  EXPECT_EQ(Shown(0x16, 0, context).eax, 100u);
  // EBX / EAX times as fast as ECX says, in 32 bits.
  for (const uint64_t hz : {uint64_t{0xffffffff}, uint64_t{1} << 32, uint64_t{5000000000}}) {
    context.tsc_hz = hz;
    const CpuidLeaf told = Shown(0x15, 0, context);
    EXPECT_EQ(uint64_t{told.ecx} * told.ebx / told.eax, hz);
  }
}

TEST(GuestCpuid, LeavesBeyondTheCpusLastOneAreEmpty) {
  CpuidContext context = Cpu();
  context.highest_basic_leaf = 0xb;
  EXPECT_EQ(Shown(0, 0, context).eax, 0xbu);
  EXPECT_TRUE(IsEmpty(Shown(0xd, 0, context)));
  EXPECT_TRUE(IsEmpty(Shown(0x19, 0)));
  EXPECT_TRUE(IsEmpty(Shown(0x40000001, 0)));
  EXPECT_EQ(Shown(0x80000001, 0).edx, kAll) << "the extended ones are the CPU's own";
}

}  // namespace
}  // namespace tdp::vtx
