// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/trace/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr size_t kMagicBytes = 4;
constexpr char kZstdMagic[kMagicBytes] = {'\x28', '\xb5', '\x2f', '\xfd'};

// A file descriptor whose first bytes can be looked at before they are read.
class FileSource final : public ByteSource {
 public:
  FileSource(std::string name, int fd, uint64_t size)
      : name_(std::move(name)), fd_(fd), size_(size) {}
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) close(fd_);
  }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  // The first bytes of the file; fewer than asked for if it is shorter. Before the first Read.
  absl::StatusOr<absl::Span<const char>> Peek(size_t bytes) {
    peeked_.resize(bytes);
    TDP_ASSIGN_OR_RETURN(size_t got, ReadDescriptor(absl::MakeSpan(peeked_)));
    peeked_.resize(got);
    return absl::MakeConstSpan(peeked_);
  }

  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    const size_t from_peeked = std::min(out.size(), peeked_.size());
    std::copy_n(peeked_.begin(), from_peeked, out.begin());
    peeked_.erase(peeked_.begin(), peeked_.begin() + static_cast<ptrdiff_t>(from_peeked));
    TDP_ASSIGN_OR_RETURN(size_t from_file, ReadDescriptor(out.subspan(from_peeked)));
    offset_ += from_peeked + from_file;
    return from_peeked + from_file;
  }

  const std::string& name() const override { return name_; }
  uint64_t stored_offset() const override { return offset_; }
  uint64_t stored_size() const override { return size_; }

 private:
  absl::StatusOr<size_t> ReadDescriptor(absl::Span<char> out) {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = read(fd_, out.data() + done, out.size() - done);
      if (got == 0) break;
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return absl::UnavailableError(absl::StrCat(name_, ": ", std::strerror(errno)));
      }
      done += static_cast<size_t>(got);
    }
    return done;
  }

  const std::string name_;
  const int fd_;
  const uint64_t size_;
  uint64_t offset_ = 0;
  std::vector<char> peeked_;
};

// The decompressed bytes of one or more zstd frames.
class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(std::unique_ptr<FileSource> file)
      : file_(std::move(file)), stream_(ZSTD_createDStream()), input_(ZSTD_DStreamInSize()) {}
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  ZstdSource(const ZstdSource&) = delete;
  ZstdSource& operator=(const ZstdSource&) = delete;

  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (output.pos < output.size) {
      bool more = true;
      if (pending_.pos == pending_.size) {
        TDP_ASSIGN_OR_RETURN(more, Refill());
      }
      if (!more && !inside_frame_) break;
      // At the end of the file the decompressor may still hold output that found no room before.
      const size_t before = output.pos;
      const size_t result = ZSTD_decompressStream(stream_, &output, &pending_);
      if (ZSTD_isError(result)) return Corrupt(result);
      if (!more && output.pos == before) return Truncated();
      inside_frame_ = result != 0;
    }
    return output.pos;
  }

  const std::string& name() const override { return file_->name(); }
  uint64_t stored_offset() const override {
    return file_->stored_offset() - (pending_.size - pending_.pos);
  }
  uint64_t stored_size() const override { return file_->stored_size(); }

 private:
  absl::StatusOr<bool> Refill() {
    TDP_ASSIGN_OR_RETURN(size_t got, file_->Read(absl::MakeSpan(input_)));
    pending_ = {input_.data(), got, 0};
    return got != 0;
  }

  absl::Status Truncated() const {
    return absl::DataLossError(absl::StrCat(name(), ": truncated: the file ends at byte ",
                                            stored_offset(), " inside a zstd frame"));
  }
  absl::Status Corrupt(size_t result) const {
    return absl::DataLossError(absl::StrCat(name(), ": bad zstd data near byte ", stored_offset(),
                                            ": ", ZSTD_getErrorName(result)));
  }

  const std::unique_ptr<FileSource> file_;
  ZSTD_DStream* const stream_;
  std::vector<char> input_;
  ZSTD_inBuffer pending_ = {nullptr, 0, 0};
  bool inside_frame_ = false;
};

absl::StatusOr<std::unique_ptr<FileSource>> OpenFile(const std::string& path) {
  if (path == "-") return std::make_unique<FileSource>("standard input", STDIN_FILENO, 0);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  }
  struct stat info = {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  return std::make_unique<FileSource>(path, fd, regular ? static_cast<uint64_t>(info.st_size) : 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<FileSource> file, OpenFile(path));
  TDP_ASSIGN_OR_RETURN(absl::Span<const char> magic, file->Peek(kMagicBytes));
  if (magic == absl::MakeConstSpan(kZstdMagic)) {
    return std::unique_ptr<ByteSource>(std::make_unique<ZstdSource>(std::move(file)));
  }
  return std::unique_ptr<ByteSource>(std::move(file));
}

}  // namespace tdp::tools
