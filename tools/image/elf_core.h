// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// ELF cores of machines, 32-bit and 64-bit: their loadable segments and QEMU's notes of the CPUs.

#ifndef TDP_TOOLS_IMAGE_ELF_CORE_H_
#define TDP_TOOLS_IMAGE_ELF_CORE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/tools/image/memory_image.h"

namespace tdp::tools {

struct ElfCore {
  std::vector<MemoryImage::Segment> segments;  // in the order of the file
  std::vector<MemoryImage::CpuRegisters> cpus;
};

// Returns whether a file that begins so is ELF.
bool IsElf(absl::Span<const char> bytes);

// DataLoss or InvalidArgument, naming the place in the file by its offset, for a file that is cut
// short, or no core of a machine.
absl::StatusOr<ElfCore> ReadElfCore(absl::Span<const char> bytes);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_ELF_CORE_H_
