// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests are of the control registers: what MOV to one refuses, drops and loads.

#include <gtest/gtest.h>

#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tests/sim/guest_page.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

TEST(LegacyPaging, AChangeOfPseDropsWhatWasCached) {
  World world({}, PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapEpt(kOtherGpa, kOtherHpa);
  const uint64_t entry = world.MapGuest(kGva, kGpa);
  world.Enter();
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa));
  world.StoreGuest(entry, kOtherGpa | kGuestLeaf);
  const uint64_t cr4 = world.cpu().registers().cr4;
  ASSERT_EQ(world.cpu().WriteCr4(cr4 & ~kCr4Pse), Event::kNone);
  EXPECT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kOtherHpa));
}

TEST(ControlRegisters, WhatCannotStandTogetherIsRefusedAndChangesNothing) {
  struct Case {
    const char* what;
    PagingMode mode;
    uint64_t cr0;  // bits that MOV to CR0 flips; 0: it is MOV to CR4
    uint64_t cr4;
    uint64_t cr4_before;  // bits that are set before
    uint64_t cr3_before;
  };
  constexpr auto k4Level = PagingMode::k4Level;
  const Case cases[] = {
      {"paging without protection", PagingMode::k32Bit, kCr0Pe, 0, 0, 0},
      {"paging without protection", PagingMode::kNone, kCr0Pe | kCr0Pg, 0, 0, 0},
      {"NW without CD", PagingMode::k32Bit, kCr0Nw, 0, 0, 0},
      {"bit 32 of CR0", k4Level, uint64_t{1} << 32, 0, 0, 0},
      {"paging goes, PCIDs stay", k4Level, kCr0Pg, 0, kCr4Pcide, 0},
      {"PAE goes in IA-32e mode", k4Level, 0, kCr4Pae, 0, 0},
      {"a level more in IA-32e mode", k4Level, 0, kCr4La57, 0, 0},
      {"a level less in IA-32e mode", PagingMode::k5Level, 0, kCr4La57, 0, 0},
      {"PCIDs outside of IA-32e mode", PagingMode::kPae, 0, kCr4Pcide, 0, 0},
      {"PCIDs without paging", PagingMode::kNone, 0, kCr4Pcide, 0, 0},
      {"PCIDs beside a PCD bit of CR3", k4Level, 0, kCr4Pcide, 0, 0x10},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    World world({}, each.mode);
    world.Enter();
    world.ChangeRegisters([&](Registers& r) {
      r.cr4 |= each.cr4_before;
      r.cr3 |= each.cr3_before;
    });
    const Registers before = world.cpu().registers();
    const uint64_t invalidations = world.cpu().invalidations();
    const Event event = each.cr0 != 0 ? world.cpu().WriteCr0(before.cr0 ^ each.cr0)
                                      : world.cpu().WriteCr4(before.cr4 ^ each.cr4);
    EXPECT_EQ(event, Event::kGeneralProtection);
    EXPECT_EQ(world.cpu().exit().event, Event::kGeneralProtection);
    EXPECT_EQ(world.cpu().registers(), before);
    EXPECT_EQ(world.cpu().invalidations(), invalidations);
  }
}

TEST(ControlRegisters, LongModeIsEnteredByPaeThenPagingAndPcidsCome) {
  World world({}, PagingMode::kNone);
  world.Enter();
  const uint64_t cr0 = world.cpu().registers().cr0;
  world.ChangeRegisters([](Registers& r) { r.efer |= kEferLme; });
  EXPECT_EQ(world.cpu().WriteCr0(cr0 | kCr0Pg), Event::kGeneralProtection) << "PAE is missing";
  EXPECT_EQ(world.cpu().WriteCr4(kCr4Pae | kCr4La57), Event::kNone);
  EXPECT_EQ(world.cpu().WriteCr0(cr0 | kCr0Pg | kCr0Cd | kCr0Nw), Event::kNone);
  EXPECT_EQ(world.cpu().WriteCr4(kCr4Pae | kCr4La57 | kCr4Pcide), Event::kNone);
  EXPECT_EQ(world.cpu().WriteCr4(kCr4Pae | kCr4La57), Event::kNone);
  EXPECT_EQ(world.cpu().WriteCr0(cr0), Event::kNone);
}

TEST(PaePaging, AMoveToAControlRegisterThatFaultsChangesNothing) {
  World world({}, PagingMode::kPae);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kOtherGpa);
  world.Enter();
  world.Store(kHpa, 0x1000 | 3);  // bit 1 is reserved
  Registers before = world.cpu().registers();
  EXPECT_EQ(world.cpu().WriteCr3(kGpa), Event::kGeneralProtection);
  EXPECT_EQ(world.cpu().registers(), before);
  world.ChangeRegisters([](Registers& r) { r.cr3 = kGpa; });
  before = world.cpu().registers();
  EXPECT_EQ(world.cpu().WriteCr4(before.cr4 ^ kCr4Pge), Event::kGeneralProtection);
  EXPECT_EQ(world.cpu().registers(), before);
  EXPECT_EQ(world.cpu().WriteCr0(before.cr0 ^ kCr0Cd), Event::kGeneralProtection);
  EXPECT_EQ(world.cpu().registers(), before);
}

TEST(PaePaging, Cr3Has32BitsAndPdptesLieAtAnyMultipleOf32) {
  World world(NoCaches(), PagingMode::kPae);
  world.MapEpt(kGpa, kHpa);
  world.Enter();
  world.Store(kHpa, 0x1000 | 1);
  world.Store(kHpa + 0xfe0, 0x3000 | 1);
  ASSERT_EQ(world.cpu().WriteCr3(kGpa | 0xfe0 | GiB(8)), Event::kNone);
  EXPECT_EQ(world.cpu().registers().pdptes[0], 0x3001u);
}

}  // namespace
}  // namespace tdp::sim
