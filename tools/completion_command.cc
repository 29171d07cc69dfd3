// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/completion_command.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/options.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp completion bash\n\n"
    "Prints what lets bash complete the commands of tdp, their options and the words that an\n"
    "option takes. For this shell: source <(tdp completion bash)\n\n";

// The tables of options are the truth about them, and `--help` prints these. So the shell asks the
// tdp that it completes for, and cannot be out of date.
constexpr char kBash[] = R"bash(_tdp() {
  local current=$2 previous=$3 tdp=$1 command='' word words=''
  COMPREPLY=()
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ $word == -* ]] || { command=$word; break; }
  done
  if [[ -z $command ]]; then
    words="--help --version $("$tdp" --help 2>/dev/null |
      sed -n 's/^  \([a-z]\{1,\}\)  .*/\1/p')"
  elif [[ $previous == --* ]]; then
    words=$("$tdp" "$command" --help 2>/dev/null |
      sed -n "s/^  $previous\( \|\[=\)\([^] ]*|[^] ]*\).*/\2/p" | sed 's/,\.\.\.$//' | tr '|' ' ')
  fi
  if [[ -z $words && $current == -* ]]; then
    words=$("$tdp" "$command" --help 2>/dev/null | sed -n 's/^  \(--[a-z0-9-]*\).*/\1/p')
  fi
  if [[ -n $words ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -o filenames -F _tdp tdp
)bash";

}  // namespace

absl::StatusOr<int> RunCompletion(absl::Span<const std::string_view> arguments) {
  bool help = false;
  OptionParser parser;
  parser.AddSwitch("help", "show this", &help);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> shells, parser.Parse(arguments));
  if (help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (shells.size() != 1 || shells[0] != "bash") {
    return absl::InvalidArgumentError("needs the name of a shell: bash");
  }
  std::fputs(kBash, stdout);
  return kExitOk;
}

}  // namespace tdp::tools
