// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a command's report goes: text on standard output, or JSON there or in a file.

#ifndef TDP_TOOLS_REPORT_OUTPUT_H_
#define TDP_TOOLS_REPORT_OUTPUT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/tools/options.h"
#include "tdp/tools/output_file.h"

namespace tdp::tools {

// Declares --json[=FILE], the same in every command that has it. `file` is empty without it, and
// "-", for standard output, without a FILE.
void AddJsonOption(OptionParser& parser, std::string* file);

// A file that an option names; "-" is standard output, and an empty path none at all.
struct NamedOutput {
  const char* option;
  std::string path;
};

// InvalidArgument if one of `outputs` is one of `inputs`, whose place it would take, or two are the
// same.
absl::Status CheckOutputs(const std::vector<NamedOutput>& outputs,
                          const std::vector<std::string>& inputs);

// Where a report goes. It is opened before the run: a name that cannot be written is told before
// hours are spent.
class ReportOutput {
 public:
  // `json_file` as `AddJsonOption` has it. Unavailable if the system refuses.
  static absl::StatusOr<ReportOutput> Open(const std::string& json_file);

  // Writes JSON to the file, if there is one, and unless that is standard output the text there.
  // Both end with a newline of their own. Unavailable if the system refuses.
  absl::Status Write(absl::FunctionRef<std::string()> text, absl::FunctionRef<std::string()> json);

 private:
  bool json_to_stdout_ = false;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_OUTPUT_H_
