// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace_options.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/generator.h"

namespace tdp::tools {

void AddInputOptions(OptionParser& parser, TraceInput* input) {
  parser.AddChoice("format", "how the trace is written", &input->format,
                   {{"auto", TraceFormat::kAuto},
                    {"binary", TraceFormat::kBinary},
                    {"lackey", TraceFormat::kLackey},
                    {"dynamorio", TraceFormat::kDynamorio},
                    {"champsim", TraceFormat::kChampsim},
                    {"cloudsuite", TraceFormat::kCloudsuite},
                    {"perf", TraceFormat::kPerf},
                    {"pinatrace", TraceFormat::kPinatrace},
                    {"dinero", TraceFormat::kDinero},
                    {"ramulator", TraceFormat::kRamulator},
                    {"execlog", TraceFormat::kExeclog}});
  parser.AddSwitch("strict", "refuse lines and addresses that otherwise are left out and counted",
                   &input->tolerance.strict);
  parser.AddSwitch("skip-kernel", "with --strict, leave kernel addresses out all the same",
                   &input->tolerance.skip_kernel);
}

bool IsReadOnce(const std::string& trace) {
  if (trace == "-") return true;
  if (trace.starts_with(kGeneratorPrefix)) return false;
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(trace, error);
  // Opening tells of a file that is not there, and of a folder.
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
         !std::filesystem::is_directory(status);
}

absl::Status CheckIsReadAgain(const std::string& trace) {
  if (!IsReadOnce(trace)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", trace, "\": no regular file, and this command reads a TRACE several times"));
}

absl::Status CheckEachIsReadOnce(const std::vector<std::string>& traces) {
  for (auto trace = traces.begin(); trace != traces.end(); ++trace) {
    if (!IsReadOnce(*trace) || std::find(traces.begin(), trace, *trace) == trace) continue;
    return absl::InvalidArgumentError(absl::StrCat("\"", *trace, "\" can be read only once"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> OneTrace(const std::vector<std::string>& files,
                                     std::string_view command) {
  if (files.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("needs one TRACE, which can be read again; see tdp ", command, " --help"));
  }
  TDP_RETURN_IF_ERROR(CheckIsReadAgain(files[0]));
  return files[0];
}

}  // namespace tdp::tools
