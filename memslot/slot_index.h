// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Slots by their ids.

#ifndef TDP_MEMSLOT_SLOT_INDEX_H_
#define TDP_MEMSLOT_SLOT_INDEX_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

// Holds the slots of one address space in an array of chunks, which come with the first id in each
// and stay: ids are used again. One thread at a time uses it.
class SlotIndex {
 public:
  // One slot. There is none where `state` is null.
  struct Entry {
    MemorySlot slot;
    std::unique_ptr<SlotState> state;
  };

  const Entry* Find(uint32_t id) const {
    const size_t chunk = id / kChunk;
    if (chunk >= chunks_.size() || chunks_[chunk] == nullptr) return nullptr;
    const Entry& entry = (*chunks_[chunk])[id % kChunk];
    return entry.state == nullptr ? nullptr : &entry;
  }

  // Makes `At(id)` succeed. Returns false if there is no memory.
  bool Reserve(uint32_t id) {
    const size_t chunk = id / kChunk;
    if (chunk >= chunks_.size()) chunks_.resize(chunk + 1);
    if (chunks_[chunk] == nullptr) chunks_[chunk].reset(new (std::nothrow) Chunk());
    return chunks_[chunk] != nullptr;
  }

  // Returns the place of an id that is there or was reserved.
  Entry& At(uint32_t id) { return (*chunks_[id / kChunk])[id % kChunk]; }

  // Calls `visit(entry)` for each slot, by ascending ids.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const std::unique_ptr<Chunk>& chunk : chunks_) {
      if (chunk == nullptr) continue;
      for (const Entry& entry : *chunk) {
        if (entry.state != nullptr) visit(entry);
      }
    }
  }

  // Returns memory in use, this object left out.
  size_t bytes() const {
    size_t bytes = chunks_.capacity() * sizeof(chunks_[0]);
    for (const std::unique_ptr<Chunk>& chunk : chunks_) {
      if (chunk != nullptr) bytes += sizeof(Chunk);
    }
    return bytes;
  }

 private:
  static constexpr size_t kChunk = 64;
  using Chunk = std::array<Entry, kChunk>;

  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_INDEX_H_
