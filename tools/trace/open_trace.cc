// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/trace/open_trace.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/binary_trace.h"
#include "tdp/tools/trace/lackey_trace.h"
#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

// Text holds no zero byte, and the second highest byte of a user address is always one.
TraceFormat Guess(const std::string& first) {
  return first.find('\0') != std::string::npos ? TraceFormat::kBinary : TraceFormat::kLackey;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const std::string& path,
                                                       TraceFormat format) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenByteSource(path));
  std::string first(sizeof(TraceRecord), '\0');
  TDP_ASSIGN_OR_RETURN(size_t got, source->Read(absl::MakeSpan(first)));
  first.resize(got);
  if (first.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source->name(), ": empty: no access in it"));
  }
  if (format == TraceFormat::kAuto) format = Guess(first);
  if (format == TraceFormat::kBinary) {
    return MakeBinaryTraceReader(std::move(source), std::move(first));
  }
  return MakeTextTraceReader(std::move(source), std::move(first), "lackey", ParseLackeyLine);
}

}  // namespace tdp::tools
