// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/eptp.h"

#include <cstdint>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr EptCapabilities kAll = EptCapabilities::All();

TEST(Eptp, DecodesWhatItWasMadeOf) {
  constexpr Eptp kEptp = Eptp::Make(Hpa(0x123000), 5, true);
  static_assert(kEptp.root() == Hpa(0x123000) && kEptp.levels() == 5 && kEptp.accessed_dirty());
  static_assert(kEptp.root_level() == kLevel256T && kEptp.memory_type_encoding() == 6);
  static_assert(Eptp::Make(Hpa(0x123000), 4, false).raw() == 0x12301e);
  EXPECT_TRUE(kEptp.Check(kAll, 46).ok());
}

TEST(Eptp, CheckNamesFieldAndValue) {
  const auto message = [](uint64_t raw, EptCapabilities caps) {
    const absl::Status status = Eptp(raw).Check(caps, 46);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << raw;
    return std::string(status.message());
  };
  EXPECT_THAT(message(0x1019, kAll), HasSubstr("memory type 0x1"));
  EXPECT_THAT(message(0x1016, kAll), HasSubstr("walk length 0x3"));
  EXPECT_THAT(message(0x1026, kAll.Without(ept::kCapWalk5)), HasSubstr("walk length 0x5"));
  EXPECT_THAT(message(0x105e, kAll.Without(ept::kCapAccessedDirty)), HasSubstr("accessed/dirty"));
  EXPECT_THAT(message(0x109e, kAll.Without(ept::kCapSupervisorShadowStack)),
              HasSubstr("shadow-stack"));
  EXPECT_THAT(message(0x111e, kAll), HasSubstr("bits 11:8 0x100"));
  EXPECT_THAT(message(uint64_t{1} << 46 | 0x1e, kAll), HasSubstr("address"));
}

TEST(EptCapabilities, InvvpidTypesAreAskedByNumber) {
  const EptCapabilities one(ept::kCapInvvpid | ept::kCapInvvpidSingle);
  EXPECT_TRUE(one.invvpid(1));
  EXPECT_FALSE(one.invvpid(0) || one.invvpid(2) || one.invvpid(3) || one.invvpid(4));
  EXPECT_FALSE(EptCapabilities(ept::kCapInvvpidSingle).invvpid(1)) << "INVVPID itself is missing";
}

TEST(EptCapabilities, DecodesTheWordOfARealPart) {
  const EptCapabilities tiger_lake(0x00000f0106b34141);
  EXPECT_TRUE(tiger_lake.execute_only() && tiger_lake.walk_4() && tiger_lake.accessed_dirty());
  EXPECT_TRUE(tiger_lake.pages_2m() && tiger_lake.pages_1g() && tiger_lake.invept_all());
  EXPECT_FALSE(tiger_lake.walk_5());
}

}  // namespace
}  // namespace tdp
