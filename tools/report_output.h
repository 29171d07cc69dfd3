// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a command's report goes: text on standard output, or JSON there or in a file.

#ifndef TDP_TOOLS_REPORT_OUTPUT_H_
#define TDP_TOOLS_REPORT_OUTPUT_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

// Declares --json[=FILE], the same in every command that has it. `file` is empty without it, and
// "-", for standard output, without a FILE.
void AddJsonOption(OptionParser& parser, std::string* file);

// InvalidArgument if `output`, the file that `option` names, is one of `inputs`, whose place it
// would take.
absl::Status CheckIsNoInput(const char* option, const std::string& output,
                            const std::vector<std::string>& inputs);

// Writes JSON to `json_file`, if that is not empty, and unless it has gone to standard output the
// text there. Both end with a newline of their own. Unavailable if the system refuses.
absl::Status WriteReport(const std::string& json_file, absl::FunctionRef<std::string()> text,
                         absl::FunctionRef<std::string()> json);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_OUTPUT_H_
