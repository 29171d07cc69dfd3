// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One link of a chain of pointers to entries (KVM's struct pte_list_desc).

#ifndef TDP_RMAP_RMAP_DESCRIPTOR_H_
#define TDP_RMAP_RMAP_DESCRIPTOR_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tdp/base/check.h"
#include "tdp/base/index.h"

namespace tdp {

// Points to where in a descriptor an entry's pointer stands: an entry that knows its place is
// removed without a search.
using RmapPlace = uint64_t**;

namespace internal {
// A variable, because g++ 11 takes no call in the `alignas` of a template.
template <int kN>
inline constexpr size_t kRmapDescriptorBytes = std::bit_ceil((AsIndex(kN) + 1) * sizeof(uint64_t));
}  // namespace internal

// Up to `kN` pointers to entries. Aligned to its size, a power of two, so that the low bits of the
// link are free for the number of pointers in use, and a place leads back to its descriptor.
template <int kN>
class alignas(internal::kRmapDescriptorBytes<kN>) RmapDescriptor {
 public:
  static constexpr int kCapacity = kN;

  explicit RmapDescriptor(RmapDescriptor* next) : link_(reinterpret_cast<uintptr_t>(next)) {}

  // Returns the descriptor in which `place` lies.
  static RmapDescriptor* Of(RmapPlace place) {
    return reinterpret_cast<RmapDescriptor*>(reinterpret_cast<uintptr_t>(place) & ~kCountMask);
  }

  RmapDescriptor* next() const { return reinterpret_cast<RmapDescriptor*>(link_ & ~kCountMask); }
  int count() const { return static_cast<int>(link_ & kCountMask); }
  bool is_full() const { return count() == kN; }
  uint64_t* entry(int i) const { return entries_[i]; }
  uint64_t* last() const { return entries_[count() - 1]; }

  // Appends `entry` to a descriptor that has room; returns its place.
  RmapPlace Append(uint64_t* entry) {
    TDP_DCHECK(!is_full());
    RmapPlace place = &entries_[count()];
    *place = entry;
    ++link_;
    return place;
  }
  // Drops the last entry of a descriptor that has one.
  void DropLast() {
    TDP_DCHECK(count() > 0);
    --link_;
  }

 private:
  static constexpr uintptr_t kCountMask = internal::kRmapDescriptorBytes<kN> - 1;
  static_assert(kN >= 2 && kN <= static_cast<int>(kCountMask));

  uintptr_t link_;  // the next descriptor | number of pointers in use
  uint64_t* entries_[AsIndex(kN)];
};

// 7 pointers and a link are one cache line. Most frames that are mapped more than once are mapped
// two or three times, and nothing searches a chain, so a larger descriptor only wastes cache:
// benchmarks/rmap_benchmark.cc compares the sizes.
inline constexpr int kRmapDescriptorEntries = 7;

static_assert(sizeof(RmapDescriptor<3>) == 32);
static_assert(sizeof(RmapDescriptor<7>) == 64);
static_assert(sizeof(RmapDescriptor<14>) == 128);
static_assert(sizeof(RmapDescriptor<15>) == 128);

}  // namespace tdp

#endif  // TDP_RMAP_RMAP_DESCRIPTOR_H_
