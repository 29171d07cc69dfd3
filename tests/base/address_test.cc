// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/base/address.h"

#include <concepts>
#include <type_traits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tdp/base/access.h"
#include "tdp/base/level.h"

namespace tdp {
namespace {

template <typename A, typename B>
concept Comparable = requires(A a, B b) {
  a < b;
};
template <typename A, typename B>
concept Addable = requires(A a, B b) {
  a + b;
};
template <typename A, typename B>
concept Subtractable = requires(A a, B b) {
  a - b;
};

TEST(Address, SpacesDoNotMix) {
  static_assert(!std::is_convertible_v<Gpa, Hpa> && !std::is_constructible_v<Hpa, Gpa>);
  static_assert(!std::is_convertible_v<uint64_t, Gpa>, "explicit in");
  static_assert(!std::is_convertible_v<Gpa, uint64_t>, "raw() out");
  static_assert(!Comparable<Gpa, Hpa> && !Comparable<Gfn, Hfn> && !Comparable<Gpa, Gfn>);
  static_assert(!Subtractable<Gpa, Hpa> && !Subtractable<Hva, Gva>);
}

TEST(Address, PointsAndDistancesAreDifferentThings) {
  static_assert(!Addable<Gfn, Gfn> && !Addable<Gpa, Gpa>);
  static_assert(!Addable<Gfn, uint64_t>, "a frame moves by pages, not by a bare number");
  static_assert(!Addable<Gfn, Level>);
  static_assert(std::same_as<decltype(Gfn(5) - Gfn(2)), PageCount>);
  static_assert(std::same_as<decltype(Gpa(5) - Gpa(2)), ByteCount>);
  static_assert(Gfn(5) - Gfn(2) == PageCount(3) && Gfn(5) - PageCount(2) == Gfn(3));
}

TEST(Address, AFrameAndItsAddressAgree) {
  static_assert(Gfn::Of(Gpa(0x12345)) == Gfn(0x12));
  static_assert(Gfn(0x12).address() == Gpa(0x12000));
  static_assert(PageCount::FromBytes(MiB(2) + 1) == PageCount(512));
  static_assert(PageCount(512).bytes() == MiB(2));
}

TEST(Address, AlignmentIsAskedInBytesForAddressesAndInPagesForFrames) {
  static_assert(Gpa(MiB(4)).is_aligned(MiB(2)) && !Gpa(MiB(3)).is_aligned(MiB(2)));
  static_assert(Gpa(MiB(3)).AlignDown(MiB(2)) == Gpa(MiB(2)));
  static_assert(Gfn(1024).is_aligned(PageCount(512)) && !Gfn(1025).is_aligned(PageCount(512)));
  static_assert(Gfn(1025).AlignDown(PageCount(512)) == Gfn(1024));
  static_assert(Gpa(0x1234).page_offset() == 0x234 && !Gpa(0x1234).is_page_aligned());
}

TEST(Address, IsOrderedHashableAndPrintable) {
  EXPECT_LT(Gfn(1), Gfn(2));
  const absl::flat_hash_set<Gpa> set = {Gpa(1), Gpa(1), Gpa(2)};
  EXPECT_EQ(set.size(), 2u);
  EXPECT_EQ(ToString(Hpa(0xabc)), "0xabc");
  EXPECT_EQ(testing::PrintToString(Gfn(0x10)), "0x10");
}

TEST(Level, MapsWhatTheSdmSays) {
  static_assert(kLevel4K.shift() == 12 && kLevel2M.shift() == 21 && kLevel1G.shift() == 30);
  static_assert(kLevel512G.shift() == 39 && kLevel256T.shift() == 48);
  static_assert(kLevel2M.IndexOf(Gfn(512 * 3 + 7)) == 3 && kLevel4K.IndexOf(Gfn(512 * 3 + 7)) == 7);
}

TEST(Access, IsASetOfRights) {
  static_assert(Access::All().Covers(Access::ReadWrite()));
  static_assert(!Access::ReadExecute().Covers(Access::Write()));
  static_assert(Access::All().Without(Access::Write()) == Access::ReadExecute());
  static_assert(Access::FromRaw(0xff) == Access::All());
  EXPECT_EQ(ToString(Access::ReadWrite()), "rw--");
}

}  // namespace
}  // namespace tdp
