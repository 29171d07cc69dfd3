// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/exit_bitmaps.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kPorts = 0x10000;
constexpr uint32_t kMsrsInRange = 0x2000;
constexpr uint32_t kHighMsrs = 0xc0000000;
// The quarters of an MSR bitmap: reads of low MSRs, of high MSRs, then writes of both.
constexpr uint32_t kQuarterBytes = 1024;
constexpr uint32_t kHighQuarter = 1;
constexpr uint32_t kWriteQuarters = 2;

void SetBit(uint8_t* bytes, uint32_t bit, bool value) {
  const auto mask = static_cast<uint8_t>(1 << (bit % 8));
  if (value) {
    bytes[bit / 8] |= mask;
  } else {
    bytes[bit / 8] &= static_cast<uint8_t>(~mask);
  }
}

}  // namespace

absl::Status SetIoExits(uint8_t* bitmaps, uint32_t first, uint32_t count, bool exits) {
  if (count == 0 || first >= kPorts || count > kPorts - first) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ports 0x%x + 0x%x: at least one, and none beyond 0xffff", first, count));
  }
  for (uint32_t port = first; port < first + count; ++port) SetBit(bitmaps, port, exits);
  return absl::OkStatus();
}

absl::Status SetMsrExits(uint8_t* bitmap, uint32_t msr, bool read_exits, bool write_exits) {
  const bool is_high = msr >= kHighMsrs;
  const uint32_t index = is_high ? msr - kHighMsrs : msr;
  if (index >= kMsrsInRange) {
    return absl::InvalidArgumentError(
        absl::StrFormat("MSR 0x%x has no bit in an MSR bitmap: every access exits", msr));
  }
  uint8_t* const reads = bitmap + (is_high ? kHighQuarter * kQuarterBytes : 0);
  SetBit(reads, index, read_exits);
  SetBit(reads + kWriteQuarters * kQuarterBytes, index, write_exits);
  return absl::OkStatus();
}

}  // namespace tdp::vtx
