// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The nodes of the interval trees behind a `SlotSet`, and the pool that they come from.

#ifndef TDP_MEMSLOT_INTERVAL_NODE_H_
#define TDP_MEMSLOT_INTERVAL_NODE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tdp/base/sync.h"

namespace tdp::internal {

// One node: 64 words, every one an atomic, because a reader may still look at a node that the
// writer has taken back and fills again (docs/locking_slots.md). Loads acquire and stores release,
// plain moves on x86.
struct alignas(64) IntervalNode {
  static constexpr size_t kWords = 64;

  uint64_t Load(size_t word) const { return words[word].load(std::memory_order_acquire); }
  void Store(size_t word, uint64_t value) { words[word].store(value, std::memory_order_release); }

  std::array<Atomic<uint64_t>, kWords> words;
};

// Holds the memory of nodes. It grows in slabs and gives nothing back before it dies: a reader may
// follow a pointer to a node that is free by now and find memory there. Its size is the largest
// number of nodes that were ever in use at once.
//
// One thread at a time uses it.
class IntervalNodePool {
 public:
  IntervalNodePool() = default;
  IntervalNodePool(const IntervalNodePool&) = delete;
  IntervalNodePool& operator=(const IntervalNodePool&) = delete;

  // Makes the next `count` calls of `Take` succeed. Returns false, with nothing changed that
  // matters, if there is no memory.
  bool Reserve(int count);

  // Returns a node with unspecified contents, out of a reservation.
  IntervalNode* Take();

  void Give(IntervalNode* node) { free_.push_back(node); }

  size_t nodes() const { return slabs_.size() * kNodesPerSlab; }
  size_t free_nodes() const { return free_.size(); }

 private:
  static constexpr size_t kNodesPerSlab = 64;
  using Slab = std::array<IntervalNode, kNodesPerSlab>;

  bool AddSlab();

  std::vector<std::unique_ptr<Slab>> slabs_;
  // It has capacity for every node there is, so that `Give` never allocates.
  std::vector<IntervalNode*> free_;
};

}  // namespace tdp::internal

#endif  // TDP_MEMSLOT_INTERVAL_NODE_H_
