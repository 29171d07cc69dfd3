// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/observe_options.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kAny = ~uint64_t{0};

absl::StatusOr<std::optional<RoiMark>> ParseMark(std::string_view text) {
  if (text.empty()) return std::nullopt;
  RoiMark mark;
  mark.is_address = absl::ConsumePrefix(&text, "@");
  const bool read = mark.is_address ? absl::SimpleHexAtoi(text, &mark.value)
                                    : absl::SimpleAtoi(text, &mark.value);
  if (!read) {
    return absl::InvalidArgumentError(
        "must be FROM:TO, each an access number, @ADDRESS in hexadecimal, or nothing");
  }
  return mark;
}

std::string MarkText(const std::optional<RoiMark>& mark) {
  if (!mark.has_value()) return "";
  return mark->is_address ? absl::StrCat("@0x", absl::Hex(mark->value)) : absl::StrCat(mark->value);
}

}  // namespace

std::string RoiText(const Roi& roi) {
  return roi.is_all() ? "" : absl::StrCat(MarkText(roi.begin), ":", MarkText(roi.end));
}

absl::StatusOr<Roi> ParseRoi(std::string_view text) {
  const std::vector<std::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() != 2) return absl::InvalidArgumentError("must be FROM:TO");
  Roi roi;
  TDP_ASSIGN_OR_RETURN(roi.begin, ParseMark(parts[0]));
  TDP_ASSIGN_OR_RETURN(roi.end, ParseMark(parts[1]));
  const bool numbers = roi.begin.has_value() && roi.end.has_value() && !roi.begin->is_address &&
                       !roi.end->is_address;
  if (numbers && roi.end->value <= roi.begin->value) {
    return absl::InvalidArgumentError("TO must be greater than FROM");
  }
  return roi;
}

void AddRegionOptions(OptionParser& parser, ObserveOptions* options) {
  parser.Add("roi", "FROM:TO",
             "replay this part of each trace alone: access numbers, or @ADDRESS for the first "
             "access that touches it",
             RoiText(options->roi), [options](std::string_view text) -> absl::Status {
               TDP_ASSIGN_OR_RETURN(options->roi, ParseRoi(text));
               return absl::OkStatus();
             });
  parser.AddInteger("warmup", "accesses that are made first and counted nowhere", &options->warmup,
                    0, kAny);
}

void AddRecordingOptions(OptionParser& parser, ObserveOptions* options) {
  parser.AddInteger("interval", "accesses from one sample of the counters to the next; 0: none",
                    &options->interval, 0, kAny);
  parser.AddInteger("top-pages", "4 KiB pages to name, those with the most accesses first",
                    &options->top_pages, 0, 1'000'000);
  parser.Add("miss-curve", "", "misses of every size of TLB at once, by page size; an estimate", "",
             [options](std::string_view) {
               if (options->miss_curve == MissCurveMode::kOff) {
                 options->miss_curve = MissCurveMode::kSampled;
               }
               return absl::OkStatus();
             });
  parser.Add("exact-miss-curve", "", "the same from every access, which takes longer", "",
             [options](std::string_view) {
               options->miss_curve = MissCurveMode::kExact;
               return absl::OkStatus();
             });
}

}  // namespace tdp::tools
