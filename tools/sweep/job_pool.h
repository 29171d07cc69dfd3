// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Independent jobs on several threads.

#ifndef TDP_TOOLS_SWEEP_JOB_POOL_H_
#define TDP_TOOLS_SWEEP_JOB_POOL_H_

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace tdp::tools {

// Calls `run(i)` for each i below `count`, the lowest first, on `threads` threads (1 or more; with
// one, on the caller's). After the first error no new job begins; that error is returned when those
// that had begun are done. `run` is called by several threads at the same time.
absl::Status RunJobs(size_t count, size_t threads, absl::FunctionRef<absl::Status(size_t)> run);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_JOB_POOL_H_
