// SPDX-License-Identifier: Apache-2.0
//
// The replay itself.

#ifndef TDP_TOOLS_REPLAY_REPLAY_H_
#define TDP_TOOLS_REPLAY_REPLAY_H_

#include "absl/status/statusor.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

// Replays all that is left in `reader` on a new machine, then checks every mapping from cold. The
// trace is dealt out to the CPUs in batches of a fixed size in turn; with one CPU the same input
// and options give the same counts every time. Errors are those of the reader, the options and the
// machine, and InvalidArgument for a trace without any access.
absl::StatusOr<ReplayReport> Replay(TraceReader& reader, const ReplayOptions& options,
                                    Progress& progress);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_REPLAY_H_
