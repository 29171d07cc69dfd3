// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/exit_bitmaps.h"

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

class Bitmap {
 public:
  explicit Bitmap(ByteCount bytes) : bytes_(bytes) {}
  uint8_t* data() { return bytes_.data(); }
  bool Has(size_t byte, int bit) const { return (bytes_[byte] >> bit & 1) != 0; }
  int bits() const {
    return std::accumulate(bytes_.begin(), bytes_.end(), 0,
                           [](int sum, uint8_t byte) { return sum + __builtin_popcount(byte); });
  }

 private:
  std::vector<uint8_t> bytes_;
};

TEST(IoBitmaps, HaveABitForEachPortInTwoPages) {
  Bitmap bitmap(kIoBitmapBytes);
  ASSERT_TRUE(SetIoExits(bitmap.data(), 0x3f8, 1, true).ok());
  EXPECT_TRUE(bitmap.Has(0x7f, 0));
  ASSERT_TRUE(SetIoExits(bitmap.data(), 0x7fff, 2, true).ok());
  EXPECT_TRUE(bitmap.Has(0xfff, 7)) << "the last of A";
  EXPECT_TRUE(bitmap.Has(0x1000, 0)) << "the first of B";
  EXPECT_EQ(bitmap.bits(), 3);
  ASSERT_TRUE(SetIoExits(bitmap.data(), 0, 0x10000, false).ok());
  EXPECT_EQ(bitmap.bits(), 0);
}

TEST(IoBitmaps, RefuseWhatIsNoPort) {
  Bitmap bitmap(kIoBitmapBytes);
  for (const auto& [first, count] :
       {std::pair{0u, 0u}, {0xffffu, 2u}, {0x10000u, 1u}, {1u, 0xffffffffu}}) {
    EXPECT_EQ(SetIoExits(bitmap.data(), first, count, true).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(bitmap.bits(), 0);
}

TEST(MsrBitmap, HasAQuarterEachForReadsAndWritesOfLowAndHighMsrs) {
  Bitmap bitmap(kMsrBitmapBytes);
  ASSERT_TRUE(SetMsrExits(bitmap.data(), 0x1a0, true, false).ok());
  EXPECT_TRUE(bitmap.Has(0x34, 0));
  ASSERT_TRUE(SetMsrExits(bitmap.data(), 0x1fff, false, true).ok());
  EXPECT_TRUE(bitmap.Has(0xbff, 7));
  ASSERT_TRUE(SetMsrExits(bitmap.data(), 0xc0000082, true, true).ok());
  EXPECT_TRUE(bitmap.Has(0x410, 2) && bitmap.Has(0xc10, 2));
  EXPECT_EQ(bitmap.bits(), 4);
  ASSERT_TRUE(SetMsrExits(bitmap.data(), 0xc0000082, false, true).ok());
  EXPECT_EQ(bitmap.bits(), 3);
}

TEST(MsrBitmap, RefusesAnMsrThatHasNoBit) {
  Bitmap bitmap(kMsrBitmapBytes);
  for (const uint32_t msr : {0x2000u, 0xbfffffffu, 0xc0002000u, 0xffffffffu}) {
    EXPECT_EQ(SetMsrExits(bitmap.data(), msr, true, true).message(),
              absl::StrFormat("MSR 0x%x has no bit in an MSR bitmap: every access exits", msr));
  }
  EXPECT_EQ(bitmap.bits(), 0);
}

}  // namespace
}  // namespace tdp::vtx
