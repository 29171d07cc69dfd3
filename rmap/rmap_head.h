// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// All entries that map one guest frame, or all that point to one table: one word (KVM's struct
// kvm_rmap_head).

#ifndef TDP_RMAP_RMAP_HEAD_H_
#define TDP_RMAP_RMAP_HEAD_H_

#include <cstdint>

namespace tdp {

// Empty (0), one entry (its address), or a chain of descriptors (its address with bit 0 set).
// `RmapList` gives the word its meaning.
class RmapHead {
 public:
  constexpr RmapHead() = default;

  static RmapHead Single(uint64_t* entry) { return RmapHead(reinterpret_cast<uintptr_t>(entry)); }
  static RmapHead Chain(void* descriptor) {
    return RmapHead(reinterpret_cast<uintptr_t>(descriptor) | kChainTag);
  }

  constexpr bool is_empty() const { return word_ == 0; }
  constexpr bool is_chain() const { return (word_ & kChainTag) != 0; }
  constexpr bool is_single() const { return word_ != 0 && !is_chain(); }
  // Returns the one entry of a head that `is_single()`.
  uint64_t* single() const { return reinterpret_cast<uint64_t*>(word_); }
  // Returns the first descriptor of a head that `is_chain()`.
  void* chain() const { return reinterpret_cast<void*>(word_ & ~kChainTag); }

 private:
  static constexpr uintptr_t kChainTag = 1;
  constexpr explicit RmapHead(uintptr_t word) : word_(word) {}

  uintptr_t word_ = 0;
};

static_assert(sizeof(RmapHead) == sizeof(uint64_t));

}  // namespace tdp

#endif  // TDP_RMAP_RMAP_HEAD_H_
