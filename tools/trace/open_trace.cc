// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/open_trace.h"

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/binary_trace.h"
#include "tdp/tools/trace/champsim_trace.h"
#include "tdp/tools/trace/dynamorio_trace.h"
#include "tdp/tools/trace/generator.h"
#include "tdp/tools/trace/lackey_trace.h"
#include "tdp/tools/trace/perf_trace.h"
#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

// What the format is guessed from.
constexpr size_t kHeadBytes = size_t{1} << 15;

// kAuto: none that is known.
TraceFormat Guess(std::string_view head) {
  if (HasTraceMagic(head)) return TraceFormat::kBinary;
  // Text holds no zero byte, and the second highest byte of a user address is always one.
  if (head.find('\0') != std::string_view::npos) {
    if (LooksLikeWords(head)) return TraceFormat::kBinary;
    return LooksLikeChampsim(head) ? TraceFormat::kChampsim : TraceFormat::kAuto;
  }
  return head.starts_with(kDynamorioHeading) ? TraceFormat::kDynamorio : TraceFormat::kLackey;
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
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenByteSource(path));
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
  switch (format) {
    case TraceFormat::kLackey:
      return MakeTextTraceReader(std::move(source), "Lackey", ParseLackeyLine, input.tolerance);
    case TraceFormat::kDynamorio:
      return MakeTextTraceReader(std::move(source), "DynamoRIO", ParseDynamorioLine,
                                 input.tolerance);
    case TraceFormat::kPerf:
      return MakeTextTraceReader(std::move(source), "perf", ParsePerfLine, input.tolerance);
    case TraceFormat::kChampsim:
      return MakeChampsimTraceReader(std::move(source), input.tolerance);
    case TraceFormat::kBinary:
      return MakeBinaryTraceReader(std::move(source), input.tolerance.address_bits);
    case TraceFormat::kAuto:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      source->name(), ": not a trace of a format that is recognised; --format names one"));
}

}  // namespace tdp::tools
