// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/trace/binary_trace.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the words of a trace are used as they stand in the file");

constexpr int kCompressionLevel = 9;

class BinaryTraceReader final : public TraceReader {
 public:
  BinaryTraceReader(std::unique_ptr<ByteSource> source, std::string first)
      : source_(std::move(source)), first_(std::move(first)) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    const absl::Span<char> bytes(reinterpret_cast<char*>(records.data()),
                                 records.size() * sizeof(TraceRecord));
    std::memcpy(bytes.data(), first_.data(), first_.size());
    TDP_ASSIGN_OR_RETURN(size_t got, source_->Read(bytes.subspan(first_.size())));
    got += std::exchange(first_, std::string()).size();
    if (got % sizeof(TraceRecord) != 0) return Truncated(got);
    const size_t count = got / sizeof(TraceRecord);
    TDP_RETURN_IF_ERROR(CheckAll(records.first(count)));
    offset_ += got;
    return count;
  }

  const ByteSource& source() const override { return *source_; }

 private:
  absl::Status CheckAll(absl::Span<const TraceRecord> records) const {
    bool valid = true;
    for (TraceRecord record : records) valid &= IsUserRecord(record);
    if (valid) return absl::OkStatus();
    size_t bad = 0;
    while (IsUserRecord(records[bad])) ++bad;
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: byte %d of the trace: unknown record 0x%016x (kind %d, size 2^%d, address 0x%x)",
        source_->name(), offset_ + bad * sizeof(TraceRecord), records[bad].raw(),
        static_cast<int>(records[bad].kind()), records[bad].log2_size(), records[bad].gva().raw()));
  }

  absl::Status Truncated(size_t got) const {
    return absl::DataLossError(absl::StrCat(source_->name(), ": truncated: the trace ends at byte ",
                                            offset_ + got, " inside a record"));
  }

  const std::unique_ptr<ByteSource> source_;
  std::string first_;
  uint64_t offset_ = 0;
};

}  // namespace

std::unique_ptr<TraceReader> MakeBinaryTraceReader(std::unique_ptr<ByteSource> source,
                                                   std::string first) {
  return std::make_unique<BinaryTraceReader>(std::move(source), std::move(first));
}

absl::StatusOr<std::unique_ptr<BinaryTraceWriter>> BinaryTraceWriter::Create(
    const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    return absl::UnavailableError(absl::StrCat("cannot create ", path, ": ", std::strerror(errno)));
  }
  return std::unique_ptr<BinaryTraceWriter>(new BinaryTraceWriter(path, fd));
}

BinaryTraceWriter::BinaryTraceWriter(std::string path, int fd)
    : path_(std::move(path)), fd_(fd), context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()) {
  ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kCompressionLevel);
  ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 1);
}

BinaryTraceWriter::~BinaryTraceWriter() {
  ZSTD_freeCCtx(context_);
  if (fd_ >= 0) close(fd_);
}

absl::Status BinaryTraceWriter::Write(absl::Span<const TraceRecord> records) {
  return Compress(records, /*last=*/false);
}

absl::Status BinaryTraceWriter::Close() {
  TDP_RETURN_IF_ERROR(Compress({}, /*last=*/true));
  if (close(std::exchange(fd_, -1)) != 0) {
    return absl::UnavailableError(absl::StrCat(path_, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status BinaryTraceWriter::Compress(absl::Span<const TraceRecord> records, bool last) {
  ZSTD_inBuffer input = {records.data(), records.size() * sizeof(TraceRecord), 0};
  size_t left = 0;
  do {
    ZSTD_outBuffer output = {buffer_.data(), buffer_.size(), 0};
    left = ZSTD_compressStream2(context_, &output, &input, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) {
      return absl::InternalError(absl::StrCat(path_, ": zstd: ", ZSTD_getErrorName(left)));
    }
    TDP_RETURN_IF_ERROR(WriteDescriptor({buffer_.data(), output.pos}));
  } while (input.pos < input.size || (last && left != 0));
  return absl::OkStatus();
}

absl::Status BinaryTraceWriter::WriteDescriptor(absl::Span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return absl::UnavailableError(absl::StrCat(path_, ": ", std::strerror(errno)));
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

}  // namespace tdp::tools
