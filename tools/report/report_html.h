// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Runs as a page of HTML that needs nothing else: no network, no other file.

#ifndef TDP_TOOLS_REPORT_REPORT_HTML_H_
#define TDP_TOOLS_REPORT_REPORT_HTML_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tdp::tools {

// A file that `tdp replay --json`, `tdp sweep --json` or Google Benchmark wrote, checked.
struct RunFile {
  std::string name;
  std::string json;  // as text, in the order of the file
};

// InvalidArgument, naming the file and where in it, for what is no run or list of runs, and for
// runs of a schema that is newer than this program.
absl::StatusOr<RunFile> ReadRunFile(std::string name, std::string_view text);

// Returns the page for the runs of all files, in their order. There is at least one file.
std::string ReportHtml(const std::vector<RunFile>& files);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_REPORT_HTML_H_
