// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The physical memory of a machine as a file: its bytes as they are, or an ELF core whose segments
// have physical addresses, which is what QEMU's `dump-guest-memory` and vmcore files are.

#ifndef TDP_TOOLS_IMAGE_MEMORY_IMAGE_H_
#define TDP_TOOLS_IMAGE_MEMORY_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

class MemoryImage {
 public:
  // A piece of memory that the file has.
  struct Segment {
    uint64_t address = 0;  // physical
    absl::Span<const char> bytes;
    uint64_t end() const { return address + bytes.size(); }
  };
  // Holds what QEMU notes of a CPU beside the memory.
  struct CpuRegisters {
    uint64_t cr0 = 0;
    uint64_t cr3 = 0;
    uint64_t cr4 = 0;
  };

  // Opens a regular file, plain or compressed with zstd, gzip or xz; a raw image begins at physical
  // address `base`. InvalidArgument or DataLoss, naming the file and the place in it, for what is
  // no image; NotFound and Unavailable as the system says.
  static absl::StatusOr<std::unique_ptr<MemoryImage>> Open(const std::string& path, uint64_t base);
  ~MemoryImage();
  MemoryImage(const MemoryImage&) = delete;
  MemoryImage& operator=(const MemoryImage&) = delete;

  const std::string& name() const { return name_; }
  // "raw image" or "ELF core".
  const char* format() const { return is_elf_ ? "ELF core" : "raw image"; }
  // By address; they do not overlap.
  absl::Span<const Segment> segments() const { return segments_; }
  // Empty if the file says nothing of them.
  absl::Span<const CpuRegisters> cpus() const { return cpus_; }

  // Returns the `size` bytes (1 to 4096) at `address`, which do not cross a page; null if the file
  // does not have them.
  const char* At(uint64_t address, size_t size) const;
  // Returns the 8 or 4 bytes there, little-endian.
  std::optional<uint64_t> Load(uint64_t address, unsigned size = 8) const;

 private:
  explicit MemoryImage(std::string name) : name_(std::move(name)) {}
  absl::Status MapFile();
  absl::Status Decompress();
  absl::Status ReadFormat(uint64_t base);

  const std::string name_;
  int fd_ = -1;
  void* mapped_ = nullptr;
  size_t mapped_size_ = 0;
  std::string decompressed_;
  absl::Span<const char> bytes_;
  bool is_elf_ = false;
  std::vector<Segment> segments_;
  std::vector<CpuRegisters> cpus_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_MEMORY_IMAGE_H_
