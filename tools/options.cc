// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/options.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

bool IsDecimal(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string SizeText(ByteCount bytes) {
  static constexpr std::string_view kSuffixes = "kmgt";
  std::string suffix;
  for (char next : kSuffixes) {
    if (bytes == 0 || bytes % 1024 != 0) break;
    bytes /= 1024;
    suffix = next;
  }
  return absl::StrCat(bytes, suffix);
}

absl::StatusOr<ByteCount> ParseSize(std::string_view text) {
  const absl::Status wrong =
      absl::InvalidArgumentError("must be a number of bytes, with k, m, g or t behind it or not");
  static constexpr std::string_view kSuffixes = "kmgt";
  int shift = 0;
  if (!text.empty()) {
    const size_t suffix = kSuffixes.find(absl::ascii_tolower(static_cast<uint8_t>(text.back())));
    if (suffix != std::string_view::npos) {
      shift = 10 * (static_cast<int>(suffix) + 1);
      text.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  if (!IsDecimal(text) || !absl::SimpleAtoi(text, &number)) return wrong;
  if (number > ~uint64_t{0} >> shift) return wrong;
  return number << shift;
}

// Returns the value as the help shows it behind the option's name.
std::string Form(const OptionParser::Option& option) {
  if (option.form.empty()) return "";
  return option.bare.empty() ? " " + option.form : absl::StrCat("[=", option.form, "]");
}

absl::Status WithOption(std::string_view name, std::string_view text, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("--", name, " \"", absl::CHexEscape(text),
                                                  "\": ", status.message()));
}

}  // namespace

void OptionParser::Add(std::string name, std::string form, std::string help,
                       std::string default_text, Setter set) {
  options_.push_back({.name = std::move(name),
                      .form = std::move(form),
                      .help = std::move(help),
                      .default_text = std::move(default_text),
                      .set = std::move(set),
                      .bare = "",
                      .fits = nullptr});
}

void OptionParser::AllowBare(std::string bare, std::function<bool(std::string_view text)> fits) {
  options_.back().bare = std::move(bare);
  options_.back().fits = std::move(fits);
}

void OptionParser::AddAlias(std::string old, std::string name) {
  aliases_.emplace_back(std::move(old), std::move(name));
}

void OptionParser::AddSwitch(std::string name, std::string help, bool* value) {
  Add(std::move(name), "", std::move(help), *value ? "on" : "", [value](std::string_view) {
    *value = true;
    return absl::OkStatus();
  });
}

void OptionParser::AddString(std::string name, std::string help, std::string* value,
                             std::string form) {
  Add(std::move(name), std::move(form), std::move(help), *value,
      [value](std::string_view text) -> absl::Status {
        if (text.empty()) return absl::InvalidArgumentError("must not be empty");
        *value = std::string(text);
        return absl::OkStatus();
      });
}

void OptionParser::AddInteger(std::string name, std::string help, uint64_t* value, uint64_t min,
                              uint64_t max) {
  Add(std::move(name), "N", std::move(help), absl::StrCat(*value),
      [value, min, max](std::string_view text) -> absl::Status {
        uint64_t number = 0;
        if (!IsDecimal(text) || !absl::SimpleAtoi(text, &number) || number < min || number > max) {
          return absl::InvalidArgumentError(
              absl::StrCat("must be a whole number from ", min, " to ", max));
        }
        *value = number;
        return absl::OkStatus();
      });
}

void OptionParser::AddNumber(std::string name, std::string help, double* value, double min,
                             double max) {
  Add(std::move(name), "X", std::move(help), absl::StrCat(*value),
      [value, min, max](std::string_view text) -> absl::Status {
        double number = 0;
        // Written so that a NaN is refused.
        if (!absl::SimpleAtod(text, &number) || !(number >= min && number <= max)) {
          return absl::InvalidArgumentError(
              absl::StrCat("must be a number from ", min, " to ", max));
        }
        *value = number;
        return absl::OkStatus();
      });
}

void OptionParser::AddSize(std::string name, std::string help, ByteCount* value) {
  Add(std::move(name), "SIZE", std::move(help), SizeText(*value),
      [value](std::string_view text) -> absl::Status {
        TDP_ASSIGN_OR_RETURN(*value, ParseSize(text));
        return absl::OkStatus();
      });
}

absl::StatusOr<const OptionParser::Option*> OptionParser::Find(std::string_view name) const {
  for (const auto& [old, now] : aliases_) {
    if (name == old) name = now;
  }
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [name](const Option& option) { return option.name == name; });
  if (found == options_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no option --", absl::CHexEscape(name)));
  }
  return &*found;
}

absl::StatusOr<std::vector<std::string>> OptionParser::Parse(
    absl::Span<const std::string_view> arguments) const {
  std::vector<std::string> rest;
  bool options_end = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view argument = arguments[i];
    if (!options_end && argument == "--") {
      options_end = true;
      continue;
    }
    if (!options_end && argument == "-h") argument = "--help";
    if (!options_end && argument == "-o" && Find("output").ok()) argument = "--output";
    if (!options_end && argument.size() > 1 && argument[0] == '-' && argument[1] != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no option ", absl::CHexEscape(argument),
                       "; \"--\" goes before arguments that begin with a dash"));
    }
    if (options_end || !argument.starts_with("--")) {
      rest.emplace_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals).substr(2);
    TDP_ASSIGN_OR_RETURN(const Option* option, Find(name));
    std::string_view text;
    if (equals != std::string_view::npos) {
      if (option->form.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " takes no value"));
      }
      text = argument.substr(equals + 1);
    } else if (!option->bare.empty() &&
               (i + 1 == arguments.size() || !option->fits(arguments[i + 1]))) {
      text = option->bare;
    } else if (!option->form.empty()) {
      if (++i == arguments.size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("--", name, " needs a value: ", option->form));
      }
      text = arguments[i];
    }
    const absl::Status set = option->set(text);
    if (!set.ok()) return WithOption(name, text, set);
  }
  return rest;
}

std::string OptionParser::Help() const {
  std::vector<std::string> left;
  size_t width = 0;
  for (const Option& option : options_) {
    left.push_back(absl::StrCat("--", option.name, Form(option)));
    width = std::max(width, left.back().size());
  }
  std::string help;
  for (size_t i = 0; i < options_.size(); ++i) {
    const Option& option = options_[i];
    absl::StrAppend(&help,
                    absl::StrFormat("  %-*s  %s", static_cast<int>(width), left[i], option.help));
    if (!option.default_text.empty()) absl::StrAppend(&help, " (", option.default_text, ")");
    help += '\n';
  }
  return help;
}

}  // namespace tdp::tools
