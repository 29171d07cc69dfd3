// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The parts of a real core's memory-management unit: what there is, how large, and what it costs.

#ifndef TDP_BACKENDS_SIM_MMU_CONFIG_H_
#define TDP_BACKENDS_SIM_MMU_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tdp/backends/sim/tag_array.h"

namespace tdp::sim {

// Who uses a part, as bits.
inline constexpr unsigned kUseFetch = 1;
inline constexpr unsigned kUseLoad = 2;
inline constexpr unsigned kUseStore = 4;
inline constexpr unsigned kUseWalk = 8;  // a page walk's load of a table entry

// Page sizes as bits: that of the pages which an entry of level 1, 2 or 3 maps.
constexpr unsigned PageBit(int level) { return 1u << level; }

struct MmuShape {
  size_t sets = 1;
  size_t ways = 1;
  Replacement replacement = Replacement::kLru;
  int cycles = 0;  // that a look-up adds
};

// One array of a TLB level. Several may serve the same use, and one several page sizes.
struct MmuTlb {
  std::string name;
  int level = 1;       // 1 or 2
  unsigned uses = 0;   // `kUse…`, not kUseWalk
  unsigned pages = 0;  // `PageBit`s
  MmuShape shape;
};

// Keeps upper entries of one level and dimension: where the table below is.
struct MmuWalkCache {
  std::string name;
  bool ept = false;  // of the second dimension
  int level = 2;     // of the entries, 2 to 5
  MmuShape shape;
};

// Keeps where guest-physical pages are.
struct MmuNestedTlb {
  std::string name;
  unsigned pages = 0;  // `PageBit`s
  MmuShape shape;
};

struct MmuDataCache {
  std::string name;
  int level = 1;      // 1 to 3
  unsigned uses = 0;  // `kUse…`
  MmuShape shape;     // lines of 64 bytes; the cycles are those from a load to the use of its value
};

struct MmuConfig {
  std::string name;
  std::vector<MmuTlb> tlbs;
  std::vector<MmuWalkCache> walk_caches;
  std::vector<MmuNestedTlb> nested_tlbs;
  std::vector<MmuDataCache> data_caches;
  int memory_cycles = 0;           // of a load that no data cache serves
  uint64_t vm_exit_cycles = 0;     // of one VM exit with its entry and handling
  uint64_t page_fault_cycles = 0;  // of one page fault with its handling in the guest
  uint64_t switch_cycles = 0;      // of one context switch
  bool program_data = true;        // the program's own accesses go through the data caches too
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MMU_CONFIG_H_
