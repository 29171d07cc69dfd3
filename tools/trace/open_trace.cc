// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/open_trace.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/binary_trace.h"
#include "tdp/tools/trace/champsim_trace.h"
#include "tdp/tools/trace/dynamorio_trace.h"
#include "tdp/tools/trace/generator.h"
#include "tdp/tools/trace/lackey_trace.h"
#include "tdp/tools/trace/perf_trace.h"
#include "tdp/tools/trace/simulator_traces.h"
#include "tdp/tools/trace/text_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {
namespace {

// The format is guessed from that much of the head.
constexpr size_t kHeadBytes = size_t{1} << 15;

struct LineFormat {
  TraceFormat format;
  const char* name;
  LineParser parse;
};

// A line that can belong to several formats belongs to the first of them.
constexpr LineFormat kLineFormats[] = {{TraceFormat::kLackey, "Lackey", ParseLackeyLine},
                                       {TraceFormat::kDynamorio, "DynamoRIO", ParseDynamorioLine},
                                       {TraceFormat::kPinatrace, "pinatrace", ParsePinatraceLine},
                                       {TraceFormat::kExeclog, "execlog", ParseExeclogLine},
                                       {TraceFormat::kDinero, "din", ParseDineroLine},
                                       {TraceFormat::kRamulator, "Ramulator", ParseRamulatorLine},
                                       {TraceFormat::kPerf, "perf", ParsePerfLine}};

// Counts the lines of `text` that are about an access, for this format.
size_t LinesAboutAccesses(std::string_view text, LineParser parse) {
  size_t lines = 0;
  std::vector<TraceRecord> records;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    records.clear();
    const LineResult result = parse(line, records);
    lines += !records.empty() || result == LineResult::kKernelAddress ? 1 : 0;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// Returns the format with the most lines; a text of which nothing is known is read as Lackey's, and
// refused with what stands in it.
TraceFormat GuessLines(std::string_view head) {
  if (head.starts_with(kDynamorioHeading)) return TraceFormat::kDynamorio;
  TraceFormat best = TraceFormat::kLackey;
  size_t most = 0;
  for (const LineFormat& format : kLineFormats) {
    const size_t lines = LinesAboutAccesses(head, format.parse);
    if (lines <= most) continue;
    most = lines;
    best = format.format;
  }
  return best;
}

// kAuto: none that is known.
TraceFormat Guess(std::string_view head) {
  if (HasTraceMagic(head)) return TraceFormat::kBinary;
  // Text holds no zero byte, and the second highest byte of a user address is always one.
  if (head.find('\0') != std::string_view::npos) {
    if (LooksLikeWords(head)) return TraceFormat::kBinary;
    if (LooksLikeChampsim(head)) return TraceFormat::kChampsim;
    return LooksLikeCloudsuite(head) ? TraceFormat::kCloudsuite : TraceFormat::kAuto;
  }
  return GuessLines(head);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const std::string& path,
                                                       const TraceInput& input) {
  if (path.starts_with(kGeneratorPrefix)) {
    TDP_ASSIGN_OR_RETURN(const GeneratorSpec spec, ParseGenerator(path));
    if ((spec.base + spec.footprint - 1) >> input.tolerance.address_bits != 0) {
      return absl::InvalidArgumentError(absl::StrCat("generator: the data end above ",
                                                     input.tolerance.address_bits,
                                                     " bits: --guest-levels 5, or a lower base"));
    }
    return MakeGenerator(path, spec);
  }
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source,
                       OpenByteSource(path, input.tolerance.cut_short));
  return OpenTrace(std::move(source), input);
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(std::unique_ptr<ByteSource> unpacked,
                                                       const TraceInput& input) {
  auto source = std::make_unique<PeekableSource>(std::move(unpacked));
  TDP_ASSIGN_OR_RETURN(const std::string_view head, source->Peek(kHeadBytes));
  if (head.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source->name(), ": empty: no access in it"));
  }
  const TraceFormat format = input.format == TraceFormat::kAuto ? Guess(head) : input.format;
  if (input.tolerance.cut_short && format != TraceFormat::kBinary) {
    return absl::InvalidArgumentError(
        absl::StrCat(source->name(),
                     ": --salvage is for traces that tdp itself was writing, which this is not"));
  }
  for (const LineFormat& lines : kLineFormats) {
    if (lines.format != format) continue;
    return MakeTextTraceReader(std::move(source), lines.name, lines.parse, input.tolerance);
  }
  switch (format) {
    case TraceFormat::kChampsim:
      return MakeChampsimTraceReader(std::move(source), input.tolerance);
    case TraceFormat::kCloudsuite:
      return MakeCloudsuiteTraceReader(std::move(source), input.tolerance);
    case TraceFormat::kBinary:
      return MakeBinaryTraceReader(std::move(source), input.tolerance.address_bits,
                                   input.tolerance.cut_short);
    default:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      source->name(), ": not a trace of a format that is recognised; --format names one"));
}

}  // namespace tdp::tools
