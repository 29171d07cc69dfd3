// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Memory of freestanding programs: pieces of powers of two, cut from a range and used again.

#ifndef TDP_BACKENDS_VTX_BOOT_BARE_HEAP_H_
#define TDP_BACKENDS_VTX_BOOT_BARE_HEAP_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "tdp/base/spin_lock.h"

namespace tdp::vtx {

// Gives memory to any processor.
class BareHeap {
 public:
  constexpr BareHeap() = default;

  // Once, before anything else: hands out [start, end), at most `kMostBytes` of it.
  void Init(uintptr_t start, uintptr_t end);

  // `bytes` aligned to `alignment`, a power of two; null if there is no room.
  void* Take(size_t bytes, size_t alignment);
  // Takes back what `Take` returned.
  void Return(void* memory);
  // Like `Take`, of memory that has not been in use before, and for good.
  void* TakeFresh(size_t bytes, size_t alignment);

  static constexpr size_t kMostBytes = size_t{512} << 20;

 private:
  struct Piece {
    Piece* next;
  };
  // Pieces below the size of a chunk share one with their like.
  static constexpr size_t kChunkOrder = 16;
  static constexpr size_t kChunkBytes = size_t{1} << kChunkOrder;

  void* Cut(size_t bytes, size_t alignment);
  bool Fill(size_t order, size_t alignment);
  uint8_t& OrderOf(const void* memory) {
    return orders_[(reinterpret_cast<uintptr_t>(memory) - start_) >> kChunkOrder];
  }

  SpinLock lock_;
  uintptr_t start_ = 0;
  uintptr_t fresh_ = 0;  // what lies beyond has not been in use
  uintptr_t end_ = 0;
  std::array<Piece*, 48> free_ = {};                           // by the power of two
  std::array<uint8_t, kMostBytes / kChunkBytes> orders_ = {};  // of the pieces in each chunk
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_BOOT_BARE_HEAP_H_
