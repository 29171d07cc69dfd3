// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_image.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace tdp::linux_example {
namespace {

constexpr uint64_t kLoad = 0x200000;

// Returns a bzImage of one setup sector and one byte of code.
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
  const auto start = LoadLinux({kernel, {}, "quiet"}, 1, absl::MakeSpan(ram));
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
  const auto start = LoadLinux({kernel, {}, "quiet"}, 1, absl::MakeSpan(ram));
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->state.rip, kLoad);
  EXPECT_EQ(start->state.cr0 >> 31, 0u);
  EXPECT_EQ(start->state.efer, 0u);
  EXPECT_EQ(start->state.segments[vtx::kCs].selector, 0x10);
  EXPECT_EQ(start->state.segments[vtx::kDs].selector, 0x18);
}

template <typename T>
T At(const std::vector<uint8_t>& ram, uint64_t at) {
  T value;
  memcpy(&value, &ram[at], sizeof(value));
  return value;
}

int SumOf(const std::vector<uint8_t>& ram, uint64_t at, size_t size) {
  return std::accumulate(ram.begin() + at, ram.begin() + at + size, 0) & 0xff;
}

TEST(LinuxImage, TheFirmwaresTablesLeadFromTheBootParametersToEachCpu) {
  constexpr uint64_t kBootParameters = 0x10000, kHeader = 36;
  std::vector<uint8_t> ram(MiB(4));
  ASSERT_TRUE(LoadLinux({Kernel(1), {}, ""}, 3, absl::MakeSpan(ram)).ok());
  const auto root = At<uint64_t>(ram, kBootParameters + 0x70);
  EXPECT_EQ(memcmp(&ram[root], "RSD PTR ", 8), 0);
  EXPECT_EQ(SumOf(ram, root, 20), 0);
  EXPECT_EQ(SumOf(ram, root, 36), 0);
  const auto tables = At<uint64_t>(ram, root + 24);
  EXPECT_EQ(memcmp(&ram[tables], "XSDT", 4), 0);
  EXPECT_EQ(SumOf(ram, tables, At<uint32_t>(ram, tables + 4)), 0);
  const auto apics = At<uint64_t>(ram, tables + kHeader);
  EXPECT_EQ(memcmp(&ram[apics], "APIC", 4), 0);
  EXPECT_EQ(SumOf(ram, apics, At<uint32_t>(ram, apics + 4)), 0);
  EXPECT_EQ(At<uint32_t>(ram, apics + 4), kHeader + 8 + 3 * 8);
  for (uint8_t cpu = 0; cpu < 3; ++cpu) {
    const uint64_t entry = apics + kHeader + 8 + 8 * cpu;
    EXPECT_EQ(ram[entry + 3], cpu);
    EXPECT_EQ(At<uint32_t>(ram, entry + 4), 1u) << "enabled";
  }
}

TEST(LinuxImage, OneCpuNeedsNoFirmwareTables) {
  std::vector<uint8_t> ram(MiB(4));
  ASSERT_TRUE(LoadLinux({Kernel(1), {}, ""}, 1, absl::MakeSpan(ram)).ok());
  EXPECT_EQ(At<uint64_t>(ram, 0x10070), 0u);
}

TEST(LinuxImage, WhatIsNoBzImageOrDoesNotFitIsRefused) {
  std::vector<uint8_t> kernel = Kernel(1);
  std::vector<uint8_t> ram(MiB(2));
  EXPECT_TRUE(
      absl::IsResourceExhausted(LoadLinux({kernel, {}, ""}, 1, absl::MakeSpan(ram)).status()));
  kernel[0x202] = 0;
  EXPECT_FALSE(Is64Bit(kernel));
  EXPECT_TRUE(
      absl::IsInvalidArgument(LoadLinux({kernel, {}, ""}, 1, absl::MakeSpan(ram)).status()));
}

}  // namespace
}  // namespace tdp::linux_example
