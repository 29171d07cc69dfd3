// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds all that a replay can be told.

#ifndef TDP_TOOLS_REPLAY_REPLAY_OPTIONS_H_
#define TDP_TOOLS_REPLAY_REPLAY_OPTIONS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/vm_options.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/process_options.h"

namespace tdp::tools {

enum class Paging {
  kNative,  // the guest's tables alone: its physical addresses are the host's
  kEpt,     // the guest's tables over the library's EPT
  kShadow,  // tables that the library makes of the guest's
  kNested,  // as kEpt, but of a guest's guest: an EPT that the library makes of the hypervisor's
};

// Says how much of what is mapped is walked again after a replay, and compared (`CheckFromCold`).
enum class ColdCheckMode {
  kAll,
  kSample,  // some thousands of pages, evenly spread
  kOff,
};

struct ReplayOptions {
  Paging paging = Paging::kEpt;
  Level guest_page = kLevel4K;     // largest page of the guest kernel
  int guest_levels = 4;            // of the guest's tables, 4 or 5
  Level ept_page = kLevel2M;       // largest EPT leaf, and largest page of host memory
  int ept_levels = 4;              // 4 or 5
  ByteCount ram = GiB(4);          // of the guest
  bool shuffled = false;           // the guest kernel gives frames in random order
  double guest_fragmentation = 0;  // share of 2 MiB blocks that the guest cannot have whole
  double host_fragmentation = 0;   // share of its 2 MiB blocks that the host backs with 4K pages
  bool huge_host_pages = true;     // the host backs memory with pages up to ept_page, else with 4K
  bool reverse_map = false;        // keep `VmOptions::reverse_map`
  bool prefault = false;           // RAM is in the EPT before the first access
  uint64_t fault_around = 1;       // 4 KiB pages that one EPT violation maps, a power of two
  uint64_t table_churn = 0;        // accesses from one change of a guest table to the next; 0: none
  CacheOptions cache;
  uint64_t cpus = 1;
  uint64_t quantum = 1000;  // accesses in a row of one of several CPUs, on average
  uint64_t seed = 1;
  ColdCheckMode check = ColdCheckMode::kAll;
  ObserveOptions observe;
  ProcessOptions processes;
  // A migration sets how written pages are found, and the entries of each CPU's ring; 0: bitmaps.
  DirtyTracking dirty_tracking = DirtyTracking::kBest;
  uint64_t dirty_ring_entries = 0;
};

// Declares an option for each field down to `seed`; `options` outlives the parser.
void AddReplayOptions(OptionParser& parser, ReplayOptions* options);

// Declares --check, whose `help` says what is checked.
void AddCheckOption(
    OptionParser& parser, ColdCheckMode* check,
    std::string help = "how much of what is mapped is walked again at the end, and compared");

// Returns n if every n-th of `pages` pages is compared; `check` is not kOff.
uint64_t CheckStride(ColdCheckMode check, uint64_t pages);

// InvalidArgument for values that do not go together, named with the option.
absl::Status CheckReplayOptions(const ReplayOptions& options);

const char* PagingName(Paging paging);
// "4 KiB", "2 MiB" or "1 GiB".
const char* PageName(Level level);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_REPLAY_OPTIONS_H_
