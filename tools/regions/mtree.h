// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What QEMU's monitor prints for `info mtree`, as a file of regions.

#ifndef TDP_TOOLS_REGIONS_MTREE_H_
#define TDP_TOOLS_REGIONS_MTREE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tdp::tools {

// Whether `text` is such a print, perhaps with the monitor's prompt and greeting before it.
bool LooksLikeMtree(std::string_view text);

// The same machine as JSON that `ParseRegionFile` takes: the address space "memory", and
// "cpu-smm-0" as a second one if it is there. A name that comes again gets " #2" and so on.
// InvalidArgument, beginning with the number of the line, for what is no region, an alias of what
// is not there, and a print without "memory".
absl::StatusOr<std::string> MtreeToJson(std::string_view text);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_MTREE_H_
