// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The replay itself.

#ifndef TDP_TOOLS_REPLAY_REPLAY_H_
#define TDP_TOOLS_REPLAY_REPLAY_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/trace/physical_trace.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

using TraceReaders = std::vector<std::unique_ptr<TraceReader>>;

// Replays all that is left in `readers` on a new machine, then checks every mapping from cold. One
// trace is dealt out to the CPUs in batches of a fixed size in turn; several are threads of one
// program, each on a CPU of its own, or processes that take turns on the CPUs. The same input and
// options give the same counts every time, whatever the number of CPUs. `physical`, if not null,
// gets every access of the programs. Errors are those of the readers, the options and the machine,
// and InvalidArgument for a trace without any access or for several traces and another number of
// CPUs.
absl::StatusOr<ReplayReport> Replay(const TraceReaders& readers, const ReplayOptions& options,
                                    Progress& progress, PhysicalTrace* physical = nullptr);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_REPLAY_H_
