// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/frame_pool.h"

#include "tdp/base/check.h"

namespace tdp::kernel {
namespace {

constexpr uint64_t kFrameBytes = 4096;
// So many frames change between table and data at a flush, in each direction.
constexpr int kExchange = 4;

std::optional<uint64_t> TakeFirst(std::deque<uint64_t>& frames) {
  if (frames.empty()) return std::nullopt;
  const uint64_t frame = frames.front();
  frames.pop_front();
  return frame;
}

}  // namespace

FramePool::FramePool(uint64_t first, uint64_t tables, uint64_t data, uint64_t blocks, uint64_t end)
    : blocks_(blocks) {
  for (uint64_t i = 0; i < tables; ++i) tables_.push_back(first + i * kFrameBytes);
  for (uint64_t i = 0; i < data; ++i) data_.push_back(first + (tables + i) * kFrameBytes);
  TDP_CHECK_LE(first + (tables + data) * kFrameBytes, blocks);
  for (uint64_t block = blocks; block < end; block += kBlockBytes) free_blocks_.push_back(block);
}

std::optional<uint64_t> FramePool::AllocateTable() { return TakeFirst(tables_); }

std::optional<uint64_t> FramePool::AllocateData() {
  const std::optional<uint64_t> frame = TakeFirst(data_);
  if (frame.has_value()) refs_[*frame] = 1;
  return frame;
}

std::optional<uint64_t> FramePool::AllocateBlock() {
  if (free_blocks_.empty()) return std::nullopt;
  const uint64_t block = free_blocks_.back();
  free_blocks_.pop_back();
  refs_[block] = 1;
  return block;
}

void FramePool::Unref(uint64_t gpa) {
  const uint64_t key = KeyOf(gpa);
  int& refs = refs_[key];
  TDP_CHECK_LT(0, refs);
  if (--refs > 0) return;
  if (key >= blocks_) {
    free_blocks_.push_back(key);
  } else {
    data_.push_front(key);  // used again soon, so that stale translations matter
  }
}

int FramePool::refs(uint64_t gpa) const {
  const auto found = refs_.find(KeyOf(gpa));
  return found == refs_.end() ? 0 : found->second;
}

std::vector<uint64_t> FramePool::AfterFullFlush(std::vector<uint64_t>& became_data) {
  tables_.insert(tables_.end(), quarantine_.begin(), quarantine_.end());
  quarantine_.clear();
  std::vector<uint64_t> became_tables;
  for (int i = 0; i < kExchange && !tables_.empty() && !data_.empty(); ++i) {
    const uint64_t to_data = *TakeFirst(tables_);
    const uint64_t to_table = *TakeFirst(data_);
    data_.push_back(to_data);
    tables_.push_back(to_table);
    became_data.push_back(to_data);
    became_tables.push_back(to_table);
  }
  return became_tables;
}

}  // namespace tdp::kernel
