// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Puts a Linux kernel into guest memory and says how to start it: the 64-bit boot protocol, or the
// 32-bit one for a kernel that has no other (Documentation/arch/x86/boot.rst of Linux).

#ifndef TDP_EXAMPLES_LINUX_LINUX_IMAGE_H_
#define TDP_EXAMPLES_LINUX_LINUX_IMAGE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/base/address.h"

namespace tdp::linux_example {

struct LinuxImage {
  absl::Span<const uint8_t> kernel;  // a bzImage
  absl::Span<const uint8_t> initramfs;
  std::string command_line;
};

struct LinuxStart {
  vtx::GuestState state;
  uint64_t rsi = 0;  // where the kernel looks for its boot parameters
};

// Returns whether the bzImage can be entered in 64-bit mode.
bool Is64Bit(absl::Span<const uint8_t> kernel);

// `ram` is the guest's memory from guest physical 0 on, zeroed. With `cpus` beyond 1 Linux finds
// firmware tables that name them. InvalidArgument for what is no
// bzImage, ResourceExhausted if kernel and initramfs do not fit.
absl::StatusOr<LinuxStart> LoadLinux(const LinuxImage& image, int cpus, absl::Span<uint8_t> ram);

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_LINUX_IMAGE_H_
