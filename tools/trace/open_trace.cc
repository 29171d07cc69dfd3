// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/trace/open_trace.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/binary_trace.h"
#include "tdp/tools/trace/champsim_trace.h"
#include "tdp/tools/trace/dynamorio_trace.h"
#include "tdp/tools/trace/lackey_trace.h"
#include "tdp/tools/trace/perf_trace.h"
#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

// Text holds no zero byte, and the second highest byte of a user address is always one.
TraceFormat Guess(const std::string& first) {
  if (first.find('\0') != std::string::npos) return TraceFormat::kBinary;
  return kDynamorioHeading.starts_with(first) ? TraceFormat::kDynamorio : TraceFormat::kLackey;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const std::string& path,
                                                       TraceFormat format) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenByteSource(path));
  return OpenTrace(std::move(source), format);
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(std::unique_ptr<ByteSource> source,
                                                       TraceFormat format) {
  std::string first(sizeof(TraceRecord), '\0');
  TDP_ASSIGN_OR_RETURN(size_t got, source->Read(absl::MakeSpan(first)));
  first.resize(got);
  if (first.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source->name(), ": empty: no access in it"));
  }
  if (format == TraceFormat::kAuto) format = Guess(first);
  switch (format) {
    case TraceFormat::kLackey:
      return MakeTextTraceReader(std::move(source), std::move(first), "Lackey", ParseLackeyLine);
    case TraceFormat::kDynamorio:
      return MakeTextTraceReader(std::move(source), std::move(first), "DynamoRIO",
                                 ParseDynamorioLine);
    case TraceFormat::kPerf:
      return MakeTextTraceReader(std::move(source), std::move(first), "perf", ParsePerfLine);
    case TraceFormat::kChampsim:
      return MakeChampsimTraceReader(std::move(source), std::move(first));
    case TraceFormat::kBinary:
    case TraceFormat::kAuto:
      break;
  }
  return MakeBinaryTraceReader(std::move(source), std::move(first));
}

}  // namespace tdp::tools
