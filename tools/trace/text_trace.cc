// SPDX-License-Identifier: Apache-2.0

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
  TextTraceReader(std::unique_ptr<ByteSource> source, std::string first, const char* format,
                  LineParser parse)
      : source_(std::move(source)), format_(format), parse_(parse), text_(std::move(first)) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    while (parsed_.size() - taken_ < records.size() && !at_end_) {
      TDP_RETURN_IF_ERROR(ParseChunk());
    }
    const size_t count = std::min(records.size(), parsed_.size() - taken_);
    std::copy_n(parsed_.begin() + static_cast<ptrdiff_t>(taken_), count, records.begin());
    taken_ += count;
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
      if (!parse_(line, parsed_)) return UnknownLine(line);
      rest.remove_prefix(end + 1);
    }
    if (rest.size() > kMaxLineBytes) {
      ++line_;
      return UnknownLine(rest);
    }
    text_.erase(0, text_.size() - rest.size());
    return absl::OkStatus();
  }

  absl::Status UnknownLine(std::string_view line) const {
    return absl::InvalidArgumentError(absl::StrCat(source_->name(), ":", line_, ": not a ", format_,
                                                   " record: \"",
                                                   absl::CHexEscape(line.substr(0, kQuotedBytes)),
                                                   line.size() > kQuotedBytes ? "...\"" : "\""));
  }

  const std::unique_ptr<ByteSource> source_;
  const char* const format_;
  const LineParser parse_;
  std::string text_;
  std::vector<TraceRecord> parsed_;
  size_t taken_ = 0;  // of parsed_
  uint64_t line_ = 0;
  bool at_end_ = false;
};

}  // namespace

std::unique_ptr<TraceReader> MakeTextTraceReader(std::unique_ptr<ByteSource> source,
                                                 std::string first, const char* format,
                                                 LineParser parse) {
  return std::make_unique<TextTraceReader>(std::move(source), std::move(first), format, parse);
}

bool AppendAccess(AccessKind kind, uint64_t address, uint64_t size,
                  std::vector<TraceRecord>& records) {
  if (size == 0 || size > kPageSize || address >> kUserAddressBits != 0) return false;
  const auto record = TraceRecord::Make(Gva(address), kind, std::bit_width(size - 1));
  if (!IsUserRecord(record)) return false;
  records.push_back(record);
  return true;
}

}  // namespace tdp::tools
