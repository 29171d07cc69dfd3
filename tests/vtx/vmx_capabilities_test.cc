// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vmx_capabilities.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t Range(uint32_t must_be_one, uint32_t may_be_one) {
  return must_be_one | uint64_t{may_be_one} << 32;
}

TEST(ChooseControls, TakesWhatMustBeAndWhatIsAskedFor) {
  VmxMsrs msrs;
  msrs.pin = Range(0x16, 0xff);
  EXPECT_EQ(*ChooseControls(msrs, ControlWord::kPin, pin::kNmiExiting), 0x1eu);
}

TEST(ChooseControls, LeavesOutAnOptionalControlThatIsNotThere) {
  VmxMsrs msrs;
  msrs.secondary = Range(0, secondary::kEpt | secondary::kVpid);
  EXPECT_EQ(*ChooseControls(msrs, ControlWord::kSecondary, secondary::kEpt,
                            secondary::kVpid | secondary::kPml),
            secondary::kEpt | secondary::kVpid);
}

TEST(ChooseControls, RefusesAMissingControlByName) {
  VmxMsrs msrs;
  msrs.secondary = Range(0, secondary::kEpt);
  const auto chosen = ChooseControls(msrs, ControlWord::kSecondary, secondary::kUnrestrictedGuest);
  EXPECT_EQ(chosen.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(chosen.status().message(),
            "this CPU has no secondary processor-based control \"unrestricted guest\"");
}

TEST(ChooseControls, NamesTheLowestOfSeveralThatAreMissing) {
  const auto chosen = ChooseControls(VmxMsrs(), ControlWord::kSecondary,
                                     secondary::kEpt | secondary::kUnrestrictedGuest);
  EXPECT_THAT(chosen.status().message(), HasSubstr("\"enable EPT\""));
}

TEST(VmxMsrs, EachWordHasARangeOfItsOwn) {
  const VmxMsrs msrs = {.pin = 1, .primary = 2, .secondary = 3, .exit = 4, .entry = 5};
  EXPECT_EQ(msrs.RangeOf(ControlWord::kPin), 1u);
  EXPECT_EQ(msrs.RangeOf(ControlWord::kPrimary), 2u);
  EXPECT_EQ(msrs.RangeOf(ControlWord::kSecondary), 3u);
  EXPECT_EQ(msrs.RangeOf(ControlWord::kExit), 4u);
  EXPECT_EQ(msrs.RangeOf(ControlWord::kEntry), 5u);
}

TEST(ChooseControls, RefusesAnUnnamedBitByNumber) {
  const auto chosen = ChooseControls(VmxMsrs(), ControlWord::kExit, 1u << 30);
  EXPECT_THAT(chosen.status().message(), HasSubstr("VM-exit control bit 30"));
}

TEST(ChooseControls, RefusesAControlThatCannotBeTurnedOff) {
  VmxMsrs msrs;
  msrs.primary = Range(primary::kCr3LoadExiting, ~0u);
  const auto chosen = ChooseControls(msrs, ControlWord::kPrimary, 0, 0, primary::kCr3LoadExiting);
  EXPECT_EQ(chosen.status().message(),
            "this CPU cannot do without primary processor-based control \"CR3-load exiting\"");
}

TEST(DecodeCapabilities, WithoutEptIsRefused) {
  EXPECT_EQ(DecodeCapabilities(VmxMsrs(), 0).status().message(), "this CPU has no EPT");
}

// Returns the words of Bochs' tigerlake.
VmxMsrs TigerLake() {
  VmxMsrs msrs;
  msrs.secondary = Range(0, 0x02977fff);
  msrs.ept_vpid = 0x00000f0106b34141;
  msrs.vm_functions = 1;
  msrs.physical_address_bits = 40;
  return msrs;
}

TEST(DecodeCapabilities, ReadsEveryPowerOfTheEngine) {
  const Capabilities c = *DecodeCapabilities(TigerLake(), 0x1000);
  EXPECT_TRUE(c.pml && c.spp && c.ve && c.eptp_switching && c.shadow_paging);
  EXPECT_FALSE(c.mbec);
  EXPECT_TRUE(c.ept.execute_only() && c.ept.accessed_dirty() && c.ept.pages_1g());
  EXPECT_FALSE(c.ept.walk_5());
  EXPECT_EQ(c.physical_address_bits, 40);
  EXPECT_EQ(c.direct_map_offset, 0x1000u);
}

TEST(DecodeCapabilities, SubPageRightsAreTheirOwnControl) {
  VmxMsrs msrs = TigerLake();
  msrs.secondary = Range(0, 0x02977fff & ~secondary::kSpp);
  const Capabilities c = *DecodeCapabilities(msrs, 0);
  EXPECT_TRUE(c.pml);
  EXPECT_FALSE(c.spp);
}

TEST(DecodeCapabilities, VmFunctionsWithoutEptpSwitchingAreNoEptpSwitching) {
  VmxMsrs msrs = TigerLake();
  for (const uint64_t others : {0, 2}) {
    msrs.vm_functions = others;
    EXPECT_FALSE(DecodeCapabilities(msrs, 0)->eptp_switching) << others;
  }
}

TEST(VmxMsrs, AControlIsOfferedIfItMayBeOne) {
  const VmxMsrs msrs = TigerLake();
  EXPECT_TRUE(msrs.Offers(ControlWord::kSecondary, secondary::kPml | secondary::kSpp));
  EXPECT_FALSE(msrs.Offers(ControlWord::kSecondary, secondary::kPml | secondary::kMbec));
}

}  // namespace
}  // namespace tdp::vtx
