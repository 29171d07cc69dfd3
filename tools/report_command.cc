// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/report_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/options.h"
#include "tdp/tools/output_file.h"
#include "tdp/tools/report/report_html.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp report [OPTION...] RUN.json... -o REPORT.html\n\n"
    "Makes one page of HTML of what `tdp replay --json` and `tdp sweep --json` wrote: figures\n"
    "against a baseline, sweeps side by side, exits by cause and what they cost, where walks\n"
    "read, and time, pages and miss curves if they were recorded. Files of Google Benchmark\n"
    "(--benchmark_out) are compared with the first of them. The page needs no network and no\n"
    "other file; every table in it can be copied as CSV.\n\n";

struct ReportOptions {
  std::string output = "-";
  bool help = false;
};

OptionParser MakeParser(ReportOptions* options) {
  OptionParser parser;
  parser.AddString("output", "write to this file, \"-\" for standard output; -o for short",
                   &options->output, "FILE");
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

}  // namespace

absl::StatusOr<int> RunReport(absl::Span<const std::string_view> arguments) {
  ReportOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> inputs, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (inputs.empty()) return absl::InvalidArgumentError("needs a RUN.json; see tdp report --help");
  TDP_RETURN_IF_ERROR(CheckOutputs({{"output", options.output}}, inputs));
  std::vector<RunFile> files;
  for (const std::string& input : inputs) {
    TDP_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenByteSource(input));
    TDP_ASSIGN_OR_RETURN(const std::string text, ReadAll(*source));
    TDP_ASSIGN_OR_RETURN(RunFile file, ReadRunFile(input, text));
    files.push_back(std::move(file));
  }
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> output,
                       OutputFile::Create(options.output));
  TDP_RETURN_IF_ERROR(output->Write(ReportHtml(files)));
  TDP_RETURN_IF_ERROR(output->Commit());
  return kExitOk;
}

}  // namespace tdp::tools
