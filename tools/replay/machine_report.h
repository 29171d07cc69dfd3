// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The part of a replay's report that is about time: where a machine's cycles of translation went,
// and what was recorded on the way.

#ifndef TDP_TOOLS_REPLAY_MACHINE_REPORT_H_
#define TDP_TOOLS_REPLAY_MACHINE_REPORT_H_

#include <string>

#include "nlohmann/json.hpp"
#include "tdp/tools/replay/replay_report.h"

namespace tdp::tools {

// Lines of text on the machine's MMU; nothing without one.
std::string MachineText(const ReplayReport& report);
// Lines of text on intervals, pages and miss curves, those that were recorded.
std::string ObservationsText(const ReplayReport& report);

// Returns the object "machine"; null without one.
nlohmann::ordered_json MachineJson(const ReplayReport& report);
// Adds "warmup_accesses", "intervals", "pages" and "miss_curves" to `json`; null where nothing was
// recorded.
void AddObservationsJson(const ReplayReport& report, nlohmann::ordered_json& json);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_MACHINE_REPORT_H_
