// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Finds the shadow pages that there are, by guest frame and role (KVM's mmu_page_hash).

#ifndef TDP_MMU_REVERSE_MAPPED_PAGE_HASH_H_
#define TDP_MMU_REVERSE_MAPPED_PAGE_HASH_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tdp/base/address.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"

namespace tdp {

// Buckets go by the frame alone: all pages of one frame, whatever their roles, are found in one. A
// page is in the hash once, under `gfn` and `role`. It changes in writers' sections of `MmuLock`.
class PageHash {
 public:
  // Makes a hash of 2^`bits` buckets, whose number stays.
  explicit PageHash(int bits)
      : shift_(64 - bits), buckets_(std::make_unique<ShadowPage*[]>(size_t{1} << bits)) {}

  void Insert(ShadowPage* page) {
    ShadowPage*& first = BucketOf(page->gfn);
    page->hash_previous = nullptr;
    page->hash_next = first;
    if (first != nullptr) first->hash_previous = page;
    first = page;
  }
  // Removes `page`, which is there.
  void Remove(ShadowPage* page) {
    (page->hash_previous == nullptr ? BucketOf(page->gfn) : page->hash_previous->hash_next) =
        page->hash_next;
    if (page->hash_next != nullptr) page->hash_next->hash_previous = page->hash_previous;
    page->hash_next = page->hash_previous = nullptr;
  }

  // Returns the page of `gfn` and `role` made in `generation`; null if there is none.
  ShadowPage* Find(Gfn gfn, PageRole role, uint32_t generation) const {
    for (ShadowPage* page = BucketOf(gfn); page != nullptr; page = page->hash_next) {
      if (page->gfn == gfn && page->role == role && page->generation == generation) return page;
    }
    return nullptr;
  }

  // Calls `visit(page)` for each page that shadows the table in `gfn`, direct pages left out.
  // `visit` may remove the page that it is shown, and no other.
  template <typename Visit>
  void ForEachShadowOf(Gfn gfn, Visit visit) const {
    for (ShadowPage* page = BucketOf(gfn); page != nullptr;) {
      ShadowPage* next = page->hash_next;
      if (page->gfn == gfn && !page->is_direct()) visit(page);
      page = next;
    }
  }

 private:
  static constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
  ShadowPage*& BucketOf(Gfn gfn) const { return buckets_[gfn.raw() * kGolden >> shift_]; }

  const int shift_;
  const std::unique_ptr<ShadowPage*[]> buckets_;
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_PAGE_HASH_H_
