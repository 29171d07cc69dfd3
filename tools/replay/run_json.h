// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A replay as JSON. docs/run.schema.json describes every field; a field keeps its meaning for as
// long as `kRunSchemaVersion` stays the same.

#ifndef TDP_TOOLS_REPLAY_RUN_JSON_H_
#define TDP_TOOLS_REPLAY_RUN_JSON_H_

#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"

namespace tdp::tools {

// It grows when a field goes away or changes its meaning, and stays when one is added.
inline constexpr int kRunSchemaVersion = 1;

// One object with every number of the text and the options.
nlohmann::ordered_json RunJson(const ReplayReport& report);
// Returns the same as text, indented, with a newline.
std::string ReportJson(const ReplayReport& report);

// Every option by the name that the command line has for it. Numbers are numbers; whatever else
// there is (words, sizes) is text as the command line takes it. Those without a meaning for this
// kind of paging (`UnusedOptions`) are null.
nlohmann::ordered_json OptionsJson(const ReplayOptions& options);

// Names and values of the figures of a run: the fields of `RunJson` behind the options that are no
// lists, each named by its path with an underscore between the parts. Without what only some runs
// have: a machine, intervals, pages, miss curves.
std::vector<std::pair<std::string, std::string>> RunFigures(const ReplayReport& report);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_RUN_JSON_H_
