// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The identity of a sweep is a text that stands beside each of its cells. Cells of two sweeps can
// be told apart by it, even if both sweeps have as many cells.

#ifndef TDP_TOOLS_SWEEP_SWEEP_IDENTITY_H_
#define TDP_TOOLS_SWEEP_SWEEP_IDENTITY_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/tools/sweep/sweep_plan.h"

namespace tdp::tools {

// Returns "VERSION-OPTIONS-FILES": the version of this program, a digest of all options of all
// `cells` and of `reading` (the options by which traces are read, with their values), and a digest
// of the names and contents of `files`, which are the traces and machine files. It does not depend
// on which cells a process runs, nor on where their results go. Unavailable if a file cannot be
// read.
absl::StatusOr<std::string> SweepIdentity(
    absl::Span<const SweepCell> cells,
    absl::Span<const std::pair<std::string, std::string>> reading,
    absl::Span<const std::string> files);

// Says in what the sweep named `identity` differs from the one named `other`; nothing if they are
// the same.
std::string SweepDifference(std::string_view identity, std::string_view other);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_IDENTITY_H_
