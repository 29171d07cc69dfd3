// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Sums up the cells of a sweep that differ in their seed alone.

#ifndef TDP_TOOLS_SWEEP_SWEEP_SUMMARY_H_
#define TDP_TOOLS_SWEEP_SWEEP_SUMMARY_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tdp::tools {

// CSV of the CSV of a whole sweep, a line for each combination of the options but the seed:
// `seeds`, how many there are, and for each figure its mean (`NAME_mean`) and half the width of its
// 95 % confidence interval by Student's t (`NAME_ci95`; empty for one seed). `name` is for
// messages. InvalidArgument, with the line, for what is no sweep.
absl::StatusOr<std::string> SummarizeSweep(std::string_view name, std::string_view csv);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_SUMMARY_H_
