// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/serial_tap.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {
namespace {

// Registers of a 16550 at the PC's first address.
constexpr uint16_t kData = 0x3f8;
constexpr uint16_t kInterruptEnable = 0x3f9;
constexpr uint16_t kLineControl = 0x3fb;
constexpr uint8_t kInterruptWhenEmpty = 2;
constexpr uint8_t kDivisorLatch = 0x80;

}  // namespace

absl::Status SerialTap::Arm() { return vcpu_.SetIoExits(kData, 1, true); }

absl::Status SerialTap::Handle(const VmExit& exit,
                               absl::FunctionRef<void(const std::string&)> on_line) {
  GuestRegisters& r = vcpu_.registers();
  const IoAccess access(exit.qualification);
  if (access.port != kData || access.bytes != 1 || access.is_string) {
    return absl::UnimplementedError(
        absl::StrFormat("port 0x%x, %d bytes: the serial port's data is accessed by one",
                        access.port, access.bytes));
  }
  if (access.is_read) {
    r.rax = (r.rax & ~uint64_t{0xff}) | tdp_in8(kData);
    return vcpu_.SkipInstruction(exit);
  }
  const auto byte = static_cast<uint8_t>(r.rax);
  const bool is_divisor = (tdp_in8(kLineControl) & kDivisorLatch) != 0;
  const bool has_interrupt = (tdp_in8(kInterruptEnable) & kInterruptWhenEmpty) != 0;
  if (is_divisor || has_interrupt) tdp_out8(kData, byte);
  if (!is_divisor) Listen(static_cast<char>(byte), on_line);
  return vcpu_.SkipInstruction(exit);
}

void SerialTap::Listen(char byte, absl::FunctionRef<void(const std::string&)> on_line) {
  if (byte == '\n') {
    on_line(line_);
    line_.clear();
  } else if (byte != '\r') {
    line_ += byte;
  }
}

}  // namespace tdp::vtx
