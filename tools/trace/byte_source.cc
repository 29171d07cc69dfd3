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

// Bytes as they are stored, the first of which can be looked at before they are read.
class StoredSource : public ByteSource {
 public:
  StoredSource(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}

  // The first bytes of the file; fewer than asked for if it is shorter. Before the first Read.
  absl::StatusOr<absl::Span<const char>> Peek(size_t bytes) {
    peeked_.resize(bytes);
    TDP_ASSIGN_OR_RETURN(size_t got, Fetch(absl::MakeSpan(peeked_)));
    peeked_.resize(got);
    return absl::MakeConstSpan(peeked_);
  }

  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    const size_t from_peeked = std::min(out.size(), peeked_.size());
    std::copy_n(peeked_.begin(), from_peeked, out.begin());
    peeked_.erase(peeked_.begin(), peeked_.begin() + static_cast<ptrdiff_t>(from_peeked));
    TDP_ASSIGN_OR_RETURN(size_t fetched, Fetch(out.subspan(from_peeked)));
    offset_ += from_peeked + fetched;
    return from_peeked + fetched;
  }

  const std::string& name() const override { return name_; }
  uint64_t stored_offset() const override { return offset_; }
  uint64_t stored_size() const override { return size_; }

 protected:
  // As `Read`, straight from where the bytes are.
  virtual absl::StatusOr<size_t> Fetch(absl::Span<char> out) = 0;

 private:
  const std::string name_;
  const uint64_t size_;
  uint64_t offset_ = 0;
  std::vector<char> peeked_;
};

class FileSource final : public StoredSource {
 public:
  FileSource(std::string name, int fd, uint64_t size)
      : StoredSource(std::move(name), size), fd_(fd) {}
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) close(fd_);
  }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

 private:
  absl::StatusOr<size_t> Fetch(absl::Span<char> out) override {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = read(fd_, out.data() + done, out.size() - done);
      if (got == 0) break;
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return absl::UnavailableError(absl::StrCat(name(), ": ", std::strerror(errno)));
      }
      done += static_cast<size_t>(got);
    }
    return done;
  }

  const int fd_;
};

class MemorySource final : public StoredSource {
 public:
  MemorySource(std::string name, absl::Span<const char> bytes)
      : StoredSource(std::move(name), bytes.size()), rest_(bytes) {}

 private:
  absl::StatusOr<size_t> Fetch(absl::Span<char> out) override {
    const size_t count = std::min(out.size(), rest_.size());
    std::copy_n(rest_.begin(), count, out.begin());
    rest_.remove_prefix(count);
    return count;
  }

  absl::Span<const char> rest_;
};

// The decompressed bytes of one or more zstd frames.
class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(std::unique_ptr<StoredSource> stored)
      : stored_(std::move(stored)), stream_(ZSTD_createDStream()), input_(ZSTD_DStreamInSize()) {}
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

  const std::string& name() const override { return stored_->name(); }
  uint64_t stored_offset() const override {
    return stored_->stored_offset() - (pending_.size - pending_.pos);
  }
  uint64_t stored_size() const override { return stored_->stored_size(); }

 private:
  absl::StatusOr<bool> Refill() {
    TDP_ASSIGN_OR_RETURN(size_t got, stored_->Read(absl::MakeSpan(input_)));
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

  const std::unique_ptr<StoredSource> stored_;
  ZSTD_DStream* const stream_;
  std::vector<char> input_;
  ZSTD_inBuffer pending_ = {nullptr, 0, 0};
  bool inside_frame_ = false;
};

// Looks through compression.
absl::StatusOr<std::unique_ptr<ByteSource>> Unpack(std::unique_ptr<StoredSource> stored) {
  TDP_ASSIGN_OR_RETURN(absl::Span<const char> magic, stored->Peek(kMagicBytes));
  if (magic == absl::MakeConstSpan(kZstdMagic)) {
    return std::unique_ptr<ByteSource>(std::make_unique<ZstdSource>(std::move(stored)));
  }
  return std::unique_ptr<ByteSource>(std::move(stored));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path) {
  if (path == "-") return Unpack(std::make_unique<FileSource>("standard input", STDIN_FILENO, 0));
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  }
  struct stat info = {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  return Unpack(
      std::make_unique<FileSource>(path, fd, regular ? static_cast<uint64_t>(info.st_size) : 0));
}

absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(std::string name,
                                                      absl::Span<const char> bytes) {
  return Unpack(std::make_unique<MemorySource>(std::move(name), bytes));
}

}  // namespace tdp::tools
