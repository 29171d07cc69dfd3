// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Counts what an EPT consists of, by walking all of it.

#ifndef TDP_TOOLS_REPLAY_EPT_CENSUS_H_
#define TDP_TOOLS_REPLAY_EPT_CENSUS_H_

#include <array>
#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::tools {

struct EptCensus {
  std::array<uint64_t, 3> leaves{};  // of 4 KiB, 2 MiB, 1 GiB
  PageCount tables;                  // the root included

  uint64_t leaves_at(Level level) const { return leaves[level.raw() - 1]; }
};

// Counts the tables of `eptp`, which are reachable at `hpa + direct_map_offset`. Nobody changes
// them meanwhile.
EptCensus CountEpt(Eptp eptp, uintptr_t direct_map_offset);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_EPT_CENSUS_H_
