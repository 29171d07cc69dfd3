// SPDX-License-Identifier: Apache-2.0
//
// What a leaf may look like: how large it is, and its rights, type and software bits. One place for
// faults, prefault and collapse, so that all three make the same leaf of the same page.

#ifndef TDP_MMU_LEAF_POLICY_H_
#define TDP_MMU_LEAF_POLICY_H_

#include <algorithm>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/direct_mmu.h"
#include "tdp/mmu/dirty_tracking.h"
#include "tdp/mmu/ept_entry.h"
#include "tdp/mmu/memory_types.h"

namespace tdp {

// The members that a fault calls are inlined into it: the path is short enough for calls to show.
class LeafPolicy {
 public:
  LeafPolicy(bool accessed_dirty, Level largest, DirtyTracking tracking)
      : accessed_dirty_(accessed_dirty), largest_(largest), tracking_(tracking) {
    const HostPage page{.hfn = Hfn(0)};
    written_leaf_ = UsedLeaf(MemorySlot(), Gfn(0), page, Access::Write());
    read_leaf_ = UsedLeaf(MemorySlot(), Gfn(0), page, Access::Read());
  }

  // How a fault in `slot` opens what the start of logging has closed.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Unprotect UnprotectIn(const MemorySlot& slot) const {
    if (ABSL_PREDICT_TRUE(!slot.logs_dirty_pages())) return Unprotect::kLift;
    return IsByHardware(tracking_) ? Unprotect::kPushDirty : Unprotect::kPushWrite;
  }

  // The largest leaf that slot, host page and options allow for `gfn`, a frame of `slot` behind
  // which `page` stands. Inside a section that has checked the change sequence. `kPlain`: the
  // caller knows that the slot has no flags.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE Level LargestLevel(const MemorySlot& slot, Gfn gfn,
                                                  const HostPage& page) const {
    if (ABSL_PREDICT_TRUE(!MayBeLarge(page))) return kLevel4K;
    return !kPlain && slot.logs_dirty_pages() ? kLevel4K : LargestOf(slot, gfn, page);
  }

  // Whether a page like this may be mapped by a large leaf somewhere; quick, and any thread.
  bool MayBeLarge(const HostPage& page) const {
    return largest_ > kLevel4K && page.order >= kLevel2M.shift() - kPageShift;
  }

  // The 4 KiB leaf for `gfn` and `page` as an access of `access` wants it. Where writes are logged
  // by their faults a page becomes writable only by the write that marks it. A and D are clear.
  // Inside a section.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry Leaf(const MemorySlot& slot, Gfn gfn, const HostPage& page,
                                             Access access) const {
    const bool writable = page.writable && (kPlain || !slot.is_read_only());
    const bool give_write =
        writable && (kPlain || access.can_write() || UnprotectIn(slot) != Unprotect::kPushWrite);
    const Access rights = give_write ? Access::All() : Access::All().Without(Access::Write());
    EptEntry leaf = EptEntry::Leaf(page.hfn, kLevel4K, rights, page.memory_type).WithIgnorePat();
    if (ABSL_PREDICT_FALSE(types_ != nullptr || page.memory_type != MemoryType::kWriteBack)) {
      leaf = Typed(leaf, gfn);
    }
    return writable ? leaf.WithHostWritable() : leaf;
  }

  // The same for a page that is used at once: A and D are set, which saves the CPU its own locked
  // updates.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry UsedLeaf(const MemorySlot& slot, Gfn gfn,
                                                 const HostPage& page, Access access) const {
    if (kPlain && ABSL_PREDICT_TRUE(page.writable && page.memory_type == MemoryType::kWriteBack &&
                                    types_ == nullptr)) {
      return (access.can_write() ? written_leaf_ : read_leaf_).WithFrame(page.hfn);
    }
    const EptEntry leaf = Leaf<kPlain>(slot, gfn, page, access);
    if (!accessed_dirty_) return leaf;
    return access.can_write() ? leaf.WithAccessed().WithDirty() : leaf.WithAccessed();
  }

  // The guest's memory types, if they count. Inside a section, the writer's to change them; they
  // outlive their use here.
  const MemoryTypeMap* types() const { return types_; }
  void set_types(const MemoryTypeMap* types, bool ignore_pat) {
    types_ = types;
    ignore_pat_ = ignore_pat;
  }
  // How many of `pages` frames from `gfn` on have the type of `gfn`. Inside a section.
  PageCount PagesOfOneType(Gfn gfn, PageCount pages) const {
    return types_ == nullptr ? pages : std::min(pages, types_->EndOfRun(gfn) - gfn);
  }

 private:
  // `LargestLevel` where the host page is large.
  Level LargestOf(const MemorySlot& slot, Gfn gfn, const HostPage& page) const {
    Level level = largest_;
    while (level > kLevel4K && !Holds(page, gfn, level)) level = level.below();
    // The slot is asked last: most small pages are small because the host's are.
    if (level > kLevel4K) level = std::min(level, slot.state->MaxLevel(gfn));
    while (level > kLevel4K && types_ != nullptr && !types_->IsUniform(gfn, level)) {
      level = level.below();
    }
    return level;
  }

  // Whether the host page covers the whole leaf of `level` around the frame, from a host frame that
  // is aligned alike.
  ABSL_ATTRIBUTE_ALWAYS_INLINE static bool Holds(const HostPage& page, Gfn gfn, Level level) {
    const uint64_t inside = level.pages().raw() - 1;
    return page.order >= level.shift() - kPageShift &&
           (gfn.raw() & inside) == (page.hfn.raw() & inside);
  }

  // The type of `leaf`, which has that of its host page, by KVM's vmx_get_mt_mask: what the host
  // maps uncached is a device, and the guest may make it write-combining by its PAT; ordinary
  // memory has the type of the guest's MTRRs, where they count, to be combined with its PAT. Other
  // types of the host stand whatever the guest says.
  EptEntry Typed(EptEntry leaf, Gfn gfn) const {
    if (leaf.memory_type() == MemoryType::kUncacheable) return leaf.WithoutIgnorePat();
    if (leaf.memory_type() != MemoryType::kWriteBack) return leaf;
    leaf = leaf.WithMemoryType(types_->TypeOf(gfn));
    return ignore_pat_ ? leaf : leaf.WithoutIgnorePat();
  }

  const bool accessed_dirty_;
  const Level largest_;
  const DirtyTracking tracking_;
  // Of ordinary memory in a slot without flags, but for the frame, after a write and a read.
  EptEntry written_leaf_;
  EptEntry read_leaf_;
  bool ignore_pat_ = false;
  const MemoryTypeMap* types_ = nullptr;
};

}  // namespace tdp

#endif  // TDP_MMU_LEAF_POLICY_H_
