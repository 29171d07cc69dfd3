// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The search for EPT roots in the memory of a machine: pages that are the top of legal tables.

#ifndef TDP_TOOLS_IMAGE_ROOT_SEARCH_H_
#define TDP_TOOLS_IMAGE_ROOT_SEARCH_H_

#include <cstdint>
#include <vector>

#include "tdp/mmu/format/eptp.h"
#include "tdp/tools/image/memory_image.h"

namespace tdp::tools {

struct EptRoot {
  Eptp eptp;
  uint64_t leaves = 0;
  uint64_t bytes = 0;  // that they map
};

// Roots of 4 and 5 levels, by address. A root is a page below which every present entry is legal
// and every table lies in the image, with a leaf at least that maps memory as WB or UC; entries
// that mark MMIO (W and X without R) may be among them. Tables below a root are no roots of their
// own. Accessed and dirty flags are taken to be on if an entry has one set.
std::vector<EptRoot> FindEptRoots(const MemoryImage& image, int physical_address_bits);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_ROOT_SEARCH_H_
