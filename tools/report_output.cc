// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/report_output.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/output_file.h"

namespace tdp::tools {

void AddJsonOption(OptionParser& parser, std::string* file) {
  parser.AddString("json", "report as JSON; with =FILE the JSON goes there", file, "FILE");
  // No trace has such a name.
  parser.AllowBare("-", [](std::string_view text) { return text.ends_with(".json"); });
}

absl::Status CheckIsNoInput(const char* option, const std::string& output,
                            const std::vector<std::string>& inputs) {
  for (const std::string& input : inputs) {
    std::error_code ignored;
    if (std::filesystem::equivalent(output, input, ignored) &&
        std::filesystem::is_regular_file(input, ignored)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", option, " \"", output, "\": it is one of the inputs"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteReport(const std::string& json_file, absl::FunctionRef<std::string()> text,
                         absl::FunctionRef<std::string()> json) {
  if (json_file != "-") std::fputs(text().c_str(), stdout);
  if (json_file == "-") std::fputs(json().c_str(), stdout);
  if (json_file.empty() || json_file == "-") return absl::OkStatus();
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> output, OutputFile::Create(json_file));
  TDP_RETURN_IF_ERROR(output->Write(json()));
  return output->Commit();
}

}  // namespace tdp::tools
