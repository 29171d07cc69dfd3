// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A shadow page: one table of the shadow and what the engine knows of it (KVM's struct
// kvm_mmu_page).

#ifndef TDP_MMU_REVERSE_MAPPED_SHADOW_PAGE_H_
#define TDP_MMU_REVERSE_MAPPED_SHADOW_PAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/level.h"
#include "tdp/base/spin_lock.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/rmap/rmap_descriptor.h"
#include "tdp/rmap/rmap_head.h"

namespace tdp {

class LargePagePermits;

// Says how a shadow page stands to the guest table that it shadows.
enum class ShadowSync : uint8_t {
  kSynced,    // no CPU can write the table unseen: each entry follows from the table as it is
  kUnsync,    // the guest writes the table as it likes; entries follow when it flushes
  kResyncing  // W was taken from the table again; synced once the CPUs have flushed and it was read
};

// Says where a leaf's frame came from: what the reverse map and a sync have to know of it, one word
// for each entry (KVM's shadowed_translation).
class LeafOrigin {
 public:
  constexpr LeafOrigin() = default;
  // `rights` are what the guest's tables allow, raw; below 2^12.
  constexpr LeafOrigin(Gfn gfn, uint32_t rights) : raw_(gfn.address().raw() | rights) {}
  static constexpr LeafOrigin FromRaw(uint64_t raw) {
    return LeafOrigin(Gfn(raw >> kPageShift), static_cast<uint32_t>(raw & kPageOffsetMask));
  }

  constexpr Gfn gfn() const { return Gfn(raw_ >> kPageShift); }
  constexpr uint32_t rights() const { return static_cast<uint32_t>(raw_ & kPageOffsetMask); }
  constexpr uint64_t raw() const { return raw_; }

  friend constexpr bool operator==(LeafOrigin, LeafOrigin) = default;

 private:
  uint64_t raw_ = 0;
};

// One shadow page. It is found from its table through `TablePage::shadow`.
//
// A writer's section of `MmuLock` changes anything of it. Beside others, in a reader's section, a
// thread may change what `leaf_lock` guards and nothing else, so the rest can be read there.
//
// Tables of `LeafOrigin`s and of places in chains come to be with their first use, since most pages
// need neither: direct pages derive their origins, upper pages have no leaves, and few entries
// share their frame with another.
struct alignas(64) ShadowPage {
  // --- constant while it is in the hash ---
  Gfn gfn;  // of the guest table that is shadowed; of a direct page, the first frame that it maps
  PageRole role;
  TablePage* table = nullptr;
  // The write tracking of `gfn`; null for a direct page.
  LargePagePermits* tracking = nullptr;
  uint32_t generation = 0;  // of the `ShadowTables` as it was made: another one means obsolete

  // --- guarded by `leaf_lock` among readers, like the leaves and their origins ---
  uint32_t present = 0;  // entries that are no holes

  // --- changed by writers ---
  RmapHead parents;              // the entries that link this table
  TablePage* origins = nullptr;  // 512 `LeafOrigin`s
  TablePage* places = nullptr;   // 512 `RmapPlace`s
  // The flush after which no CPU can write the guest's table through what it had cached when W was
  // taken; `ShadowTables::IsTrusted` compares.
  uint64_t trusted_from = 0;
  uint32_t roots = 0;       // vCPUs' roots and cached roots that stand here
  bool is_invalid = false;  // zapped while it was a root: freed when it is none any more
  ShadowSync sync = ShadowSync::kSynced;
  Atomic<uint8_t> floods{0};  // writes to the table since something used the page: `NoteUse`
  SpinLock leaf_lock;
  ShadowPage* hash_next = nullptr;
  ShadowPage* hash_previous = nullptr;
  ShadowPage* newer = nullptr;  // by time of making
  ShadowPage* older = nullptr;
  // These link it in the list of pages out of sync, which are of level 1, or of roots, which are
  // not.
  ShadowPage* side_next = nullptr;
  ShadowPage* side_previous = nullptr;

  Level level() const { return role.level(); }
  bool is_direct() const { return role.direct(); }
  uint64_t* entry(int index) const { return table->entries() + index; }

  // Says that a walk came by: what is used is perhaps no flood. Readers may; most only look.
  void NoteUse() {
    if (floods.load(std::memory_order_relaxed) != 0) floods.store(0, std::memory_order_relaxed);
  }

  // Return, of a stored entry, its page and its place there.
  static ShadowPage* Of(const uint64_t* entry) { return TableOf(entry)->shadow; }
  static int IndexOf(const uint64_t* entry) {
    return static_cast<int>((reinterpret_cast<uintptr_t>(entry) & kPageOffsetMask) /
                            sizeof(uint64_t));
  }

  // Returns the origin of the leaf at `index`.
  LeafOrigin OriginOf(int index) const {
    if (is_direct()) {
      const PageCount inside(static_cast<uint64_t>(index) * level().pages().raw());
      return LeafOrigin(gfn + inside, role.access().raw());
    }
    return LeafOrigin::FromRaw(origins->entries()[index]);
  }
  void SetOrigin(int index, LeafOrigin origin) const {
    if (!is_direct()) origins->entries()[index] = origin.raw();
  }

 private:
  static TablePage* TableOf(const uint64_t* entry) {
    return TablePage::Of(reinterpret_cast<const uint64_t*>(reinterpret_cast<uintptr_t>(entry) &
                                                           ~uintptr_t{kPageOffsetMask}));
  }
};

// The size of a record, which comes from a `DescriptorPool`.
inline constexpr size_t kShadowPageBytes = 128;
static_assert(sizeof(ShadowPage) == kShadowPageBytes);

// Says where the entries of shadow pages keep their places in chains.
struct ShadowPlaces {
  // Returns the place of `entry`. `ShadowPage::places` is there.
  RmapPlace& operator()(uint64_t* entry) const {
    const ShadowPage* page = ShadowPage::Of(entry);
    TDP_DCHECK(page->places != nullptr);
    return reinterpret_cast<RmapPlace*>(page->places->entries())[ShadowPage::IndexOf(entry)];
  }
};

// A list through two of the links of a page.
template <ShadowPage* ShadowPage::*kNext, ShadowPage* ShadowPage::*kPrevious>
class ShadowList {
 public:
  ShadowPage* first() const { return first_; }
  ShadowPage* last() const { return last_; }
  size_t size() const { return size_; }
  static ShadowPage* Next(const ShadowPage* page) { return page->*kNext; }

  void PushBack(ShadowPage* page) {
    page->*kNext = nullptr;
    page->*kPrevious = last_;
    (last_ == nullptr ? first_ : last_->*kNext) = page;
    last_ = page;
    ++size_;
  }
  // Removes `page`, which is in the list.
  void Remove(ShadowPage* page) {
    ShadowPage* next = page->*kNext;
    ShadowPage* previous = page->*kPrevious;
    (previous == nullptr ? first_ : previous->*kNext) = next;
    (next == nullptr ? last_ : next->*kPrevious) = previous;
    page->*kNext = page->*kPrevious = nullptr;
    --size_;
  }

 private:
  ShadowPage* first_ = nullptr;
  ShadowPage* last_ = nullptr;
  size_t size_ = 0;
};

using ShadowAgeList = ShadowList<&ShadowPage::newer, &ShadowPage::older>;
using ShadowSideList = ShadowList<&ShadowPage::side_next, &ShadowPage::side_previous>;

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_SHADOW_PAGE_H_
