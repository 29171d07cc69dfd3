// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_image.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace tdp::linux_example {
namespace {

constexpr uint64_t kLoad = 0x200000;

// A bzImage of one setup sector and one byte of code.
std::vector<uint8_t> Kernel(uint16_t load_flags) {
  std::vector<uint8_t> kernel(1024 + 1);
  const auto put = [&](size_t at, auto value) { memcpy(&kernel[at], &value, sizeof(value)); };
  kernel[0x1f1] = 1;     // setup sectors
  kernel[0x201] = 0x6a;  // the header's length
  put(0x202, uint32_t{0x53726448});
  put(0x236, load_flags);
  put(0x258, kLoad);
  put(0x260, uint32_t{0x100000});  // memory that the kernel needs
  kernel[1024] = 0x90;
  return kernel;
}

TEST(LinuxImage, AKernelWithA64BitEntryBeginsThereInLongMode) {
  const std::vector<uint8_t> kernel = Kernel(1);
  EXPECT_TRUE(Is64Bit(kernel));
  std::vector<uint8_t> ram(MiB(4));
  const auto start = LoadLinux({kernel, {}, "quiet"}, absl::MakeSpan(ram));
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->state.rip, kLoad + 0x200);
  EXPECT_NE(start->state.cr0 >> 31, 0u);
  EXPECT_NE(start->state.efer & 1 << 10, 0u);
  EXPECT_EQ(ram[kLoad], 0x90);
}

TEST(LinuxImage, AKernelWithoutOneBeginsAtItsFirstByteWithoutPaging) {
  const std::vector<uint8_t> kernel = Kernel(4);
  EXPECT_FALSE(Is64Bit(kernel));
  std::vector<uint8_t> ram(MiB(4));
  const auto start = LoadLinux({kernel, {}, "quiet"}, absl::MakeSpan(ram));
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->state.rip, kLoad);
  EXPECT_EQ(start->state.cr0 >> 31, 0u);
  EXPECT_EQ(start->state.efer, 0u);
  EXPECT_EQ(start->state.segments[vtx::kCs].selector, 0x10);
  EXPECT_EQ(start->state.segments[vtx::kDs].selector, 0x18);
}

TEST(LinuxImage, WhatIsNoBzImageOrDoesNotFitIsRefused) {
  std::vector<uint8_t> kernel = Kernel(1);
  std::vector<uint8_t> ram(MiB(2));
  EXPECT_TRUE(absl::IsResourceExhausted(LoadLinux({kernel, {}, ""}, absl::MakeSpan(ram)).status()));
  kernel[0x202] = 0;
  EXPECT_FALSE(Is64Bit(kernel));
  EXPECT_TRUE(absl::IsInvalidArgument(LoadLinux({kernel, {}, ""}, absl::MakeSpan(ram)).status()));
}

}  // namespace
}  // namespace tdp::linux_example
