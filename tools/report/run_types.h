// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says of which type each field of a run is, by docs/run.schema.json.

#ifndef TDP_TOOLS_REPORT_RUN_TYPES_H_
#define TDP_TOOLS_REPORT_RUN_TYPES_H_

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace tdp::tools {

// InvalidArgument, with its path, for a field that is of another type than the schema says. Fields
// that the schema does not know, and those that a file from before them lacks, may be so.
absl::Status CheckRunTypes(const nlohmann::json& run);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_RUN_TYPES_H_
