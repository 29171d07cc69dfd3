// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/guest_paging.h"

#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr uint64_t kPg = guest::kCr0Paging;
constexpr uint64_t kWp = guest::kCr0WriteProtect;
constexpr uint64_t kPae = guest::kCr4PhysicalAddressExtension;
constexpr uint64_t kLma = guest::kEferLongModeActive;
constexpr uint64_t kNx = guest::kEferNoExecute;

constexpr GuestRights kUserPage(GuestRights::kAll);
constexpr GuestRights kUserReadOnly(GuestRights::kUser | GuestRights::kExecute);
constexpr GuestRights kKernelPage(GuestRights::kWrite | GuestRights::kExecute);
constexpr GuestRights kKernelReadOnly(GuestRights::kExecute);
constexpr GuestRights kUserData(GuestRights::kUser | GuestRights::kWrite);

GuestPaging FourLevel(uint64_t cr0 = kPg | kWp, uint64_t cr4 = 0, uint64_t efer = kNx) {
  return GuestPaging({.cr0 = cr0, .cr4 = cr4 | kPae, .efer = efer | kLma});
}

TEST(GuestPaging, ModeFollowsFromTheRegisters) {
  EXPECT_EQ(GuestPaging().mode(), PagingMode::kNone);
  EXPECT_EQ(GuestPaging({.cr4 = kPae, .efer = kLma}).mode(), PagingMode::kNone);
  EXPECT_EQ(GuestPaging({.cr0 = kPg}).mode(), PagingMode::k32Bit);
  EXPECT_EQ(GuestPaging({.cr0 = kPg, .cr4 = kPae}).mode(), PagingMode::kPae);
  EXPECT_EQ(FourLevel().mode(), PagingMode::k4Level);
  EXPECT_EQ(FourLevel(kPg, guest::kCr4FiveLevels).mode(), PagingMode::k5Level);
}

TEST(GuestPaging, UsersReachUserPagesOnly) {
  const GuestPaging paging = FourLevel();
  EXPECT_TRUE(paging.Allows(GuestAccess::Read().ByUser(), kUserPage));
  EXPECT_FALSE(paging.Allows(GuestAccess::Read().ByUser(), kKernelPage));
  EXPECT_FALSE(paging.Allows(GuestAccess::Write().ByUser(), kUserReadOnly));
}

TEST(GuestPaging, WriteProtectBindsTheSupervisor) {
  EXPECT_FALSE(FourLevel(kPg | kWp).Allows(GuestAccess::Write(), kKernelReadOnly));
  EXPECT_TRUE(FourLevel(kPg).Allows(GuestAccess::Write(), kKernelReadOnly));
  EXPECT_FALSE(FourLevel(kPg).Allows(GuestAccess::Write().ByUser(), kUserReadOnly));
}

TEST(GuestPaging, SmepForbidsFetchesFromUserPages) {
  EXPECT_TRUE(FourLevel().Allows(GuestAccess::Fetch(), kUserPage));
  EXPECT_FALSE(FourLevel(kPg, guest::kCr4Smep).Allows(GuestAccess::Fetch(), kUserPage));
  EXPECT_TRUE(FourLevel(kPg, guest::kCr4Smep).Allows(GuestAccess::Fetch().ByUser(), kUserPage));
  EXPECT_FALSE(FourLevel().Allows(GuestAccess::Fetch().ByUser(), kUserData));
}

TEST(GuestPaging, SmapForbidsDataUnlessExcused) {
  const GuestPaging paging = FourLevel(kPg, guest::kCr4Smap);
  EXPECT_FALSE(paging.Allows(GuestAccess::Read(), kUserPage));
  EXPECT_FALSE(paging.Allows(GuestAccess::Write(), kUserPage));
  EXPECT_TRUE(paging.Allows(GuestAccess::Write().ExcusedFromSmap(), kUserPage));
  EXPECT_TRUE(paging.Allows(GuestAccess::Read(), kKernelPage));
  EXPECT_TRUE(paging.Allows(GuestAccess::Fetch(), kUserPage)) << "that is SMEP's";
}

TEST(GuestPaging, KeysForbidByPageAndMode) {
  const GuestPaging paging = FourLevel(kPg | kWp, guest::kCr4UserKeys | guest::kCr4SupervisorKeys);
  const uint64_t leaf = uint64_t{5} << guest::kProtectionKeyShift;
  GuestRoots roots;
  roots.pkru = 1u << 10;  // key 5: access disable
  EXPECT_TRUE(paging.KeyForbids(GuestAccess::Read().ByUser(), kUserPage, leaf, roots));
  EXPECT_TRUE(paging.KeyForbids(GuestAccess::Read(), kUserPage, leaf, roots));
  EXPECT_FALSE(paging.KeyForbids(GuestAccess::Fetch().ByUser(), kUserPage, leaf, roots));
  EXPECT_FALSE(paging.KeyForbids(GuestAccess::Read(), kKernelPage, leaf, roots));
  roots.pkrs = 2u << 10;  // write disable
  EXPECT_TRUE(paging.KeyForbids(GuestAccess::Write(), kKernelPage, leaf, roots));
  EXPECT_FALSE(paging.KeyForbids(GuestAccess::Read(), kKernelPage, leaf, roots));
  EXPECT_FALSE(FourLevel(kPg | kWp).KeyForbids(GuestAccess::Read(), kUserPage, leaf, roots));
}

TEST(GuestPaging, ErrorCodesNameFetchesOnlyWhereTheyAreTold) {
  EXPECT_EQ(FourLevel(kPg, 0, kNx).ErrorCodeOf(GuestAccess::Fetch().ByUser()),
            guest::kFaultFetch | guest::kFaultUser);
  EXPECT_EQ(FourLevel(kPg, 0, 0).ErrorCodeOf(GuestAccess::Fetch()), 0u);
  EXPECT_EQ(FourLevel(kPg, guest::kCr4Smep, 0).ErrorCodeOf(GuestAccess::Fetch()),
            guest::kFaultFetch);
}

TEST(GuestPaging, OneGiBPagesNeedTheFeature) {
  GuestControls controls = FourLevel().controls();
  EXPECT_TRUE(GuestPaging(controls).IsLeaf(guest::kLargePage, 3));
  controls.pages_1g = false;
  EXPECT_FALSE(GuestPaging(controls).IsLeaf(guest::kLargePage, 3));
  EXPECT_TRUE(GuestPaging(controls).HasReservedBit(guest::kLargePage, 3));
}

TEST(GuestPaging, Pse36BitsBeyondTheWidthAreReserved) {
  GuestControls controls{.cr0 = kPg, .cr4 = guest::kCr4PageSizeExtensions};
  const uint64_t large = guest::kPresent | guest::kLargePage;
  controls.physical_address_bits = 36;
  EXPECT_FALSE(GuestPaging(controls).HasReservedBit(large | 1 << 16, 2));
  EXPECT_TRUE(GuestPaging(controls).HasReservedBit(large | 1 << 17, 2));
  controls.physical_address_bits = 40;
  EXPECT_FALSE(GuestPaging(controls).HasReservedBit(large | 1 << 20, 2));
  EXPECT_TRUE(GuestPaging(controls).HasReservedBit(large | 1 << 21, 2));
}

}  // namespace
}  // namespace tdp
