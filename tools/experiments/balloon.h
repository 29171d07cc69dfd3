// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest that gives most of its memory back by a balloon, and makes do with the rest: it keeps
// what does not fit in a swap area of its own.

#ifndef TDP_TOOLS_EXPERIMENTS_BALLOON_H_
#define TDP_TOOLS_EXPERIMENTS_BALLOON_H_

#include <string>

#include "absl/status/statusor.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/experiments/overcommit.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

// Pages that a balloon gives back with one exit: the descriptor of virtio's has room for as many
// (VIRTIO_BALLOON_ARRAY_PFNS_MAX in Linux 6.1, drivers/virtio/virtio_balloon.c).
inline constexpr uint64_t kBalloonPagesAnExit = 256;

// Runs the guest of `RunOvercommitted` with `options.resident` of memory for all of its pages and
// tables. The balloon has the rest before the first access. Which page goes is for the
// guest to say: the oldest without its A bit. A page that goes to the swap area is an exit, and one
// that comes back; its frame stays with the guest, so that the EPT does not change. With `check`
// the content of every page is compared. The errors of `RunOvercommitted`.
absl::StatusOr<Overcommit> RunBallooned(const std::string& trace, const TraceInput& input,
                                        const ReplayOptions& machine,
                                        const OvercommitOptions& options, ColdCheckMode check);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_BALLOON_H_
