// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/exit_qualification.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {
namespace {

TEST(ExitQualification, DecodesAccessAndRights) {
  // This is a write to a page that may be read and executed, through a valid linear address.
  constexpr ExitQualification kWrite(0x1aa);
  static_assert(kWrite.is_write() && !kWrite.is_read() && kWrite.access() == Access::Write());
  static_assert(kWrite.allowed() == (Access::Read() | Access::Execute()));
  static_assert(kWrite.reached_leaf() && kWrite.linear_address_valid() && kWrite.final_address());
  EXPECT_TRUE(kWrite.Check().ok());
}

TEST(ExitQualification, MakeIsTheInverseOfTheGetters) {
  for (uint8_t access = 1; access < 8; ++access) {
    for (uint8_t allowed = 0; allowed < 16; ++allowed) {
      const auto q =
          ExitQualification::Make(Access::FromRaw(access), Access::FromRaw(allowed), true, false);
      EXPECT_EQ(q.access(), Access::FromRaw(access));
      EXPECT_EQ(q.allowed(), Access::FromRaw(allowed));
      EXPECT_TRUE(q.linear_address_valid());
      EXPECT_FALSE(q.final_address());
    }
  }
}

TEST(ExitQualification, AFetchIsOfTheModeThatTheCpuTellsOrElseOfTheRightThatIsMissing) {
  constexpr Access kBoth = Access::Execute() | Access::UserExecute();
  const auto fetch = [](Access allowed, bool final_address) {
    return ExitQualification::Make(Access::Execute(), Access::Read() | allowed, true,
                                   final_address);
  };
  for (const Access there : {Access::None(), Access::Execute(), Access::UserExecute(), kBoth}) {
    const ExitQualification exit = fetch(there, true);
    EXPECT_EQ(exit.WithGuestRights(true, false, true).access_by_mode(true), Access::UserExecute());
    EXPECT_EQ(exit.WithGuestRights(false, false, true).access_by_mode(true), Access::Execute());
    // Bit 9 is undefined from a CPU that does not tell, and from every CPU on the way to a guest's
    // table.
    for (const ExitQualification untold :
         {exit, exit.WithGuestRights(true, false, true),
          fetch(there, false).WithGuestRights(true, false, true)}) {
      const bool tells = !untold.final_address();
      const Access missing = there == kBoth ? kBoth : kBoth.Without(there);
      EXPECT_EQ(untold.access_by_mode(tells), missing) << ToString(there);
    }
  }
  const auto write = ExitQualification::Make(Access::Write(), Access::Execute(), true, true);
  EXPECT_EQ(write.WithGuestRights(true, false, true).access_by_mode(true), Access::Write());
}

TEST(ExitQualification, CheckRefusesWhatHardwareCannotReport) {
  EXPECT_TRUE(absl::IsInvalidArgument(ExitQualification(0).Check()));
  EXPECT_TRUE(absl::IsInvalidArgument(ExitQualification(0x5).Check())) << "read and fetch";
  EXPECT_TRUE(absl::IsInvalidArgument(ExitQualification(0x101).Check())) << "bit 8 without 7";
  EXPECT_TRUE(ExitQualification(0x83).Check().ok()) << "guest-table access with EPT A/D";
}

TEST(ExitQualification, BitsThatNoCpuDefinesYetAreIgnored) {
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t raw = uint64_t{1} << bit;
    if ((raw & ept::kQualDefined) != 0) continue;
    const ExitQualification future(0x1aa | raw);
    EXPECT_TRUE(future.is_possible()) << bit;
    EXPECT_TRUE(future.Check().ok()) << bit;
    EXPECT_EQ(future.access(), ExitQualification(0x1aa).access()) << bit;
    EXPECT_EQ(future.allowed(), ExitQualification(0x1aa).allowed()) << bit;
  }
}

TEST(ExitQualification, TheQuickTestAndTheWordedCheckAgree) {
  for (uint64_t raw = 0; raw < uint64_t{1} << 18; ++raw) {
    ASSERT_EQ(ExitQualification(raw).is_possible(), ExitQualification(raw).Check().ok()) << raw;
  }
}

TEST(ExitQualification, PrintsInWords) {
  EXPECT_EQ(ExitQualification(0x1aa).DebugString(), "write to r-x-, final address");
}

}  // namespace
}  // namespace tdp
