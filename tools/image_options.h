// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Options of the commands that read page tables in an image of memory.

#ifndef TDP_TOOLS_IMAGE_OPTIONS_H_
#define TDP_TOOLS_IMAGE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "tdp/tools/image/memory_image.h"
#include "tdp/tools/image/table_walk.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

struct ImageOptions {
  std::optional<uint64_t> base;
  std::optional<uint64_t> eptp;
  std::optional<uint64_t> cr3;
  std::optional<sim::PagingMode> guest_paging;  // else as the dump says, or 4-level
  uint64_t cpu = 0;
  uint64_t maxphyaddr = 52;
  bool mbec = false;
};

// Declares --eptp, --cr3, --guest-paging, --cpu, --base, --mbec and --maxphyaddr.
void AddImageOptions(OptionParser& parser, ImageOptions* options);

// The tables that the options name. Without --eptp and --cr3 the CR3 that the image notes of CPU
// --cpu. InvalidArgument, naming the option, if none is known or the EPTP is not one.
absl::StatusOr<TableRoots> RootsOf(const ImageOptions& options, const MemoryImage& image);

// "EPTP 0x...", "CR3 0x... (4-level)", or both.
std::string RootsText(const TableRoots& roots);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_OPTIONS_H_
