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
#include "tdp/tools/options.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Declares --format, --strict and --skip-kernel.
void AddInputOptions(OptionParser& parser, TraceInput* input);

// `input`, with the user addresses that tables of `guest_levels` levels can reach.
inline TraceInput ForLevels(TraceInput input, int guest_levels) {
  input.tolerance.address_bits = UserAddressBits(guest_levels);
  return input;
}

// Returns whether `trace` gives its accesses only once: standard input, a pipe, a device.
bool IsReadOnce(const std::string& trace);
// InvalidArgument for such a trace, of a command that reads it several times: the second time it
// would seem to be a shorter one.
absl::Status CheckIsReadAgain(const std::string& trace);
// InvalidArgument if such a trace is there twice: each would get a part of it.
absl::Status CheckEachIsReadOnce(const std::vector<std::string>& traces);

// Returns the TRACE of a command that reads it several times. InvalidArgument unless it is one
// file, which can be read again.
absl::StatusOr<std::string> OneTrace(const std::vector<std::string>& files,
                                     std::string_view command);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_OPTIONS_H_
