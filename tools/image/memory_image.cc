// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image/memory_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/image/elf_core.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

bool IsCompressed(std::string_view head) {
  using namespace std::string_view_literals;
  return head.starts_with("\x28\xb5\x2f\xfd"sv) || head.starts_with("\x1f\x8b"sv) ||
         head.starts_with(
             "\xfd"
             "7zXZ\0"sv);
}

// Kinds of files that look like memory and are not, with what to do.
absl::Status RefuseOthers(std::string_view head) {
  static constexpr std::pair<std::string_view, const char*> kOthers[] = {
      {"KDUMP   ",
       "a compressed kdump file; dump without -z, -l or -s, or turn it into ELF with "
       "makedumpfile -E"},
      {"QEVM", "a QEMU migration stream, not memory; use dump-guest-memory"},
      {"QFI\xfb", "a qcow2 disk image, not memory"},
      {"LiME", "a LiME file; only raw images and ELF cores are read"},
      {"EMiL", "a LiME file; only raw images and ELF cores are read"},
      {"PAGEDU", "a Windows crash dump; only raw images and ELF cores are read"}};
  for (const auto& [magic, what] : kOthers) {
    if (head.starts_with(magic)) return absl::InvalidArgumentError(what);
  }
  return absl::OkStatus();
}

// Sorted, with what overlaps taken from the first: a dump by virtual addresses has a page as often
// as it is mapped.
std::vector<MemoryImage::Segment> Disjoint(std::vector<MemoryImage::Segment> all) {
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.address < b.address; });
  std::vector<MemoryImage::Segment> disjoint;
  for (MemoryImage::Segment& segment : all) {
    const uint64_t end = disjoint.empty() ? 0 : disjoint.back().end();
    if (segment.end() <= end) continue;
    if (segment.address < end) {
      segment.bytes.remove_prefix(end - segment.address);
      segment.address = end;
    }
    disjoint.push_back(segment);
  }
  return disjoint;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryImage>> MemoryImage::Open(const std::string& path,
                                                               uint64_t base) {
  std::unique_ptr<MemoryImage> image(new MemoryImage(path));
  absl::Status status = image->MapFile();
  if (status.ok()) status = image->Decompress();
  if (status.ok()) status = image->ReadFormat(base);
  if (status.ok()) return image;
  // Errors of compressed files name them already.
  if (status.message().starts_with(path)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

MemoryImage::~MemoryImage() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_size_);
  if (fd_ >= 0) close(fd_);
}

absl::Status MemoryImage::MapFile() {
  fd_ = open(name_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) return absl::NotFoundError(std::strerror(errno));
  struct stat info;
  if (fstat(fd_, &info) != 0) return absl::UnavailableError(std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("not a regular file");
  if (info.st_size == 0) return absl::InvalidArgumentError("the file is empty");
  mapped_size_ = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, mapped_size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (mapped == MAP_FAILED) return absl::UnavailableError(std::strerror(errno));
  mapped_ = mapped;
  bytes_ = absl::MakeConstSpan(static_cast<const char*>(mapped_), mapped_size_);
  return absl::OkStatus();
}

absl::Status MemoryImage::Decompress() {
  if (!IsCompressed({bytes_.data(), std::min<size_t>(bytes_.size(), 16)})) return absl::OkStatus();
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenByteSource(name_));
  TDP_ASSIGN_OR_RETURN(decompressed_, ReadAll(*source));
  bytes_ = decompressed_;
  return absl::OkStatus();
}

absl::Status MemoryImage::ReadFormat(uint64_t base) {
  TDP_RETURN_IF_ERROR(RefuseOthers({bytes_.data(), std::min<size_t>(bytes_.size(), 16)}));
  is_elf_ = IsElf(bytes_);
  if (!is_elf_) {
    if (base + bytes_.size() < base) {
      return absl::InvalidArgumentError("with --base it reaches over the end of memory");
    }
    segments_ = {{base, bytes_}};
    return absl::OkStatus();
  }
  TDP_ASSIGN_OR_RETURN(ElfCore core, ReadElfCore(bytes_));
  segments_ = Disjoint(std::move(core.segments));
  cpus_ = std::move(core.cpus);
  return absl::OkStatus();
}

const char* MemoryImage::At(uint64_t address, size_t size) const {
  auto next =
      std::upper_bound(segments_.begin(), segments_.end(), address,
                       [](uint64_t a, const Segment& segment) { return a < segment.address; });
  if (next == segments_.begin()) return nullptr;
  const Segment& segment = *--next;
  const uint64_t offset = address - segment.address;
  if (offset >= segment.bytes.size() || size > segment.bytes.size() - offset) return nullptr;
  return segment.bytes.data() + offset;
}

std::optional<uint64_t> MemoryImage::Load(uint64_t address, unsigned size) const {
  const char* at = At(address, size);
  if (at == nullptr) return std::nullopt;
  uint64_t value = 0;
  std::memcpy(&value, at, size);
  return value;
}

}  // namespace tdp::tools
