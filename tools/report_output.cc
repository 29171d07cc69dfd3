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
namespace {

// Returns whether both are the same regular file, or would be: neither need be there yet.
bool AreOneFile(const std::string& one, const std::string& other) {
  namespace fs = std::filesystem;
  if (one.empty() || other.empty()) return false;
  if (one == "-" || other == "-") return one == other;
  std::error_code error;
  const fs::file_status status = fs::status(one, error);
  if (fs::exists(status)) {
    return fs::is_regular_file(status) && fs::equivalent(one, other, error);
  }
  const fs::path place = fs::weakly_canonical(fs::absolute(one, error), error);
  return !fs::exists(other, error) &&
         place == fs::weakly_canonical(fs::absolute(other, error), error);
}

}  // namespace

void AddJsonOption(OptionParser& parser, std::string* file) {
  parser.AddString("json", "report as JSON; with =FILE the JSON goes there", file, "FILE");
  // No trace has such a name.
  parser.AllowBare("-", [](std::string_view text) { return text.ends_with(".json"); });
}

absl::Status CheckOutputs(const std::vector<NamedOutput>& outputs,
                          const std::vector<std::string>& inputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const NamedOutput& output = outputs[i];
    const auto fail = [&output](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", output.option, " \"", output.path, "\": ", what));
    };
    for (const std::string& input : inputs) {
      // An input "-" is standard input.
      if (input != "-" && AreOneFile(output.path, input)) return fail("it is one of the inputs");
    }
    for (size_t other = 0; other < i; ++other) {
      if (!AreOneFile(output.path, outputs[other].path)) continue;
      return fail(absl::StrCat("--", outputs[other].option, " goes there",
                               output.path == "-" ? ", to standard output" : ""));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ReportOutput> ReportOutput::Open(const std::string& json_file) {
  ReportOutput output;
  output.json_to_stdout_ = json_file == "-";
  if (json_file.empty() || output.json_to_stdout_) return output;
  TDP_ASSIGN_OR_RETURN(output.file_, OutputFile::Create(json_file));
  return output;
}

absl::Status ReportOutput::Write(absl::FunctionRef<std::string()> text,
                                 absl::FunctionRef<std::string()> json) {
  std::fputs(json_to_stdout_ ? json().c_str() : text().c_str(), stdout);
  if (file_ == nullptr) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(file_->Write(json()));
  return file_->Commit();
}

}  // namespace tdp::tools
