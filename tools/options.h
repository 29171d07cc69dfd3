// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Options of a subcommand: "--name value" or "--name=value", "--name" alone for a switch or where
// the value may be left out, "-h" for "--help", "-o" for "--output" where there is that, "--"
// before arguments that begin with a dash.

#ifndef TDP_TOOLS_OPTIONS_H_
#define TDP_TOOLS_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"

namespace tdp::tools {

class OptionParser {
 public:
  // Sets the variable from the text given; InvalidArgument, saying what it wants, if it cannot.
  using Setter = std::function<absl::Status(std::string_view text)>;

  // Each declares one option. `name` has no dashes; `help` is one line, without the default, which
  // is the variable's value at the time of the call. Variables outlive the parser.
  void AddSwitch(std::string name, std::string help, bool* value);
  // Any text but an empty one; `form` stands for it in the help.
  void AddString(std::string name, std::string help, std::string* value, std::string form = "TEXT");
  // Decimal, `min` to `max`.
  void AddInteger(std::string name, std::string help, uint64_t* value, uint64_t min, uint64_t max);
  // Decimal with a fraction, `min` to `max`.
  void AddNumber(std::string name, std::string help, double* value, double min, double max);
  // Bytes: a decimal number with k, m, g or t (powers of 1024, in either case) or nothing behind
  // it.
  void AddSize(std::string name, std::string help, ByteCount* value);
  // One word of `choices`.
  template <typename T>
  void AddChoice(std::string name, std::string help, T* value,
                 std::vector<std::pair<std::string, T>> choices);
  // Anything else; `form` stands for the value in the help.
  void Add(std::string name, std::string form, std::string help, std::string default_text,
           Setter set);

  // Lets the value of the option declared last be left out, which means `bare`. Behind a blank it
  // is taken for the value only if it `fits`: else it is an argument. What is behind "=" always is.
  void AllowBare(std::string bare, std::function<bool(std::string_view text)> fits);
  // Lets `old` stand for the option `name`, which had that name before. The help does not show it.
  void AddAlias(std::string old, std::string name);

  // Sets the variables and returns the arguments that are no options, in order. InvalidArgument, in
  // one line, for an unknown option, a missing value or one that the option does not take.
  absl::StatusOr<std::vector<std::string>> Parse(
      absl::Span<const std::string_view> arguments) const;

  // Returns a line for each option.
  std::string Help() const;

  struct Option {
    std::string name;
    std::string form;  // of the value; empty for a switch
    std::string help;
    std::string default_text;
    Setter set;
    std::string bare;  // the value that is meant if none is given; empty if one must be
    std::function<bool(std::string_view text)> fits;  // unless `bare` is empty
  };
  // Returns the options in the order of their declaration.
  const std::vector<Option>& options() const { return options_; }

 private:
  absl::StatusOr<const Option*> Find(std::string_view name) const;

  std::vector<Option> options_;
  std::vector<std::pair<std::string, std::string>> aliases_;
};

template <typename T>
void OptionParser::AddChoice(std::string name, std::string help, T* value,
                             std::vector<std::pair<std::string, T>> choices) {
  std::string form;
  std::string default_text;
  for (const auto& [word, meaning] : choices) {
    if (!form.empty()) form += '|';
    form += word;
    if (meaning == *value) default_text = word;
  }
  Add(std::move(name), form, std::move(help), std::move(default_text),
      [value, form, choices = std::move(choices)](std::string_view text) -> absl::Status {
        for (const auto& [word, meaning] : choices) {
          if (word != text) continue;
          *value = meaning;
          return absl::OkStatus();
        }
        return absl::InvalidArgumentError("must be " + form);
      });
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_OPTIONS_H_
