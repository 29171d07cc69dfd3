// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which part of a trace is replayed and counted, and what is recorded of it on the way. None of
// this changes what the machine does.

#ifndef TDP_TOOLS_REPLAY_OBSERVE_OPTIONS_H_
#define TDP_TOOLS_REPLAY_OBSERVE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

// One end of a region of interest.
struct RoiMark {
  bool is_address = false;
  uint64_t value = 0;  // an access number, from 0; or a linear address

  friend bool operator==(const RoiMark&, const RoiMark&) = default;
};

// Says that accesses before `begin` and from `end` on are not replayed. A mark that is an address
// is met by the first access (for the end: the first since the beginning) that touches its byte.
struct Roi {
  std::optional<RoiMark> begin;
  std::optional<RoiMark> end;

  bool is_all() const { return !begin.has_value() && !end.has_value(); }
};

// "FROM:TO", each an access number, "@ADDRESS" in hexadecimal, or nothing. InvalidArgument.
absl::StatusOr<Roi> ParseRoi(std::string_view text);
// The text that `ParseRoi` reads as `roi`; nothing for all of a trace.
std::string RoiText(const Roi& roi);

enum class MissCurveMode : uint8_t { kOff, kSampled, kExact };

struct ObserveOptions {
  Roi roi;                 // of each trace
  uint64_t warmup = 0;     // accesses that are made first and counted nowhere
  uint64_t interval = 0;   // accesses from one sample of the counters to the next; 0: none
  uint64_t top_pages = 0;  // pages of 4 KiB with the most accesses that are named
  MissCurveMode miss_curve = MissCurveMode::kOff;  // stack distances by page size
};

// Declares --roi and --warmup.
void AddRegionOptions(OptionParser& parser, ObserveOptions* options);
// Declares --interval, --top-pages, --miss-curve and --exact-miss-curve.
void AddRecordingOptions(OptionParser& parser, ObserveOptions* options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_OBSERVE_OPTIONS_H_
