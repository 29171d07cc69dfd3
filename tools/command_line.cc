// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/command_line.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace tdp::tools {
namespace {

bool IsPlain(std::string_view text) {
  if (text.empty()) return false;
  for (char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) &&
        std::string_view("-_=./,:+%@").find(c) == std::string_view::npos) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string CommandLine(std::string_view command, absl::Span<const std::string_view> arguments) {
  std::string line = absl::StrCat("tdp ", command);
  for (std::string_view argument : arguments) {
    if (IsPlain(argument)) {
      absl::StrAppend(&line, " ", argument);
    } else {
      absl::StrAppend(&line, " '", absl::StrReplaceAll(argument, {{"'", "'\\''"}}), "'");
    }
  }
  return line;
}

std::vector<std::string> ChangedOptions(const OptionParser& set, const OptionParser& defaults) {
  std::vector<std::string> changed;
  for (size_t i = 0; i < set.options().size(); ++i) {
    const OptionParser::Option& option = set.options()[i];
    if (option.default_text == defaults.options()[i].default_text) continue;
    changed.push_back(absl::StrCat("--", option.name, option.form.empty() ? "" : "=",
                                   option.form.empty() ? "" : option.default_text));
  }
  return changed;
}

}  // namespace tdp::tools
