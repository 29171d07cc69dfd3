// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This physical memory has a few pages at any addresses, as a recorded walk needs it. It notes
// which paging-structure entries the walk writes.

#ifndef TDP_TESTS_ORACLES_SPARSE_MEMORY_H_
#define TDP_TESTS_ORACLES_SPARSE_MEMORY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "tdp/backends/sim/physical_memory.h"

namespace tdp::oracles {

class SparseMemory : public sim::FrameProvider {
 public:
  // Every frame exists: one that was never written reads as zeroes.
  std::byte* Frame(Hpa frame) override {
    std::unique_ptr<Page>& page = pages_[frame.raw()];
    if (page == nullptr) page = std::make_unique<Page>();
    return page->bytes;
  }

  void OnEntryWrite(Hpa entry, uint64_t value) override { writes_[entry.raw()] = value; }

  sim::PhysicalMemory physical() { return sim::PhysicalMemory(nullptr, 0, this); }

  // Takes the entries written since the last call, with their last values, by address.
  std::map<uint64_t, uint64_t> TakeWrites() { return std::exchange(writes_, {}); }

  void Clear() {
    pages_.clear();
    writes_.clear();
  }

 private:
  struct alignas(64) Page {
    std::byte bytes[kPageSize] = {};
  };
  absl::flat_hash_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::map<uint64_t, uint64_t> writes_;
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_SPARSE_MEMORY_H_
