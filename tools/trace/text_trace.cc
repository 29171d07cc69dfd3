// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/text_trace.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 18;
// Longer lines are no trace's; without a bound a binary file would be read whole as one line.
constexpr size_t kMaxLineBytes = 4096;
constexpr size_t kQuotedBytes = 60;

class TextTraceReader final : public TraceReader {
 public:
  TextTraceReader(std::unique_ptr<ByteSource> source, const char* format, LineParser parse,
                  TraceTolerance tolerance)
      : source_(std::move(source)), format_(format), parse_(parse), tolerance_(tolerance) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    while (parsed_.size() - taken_ < records.size() && !at_end_) {
      TDP_RETURN_IF_ERROR(ParseChunk());
    }
    const size_t count = std::min(records.size(), parsed_.size() - taken_);
    std::copy_n(parsed_.begin() + static_cast<ptrdiff_t>(taken_), count, records.begin());
    taken_ += count;
    accesses_ += count;
    // A file of another format altogether: its first line says what was wrong with it.
    if (count == 0 && accesses_ == 0 && !first_refusal_.ok()) return first_refusal_;
    return count;
  }

  const ByteSource& source() const override { return *source_; }

 private:
  absl::Status ParseChunk() {
    parsed_.erase(parsed_.begin(), parsed_.begin() + static_cast<ptrdiff_t>(taken_));
    taken_ = 0;
    const size_t kept = text_.size();
    text_.resize(kept + kChunkBytes);
    TDP_ASSIGN_OR_RETURN(size_t got,
                         source_->Read(absl::MakeSpan(text_).subspan(kept, kChunkBytes)));
    text_.resize(kept + got);
    at_end_ = got < kChunkBytes;
    if (at_end_ && !text_.empty() && text_.back() != '\n') text_.push_back('\n');
    return ParseLines();
  }

  // Parses the whole lines of `text_` and leaves the rest in it.
  absl::Status ParseLines() {
    std::string_view rest = text_;
    for (size_t end; (end = rest.find('\n')) != std::string_view::npos;) {
      ++line_;
      std::string_view line = rest.substr(0, end);
      if (line.ends_with('\r')) line.remove_suffix(1);
      const LineResult result = Parse(line);
      if (result != LineResult::kTaken) TDP_RETURN_IF_ERROR(LeaveOut(result, line));
      rest.remove_prefix(end + 1);
    }
    if (rest.size() > kMaxLineBytes) {
      ++line_;
      return Refusal(LineResult::kForeign, rest);
    }
    text_.erase(0, text_.size() - rest.size());
    return absl::OkStatus();
  }

  // A line whose accesses the tables cannot reach gives none.
  LineResult Parse(std::string_view line) {
    const size_t before = parsed_.size();
    const LineResult result = parse_(line, parsed_);
    for (size_t i = before; i < parsed_.size(); ++i) {
      if (IsUserRecord(parsed_[i], tolerance_.address_bits)) continue;
      parsed_.resize(before);
      return LineResult::kBadAddress;
    }
    return result;
  }

  // Counts a line that gave no access, or refuses it.
  absl::Status LeaveOut(LineResult result, std::string_view line) {
    ++CountOf(result);
    if (result == LineResult::kNoAccess) return absl::OkStatus();
    if (first_refusal_.ok()) first_refusal_ = Refusal(result, line);
    if (!tolerance_.strict) return CheckProportion();
    if (result == LineResult::kKernelAddress && tolerance_.skip_kernel) return absl::OkStatus();
    return Refusal(result, line);
  }

  uint64_t& CountOf(LineResult result) {
    switch (result) {
      case LineResult::kKernelAddress:
        return skipped_.kernel;
      case LineResult::kBadAddress:
        return skipped_.bad_address;
      case LineResult::kBadSize:
        return skipped_.bad_size;
      case LineResult::kNoAccess:
        return skipped_.no_access;
      default:
        return skipped_.foreign;
    }
  }

  // A log has a foreign line here and there; a file of another format has little else.
  absl::Status CheckProportion() const {
    constexpr uint64_t kForeignAtFirst = 1000;
    const bool odd = skipped_.foreign > kForeignAtFirst && skipped_.foreign > line_ / 2;
    return odd ? first_refusal_ : absl::OkStatus();
  }

  absl::Status Refusal(LineResult result, std::string_view line) const {
    const std::string what =
        result == LineResult::kForeign         ? absl::StrCat("not a ", format_, " record")
        : result == LineResult::kKernelAddress ? "a kernel address, which --skip-kernel leaves out"
        : result == LineResult::kBadAddress
            ? absl::StrCat("no user address of ", tolerance_.address_bits, " bits")
            : "an access to no byte, or to more than 4096";
    return absl::InvalidArgumentError(absl::StrCat(source_->name(), ":", line_, ": ", what, ": \"",
                                                   absl::CHexEscape(line.substr(0, kQuotedBytes)),
                                                   line.size() > kQuotedBytes ? "...\"" : "\""));
  }

  const std::unique_ptr<ByteSource> source_;
  const char* const format_;
  const LineParser parse_;
  const TraceTolerance tolerance_;
  absl::Status first_refusal_;  // of what was left out
  uint64_t accesses_ = 0;
  std::string text_;
  std::vector<TraceRecord> parsed_;
  size_t taken_ = 0;  // of parsed_
  uint64_t line_ = 0;
  bool at_end_ = false;
};

}  // namespace

std::unique_ptr<TraceReader> MakeTextTraceReader(std::unique_ptr<ByteSource> source,
                                                 const char* format, LineParser parse,
                                                 TraceTolerance tolerance) {
  return std::make_unique<TextTraceReader>(std::move(source), format, parse, tolerance);
}

LineResult AppendAccess(AccessKind kind, uint64_t address, uint64_t size,
                        std::vector<TraceRecord>& records) {
  if (size == 0 || size > kPageSize) return LineResult::kBadSize;
  if (IsKernelAddress(address)) return LineResult::kKernelAddress;
  if (address >> kMostUserAddressBits != 0) return LineResult::kBadAddress;
  const auto record = TraceRecord::Make(Gva(address), kind, std::bit_width(size - 1));
  if (!IsUserRecord(record, kMostUserAddressBits)) return LineResult::kBadAddress;
  records.push_back(record);
  return LineResult::kTaken;
}

}  // namespace tdp::tools
