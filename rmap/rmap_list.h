// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Does what is done with an `RmapHead` (KVM's pte_list_add, pte_list_remove, for_each_rmap_spte).
//
// A chain's first descriptor is the only one that may have room: entries are added there, and a
// hole anywhere is filled with its last entry. No operation but iteration touches more than two
// descriptors, however long the chain.

#ifndef TDP_RMAP_RMAP_LIST_H_
#define TDP_RMAP_RMAP_LIST_H_

#include <cstddef>
#include <cstdint>
#include <new>

#include "absl/base/optimization.h"
#include "tdp/base/check.h"
#include "tdp/rmap/descriptor_pool.h"
#include "tdp/rmap/rmap_descriptor.h"
#include "tdp/rmap/rmap_head.h"

namespace tdp {

// `Places` says where entries keep their places: `places(entry)` is an `RmapPlace&` that belongs to
// `entry` alone. It is asked for only while the entry is in a chain, so a frame that is mapped once
// costs its head and nothing else.
//
// Invariants: a chain holds two entries or more; all its descriptors but the first are full; each
// entry in it is at its place; none is there twice.
//
// Not thread-safe: who holds the head's lock uses it.
template <typename Places, int kN = kRmapDescriptorEntries>
class RmapList {
 public:
  using Descriptor = RmapDescriptor<kN>;

  // The most descriptors that one `Add` takes from the cache.
  static constexpr int kDescriptorsPerAdd = 1;

  // Adds `entry`, 8-byte aligned, which is not there. The cache holds `kDescriptorsPerAdd`.
  static void Add(RmapHead& head, uint64_t* entry, const Places& places, DescriptorCache& cache) {
    if (head.is_empty()) {
      head = RmapHead::Single(entry);
      return;
    }
    Descriptor* first;
    if (head.is_single()) {
      first = new (cache.Pop()) Descriptor(nullptr);
      Append(first, head.single(), places);
      head = RmapHead::Chain(first);
    } else if (first = First(head); ABSL_PREDICT_FALSE(first->is_full())) {
      first = new (cache.Pop()) Descriptor(first);
      head = RmapHead::Chain(first);
    }
    Append(first, entry, places);
  }

  // Removes `entry`, which is there. Constant time.
  static void Remove(RmapHead& head, uint64_t* entry, const Places& places,
                     DescriptorCache& cache) {
    if (!head.is_chain()) {
      TDP_CHECK(head.single() == entry);
      head = RmapHead();
      return;
    }
    const RmapPlace hole = places(entry);
    TDP_CHECK(*hole == entry);
    Descriptor* first = First(head);
    uint64_t* const last = first->last();
    *hole = last;
    places(last) = hole;
    first->DropLast();
    if (ABSL_PREDICT_FALSE(first->count() <= 1)) Shrink(head, first, cache);
  }

  // Calls `visit(entry)` for each entry, the latest first. `visit` may remove the entry that it is
  // shown, and no other.
  template <typename Visit>
  static void ForEach(const RmapHead& head, Visit visit) {
    if (head.is_empty()) return;
    if (!head.is_chain()) {
      visit(head.single());
      return;
    }
    for (const Descriptor* at = First(head); at != nullptr;) {
      // `copy` is needed since a removal fills its hole from the first descriptor and may free that
      // one. What fills a hole has been visited, or is in the copy.
      const Descriptor copy = *at;
      for (int i = copy.count() - 1; i >= 0; --i) visit(copy.entry(i));
      at = copy.next();
    }
  }

  // Forgets every entry and calls `visit(entry)` for each.
  template <typename Visit>
  static void Clear(RmapHead& head, DescriptorCache& cache, Visit visit) {
    const RmapHead old = head;
    head = RmapHead();
    if (old.is_single()) visit(old.single());
    if (!old.is_chain()) return;
    for (Descriptor* at = First(old); at != nullptr;) {
      const Descriptor copy = *at;
      cache.Push(at);
      for (int i = copy.count() - 1; i >= 0; --i) visit(copy.entry(i));
      at = copy.next();
    }
  }

  // Returns the number of entries. Looks at every descriptor, at no entry.
  static size_t Count(const RmapHead& head) {
    if (!head.is_chain()) return head.is_empty() ? 0 : 1;
    size_t count = 0;
    for (const Descriptor* at = First(head); at != nullptr; at = at->next()) {
      count += static_cast<size_t>(at->count());
    }
    return count;
  }

  // Returns whether the invariants above hold. O(entries).
  static bool IsSound(const RmapHead& head, const Places& places) {
    if (!head.is_chain()) return true;
    size_t count = 0;
    for (const Descriptor* at = First(head); at != nullptr; at = at->next()) {
      if (at != First(head) && !at->is_full()) return false;
      for (int i = 0; i < at->count(); ++i, ++count) {
        const RmapPlace place = places(at->entry(i));
        if (Descriptor::Of(place) != at || *place != at->entry(i)) return false;
      }
    }
    return count >= 2;
  }

 private:
  static Descriptor* First(const RmapHead& head) { return static_cast<Descriptor*>(head.chain()); }

  static void Append(Descriptor* descriptor, uint64_t* entry, const Places& places) {
    places(entry) = descriptor->Append(entry);
  }

  // Takes care of a first descriptor that is down to one entry, or to none.
  static void Shrink(RmapHead& head, Descriptor* first, DescriptorCache& cache) {
    if (first->count() == 0) {
      head = RmapHead::Chain(first->next());
    } else if (first->next() == nullptr) {
      head = RmapHead::Single(first->last());
    } else {
      return;
    }
    cache.Push(first);
  }
};

}  // namespace tdp

#endif  // TDP_RMAP_RMAP_LIST_H_
