// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/base/host_range.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr Hva kLastPage{~kPageOffsetMask};
constexpr Hva kTop{~kPageOffsetMask - 15 * kPageSize};  // sixteen pages below the end

TEST(HostRange, MayEndWithTheAddressSpace) {
  constexpr HostRange top(kTop, 16 * kPageSize);
  EXPECT_FALSE(top.is_empty());
  EXPECT_EQ(top.pages(), PageCount(16));
  EXPECT_TRUE(top.Contains(kLastPage));
  EXPECT_TRUE(top.Contains(Hva(~uint64_t{0})));
  EXPECT_FALSE(top.Contains(kTop - 1));
  EXPECT_FALSE(top.Contains(Hva(0)));
  EXPECT_EQ(top.Intersection(HostRange(kLastPage, kPageSize)), HostRange(kLastPage, kPageSize));
  EXPECT_EQ(top.Hull(HostRange(Hva(0), kPageSize)).pages(), PageCount(uint64_t{1} << 52));
}

TEST(HostRange, OverlapsWhatHasAPageOfItAndNothingElse) {
  constexpr HostRange range(Hva(0x4000), 0x4000);
  EXPECT_TRUE(range.Overlaps(HostRange(Hva(0x7000), 0x1000)));
  EXPECT_TRUE(range.Overlaps(HostRange(Hva(0), MiB(1))));
  EXPECT_FALSE(range.Overlaps(HostRange(Hva(0x8000), 0x1000)));
  EXPECT_FALSE(range.Overlaps(HostRange(Hva(0x3000), 0x1000)));
  EXPECT_FALSE(range.Overlaps(HostRange()));
  EXPECT_TRUE(range.Intersection(HostRange(Hva(0x9000), 0x1000)).is_empty());
  EXPECT_TRUE(HostRange().is_empty());
}

}  // namespace
}  // namespace tdp
