// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The options that say how an input trace is written and read.

#ifndef TDP_TOOLS_TRACE_OPTIONS_H_
#define TDP_TOOLS_TRACE_OPTIONS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "tdp/tools/options.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Declares --format, --strict and --skip-kernel.
inline void AddInputOptions(OptionParser& parser, TraceInput* input) {
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

// `input`, with the user addresses that tables of `guest_levels` levels can reach.
inline TraceInput ForLevels(TraceInput input, int guest_levels) {
  input.tolerance.address_bits = UserAddressBits(guest_levels);
  return input;
}

// Returns the TRACE of a command that reads it several times: one file, not the standard input.
inline absl::StatusOr<std::string> OneTrace(const std::vector<std::string>& files,
                                            std::string_view command) {
  if (files.size() == 1 && files[0] != "-") return files[0];
  return absl::InvalidArgumentError(
      absl::StrCat("needs one TRACE, which can be read again; see tdp ", command, " --help"));
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_OPTIONS_H_
