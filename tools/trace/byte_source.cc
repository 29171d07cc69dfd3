// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/codec.h"

namespace tdp::tools {
namespace {

// Bytes as they are stored, the first of which can be looked at before they are read.
class StoredSource : public ByteSource {
 public:
  StoredSource(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}

  // Returns the first bytes of the file; fewer than asked for if it is shorter. Before the first
  // Read.
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
  // Does what `Read` does, straight from where the bytes are.
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

// The bytes of a compressed file, unpacked.
class PackedSource final : public ByteSource {
 public:
  PackedSource(std::unique_ptr<StoredSource> stored, std::unique_ptr<Codec> codec, bool cut_short)
      : stored_(std::move(stored)),
        codec_(std::move(codec)),
        input_(kInputBytes),
        cut_short_(cut_short) {}

  absl::StatusOr<size_t> Read(absl::Span<char> out) override {
    size_t done = 0;
    while (done < out.size()) {
      bool more = true;
      if (pending_.empty()) {
        TDP_ASSIGN_OR_RETURN(more, Refill());
      }
      if (!more && !inside_) break;
      // At the end of the file the codec may still hold output that found no room before.
      const Codec::Step step = codec_->Decode(pending_, out.subspan(done), !more);
      if (step.error != nullptr) return Corrupt(step.error);
      pending_.remove_prefix(step.consumed);
      done += step.produced;
      inside_ = step.inside;
      if (!more && inside_ && step.produced == 0) {
        if (cut_short_) break;
        return Truncated();
      }
    }
    return done;
  }

  const std::string& name() const override { return stored_->name(); }
  uint64_t stored_offset() const override { return stored_->stored_offset() - pending_.size(); }
  uint64_t stored_size() const override { return stored_->stored_size(); }

 private:
  static constexpr size_t kInputBytes = size_t{1} << 17;

  absl::StatusOr<bool> Refill() {
    TDP_ASSIGN_OR_RETURN(size_t got, stored_->Read(absl::MakeSpan(input_)));
    pending_ = absl::MakeConstSpan(input_).first(got);
    return got != 0;
  }

  absl::Status Truncated() const {
    return absl::DataLossError(absl::StrCat(name(), ": truncated: the file ends at byte ",
                                            stored_offset(), " inside its ", codec_->name(),
                                            " data"));
  }
  absl::Status Corrupt(const char* error) const {
    return absl::DataLossError(absl::StrCat(name(), ": bad ", codec_->name(), " data near byte ",
                                            stored_offset(), ": ", error));
  }

  const std::unique_ptr<StoredSource> stored_;
  const std::unique_ptr<Codec> codec_;
  std::vector<char> input_;
  absl::Span<const char> pending_;
  bool inside_ = true;
  const bool cut_short_;
};

// Looks through compression, and names what is no trace by its first bytes.
absl::StatusOr<std::unique_ptr<ByteSource>> Unpack(std::unique_ptr<StoredSource> stored,
                                                   bool cut_short = false) {
  TDP_ASSIGN_OR_RETURN(absl::Span<const char> first, stored->Peek(kMagicBytes));
  const std::string_view magic(first.data(), first.size());
  if (const std::string_view name = NameOfMagic(magic); !name.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: this is %s", stored->name(), name));
  }
  if (std::unique_ptr<Codec> codec = MakeCodec(magic)) {
    return std::unique_ptr<ByteSource>(
        std::make_unique<PackedSource>(std::move(stored), std::move(codec), cut_short));
  }
  return std::unique_ptr<ByteSource>(std::move(stored));
}

}  // namespace

PeekableSource::PeekableSource(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}

absl::StatusOr<std::string_view> PeekableSource::Peek(size_t bytes) {
  peeked_.resize(bytes);
  TDP_ASSIGN_OR_RETURN(size_t got, source_->Read(absl::MakeSpan(peeked_)));
  peeked_.resize(got);
  return peeked_;
}

absl::StatusOr<size_t> PeekableSource::Read(absl::Span<char> out) {
  const size_t from_peeked = std::min(out.size(), peeked_.size() - taken_);
  std::copy_n(peeked_.begin() + static_cast<ptrdiff_t>(taken_), from_peeked, out.begin());
  taken_ += from_peeked;
  if (from_peeked == out.size()) return from_peeked;
  TDP_ASSIGN_OR_RETURN(size_t read, source_->Read(out.subspan(from_peeked)));
  return from_peeked + read;
}

absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path,
                                                           bool cut_short) {
  if (path == "-") {
    return Unpack(std::make_unique<FileSource>("standard input", STDIN_FILENO, 0), cut_short);
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  }
  struct stat info = {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  return Unpack(
      std::make_unique<FileSource>(path, fd, regular ? static_cast<uint64_t>(info.st_size) : 0),
      cut_short);
}

absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(std::string name,
                                                      absl::Span<const char> bytes) {
  return Unpack(std::make_unique<MemorySource>(std::move(name), bytes));
}

absl::StatusOr<std::string> ReadAll(ByteSource& source) {
  constexpr size_t kChunk = size_t{1} << 20;
  std::string bytes;
  for (;;) {
    const size_t had = bytes.size();
    bytes.resize(had + kChunk);
    TDP_ASSIGN_OR_RETURN(const size_t got, source.Read(absl::MakeSpan(bytes).subspan(had)));
    bytes.resize(had + got);
    if (got < kChunk) return bytes;
  }
}

}  // namespace tdp::tools
