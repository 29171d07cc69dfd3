// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest kernel's physical memory comes from this pool: single frames for tables and for data, and
// blocks for large pages. A frame that was a table is not used again before every CPU has dropped
// all translations; a frame changes between table and data only then, so that a forgotten
// invalidation can show wrong data but can never let the CPU take data for a table.

#ifndef TDP_TESTS_KERNEL_FRAME_POOL_H_
#define TDP_TESTS_KERNEL_FRAME_POOL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tdp::kernel {

class FramePool {
 public:
  static constexpr uint64_t kBlockBytes = uint64_t{4} << 20;  // large in every mode

  // Has `tables` and `data` frames from `first` on, and blocks in [`blocks`, `end`).
  FramePool(uint64_t first, uint64_t tables, uint64_t data, uint64_t blocks, uint64_t end);

  // Returns nothing if there is none: then a flush of everything may free some.
  std::optional<uint64_t> AllocateTable();
  void FreeTable(uint64_t gpa) { quarantine_.push_back(gpa); }
  size_t tables_left() const { return tables_.size(); }

  // Return a frame or block with one reference. The others take any `gpa` in it.
  std::optional<uint64_t> AllocateData();
  std::optional<uint64_t> AllocateBlock();
  void Ref(uint64_t gpa, int count = 1) { refs_[KeyOf(gpa)] += count; }
  void Unref(uint64_t gpa);
  int refs(uint64_t gpa) const;

  // Is called when every CPU has dropped all translations. Returns the data frames that are tables
  // from now on; `became_data` gets those that went the other way.
  std::vector<uint64_t> AfterFullFlush(std::vector<uint64_t>& became_data);

 private:
  // Returns the address that stands for the frame or the block.
  uint64_t KeyOf(uint64_t gpa) const {
    return gpa >= blocks_ ? gpa & ~(kBlockBytes - 1) : gpa & ~uint64_t{0xfff};
  }

  const uint64_t blocks_;
  std::deque<uint64_t> tables_;
  std::deque<uint64_t> data_;
  std::vector<uint64_t> free_blocks_;
  std::vector<uint64_t> quarantine_;
  absl::flat_hash_map<uint64_t, int> refs_;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_FRAME_POOL_H_
