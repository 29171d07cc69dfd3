// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Decides what a leaf looks like: how large it is, and its rights, type and software bits. It is
// one place for faults, prefault and collapse, so that all three make the same leaf of the same
// page.

#ifndef TDP_MMU_POLICY_LEAF_POLICY_H_
#define TDP_MMU_POLICY_LEAF_POLICY_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <optional>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/statusor.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/policy/memory_types.h"
#include "tdp/mmu/policy/view_rules.h"
#include "tdp/mmu/sync/section_checks.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

// Says what stands behind a guest frame: memory that the host is asked for, or a frame that is
// known.
struct Backing {
  std::optional<HostPage> frame;  // what a slot of host frames, or the view, names
  Hva hva;                        // else: where the host has the page
  uint64_t cookie = 0;            // of the slot
  bool is_private = false;
  bool is_foreign = false;  // `frame` is the view's and no page of the slot's

  bool asks_host() const { return !frame.has_value(); }
};

// Returns the page behind `gfn`, a frame of `slot`: the one that is known, or as the host answers
// (`Backend::ResolvePage`, its errors). Hold no lock.
absl::StatusOr<HostPage> PageBehind(Backend& backend, const MemorySlot& slot, Gfn gfn,
                                    const Backing& backing, Access access);

struct LeafPolicyOptions {
  bool accessed_dirty = true;
  Level largest = kLevel1G;
  DirtyTracking tracking = DirtyTracking::kWriteProtection;
  bool execute_4k_only = false;  // large leaves lack X (`VmOptions::execute_4k_only`)
  bool suppress_ve = false;      // leaves suppress #VE where no rule says otherwise
  bool execute_by_mode = false;  // MBEC
  bool resolves_pages = false;   // `Capabilities::resolves_pages`
  bool has_rmap = false;         // each leaf of 4 KiB has its place in a reverse map
};

// Each view has one. The members that a fault calls are inlined into it: the path is short enough
// for calls to show. What only some VMs use stands behind one test (`is_plain_`).
class LeafPolicy {
 public:
  explicit LeafPolicy(const LeafPolicyOptions& options)
      : options_(options),
        large_order_(options.largest > kLevel4K ? kLevel2M.shift() - kPageShift
                                                : std::numeric_limits<int>::max()) {
    Update();
    const HostPage page{.hfn = Hfn(0)};
    for (const Access access : {Access::Read(), Access::Write()}) {
      ordinary_leaves_[access.can_write()] = UsedLeaf(MemorySlot(), Gfn(0), page, access);
    }
  }
  LeafPolicy(const LeafPolicy&) = delete;
  LeafPolicy& operator=(const LeafPolicy&) = delete;

  const LeafPolicyOptions& options() const { return options_; }

  // Returns how a fault in `slot` opens what the start of logging has closed.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Unprotect UnprotectIn(const MemorySlot& slot) const {
    if (ABSL_PREDICT_TRUE(!slot.logs_dirty_pages())) return Unprotect::kLift;
    return IsByHardware(options_.tracking) ? Unprotect::kPushDirty : Unprotect::kPushWrite;
  }

  // Returns the largest leaf that slot, host page, options and rules allow for an access of
  // `access` to `gfn`, a frame of `slot` behind which `page` stands. Call it inside a section that
  // has checked the change sequence. With `kPlain` the caller knows that the slot has no flags.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE Level LargestLevel(const MemorySlot& slot, Gfn gfn,
                                                  const HostPage& page, Access access) const {
    AssertInSection();
    if (ABSL_PREDICT_TRUE(!MayBeLarge(page))) return kLevel4K;
    return !kPlain && slot.logs_dirty_pages() ? kLevel4K : LargestOf(slot, gfn, page, access);
  }

  // Returns whether a page like this may be mapped by a large leaf somewhere. It is quick, and any
  // thread may ask.
  bool MayBeLarge(const HostPage& page) const { return page.order >= large_order_; }

  // Returns whether anything but slot and host has a say in a leaf, or leaves without rights may
  // stand for pages that were aged. One word stands for all that a plain fault need not ask one by
  // one; whoever writes one of those facts keeps it. Any thread may ask: whoever changes the answer
  // moves the change sequence afterwards, and plain faults ask again when that has moved.
  bool is_special() const { return special_.load(std::memory_order_relaxed) != 0; }
  bool may_be_aged() const { return (special_.load(std::memory_order_relaxed) & kMayBeAged) != 0; }
  // Returns whether the view shows frames of its own anywhere. Any thread may ask, as for
  // `restricts`.
  bool shows_frames() const {
    return (special_.load(std::memory_order_relaxed) & kShowsFrames) != 0;
  }
  // Says that leaves may be aged from here on: the first aging without A bits begins. Returns
  // whether it was not so before. Any thread may call it.
  bool SetMayBeAged() {
    return (special_.fetch_or(kMayBeAged, std::memory_order_relaxed) & kMayBeAged) == 0;
  }

  // Returns whether `page` is one that `OrdinaryLeaf` maps, in a slot without flags, if the policy
  // is not special: small, writable, and of the ordinary type.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool IsOrdinary(const HostPage& page) const {
    return page.writable && page.memory_type == MemoryType::kWriteBack && !MayBeLarge(page);
  }
  // Returns whether `page` is one that `OrdinaryLeaf`, enlarged, maps by 2 MiB around `gfn`, as far
  // as the slot permits.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool IsOrdinary2M(const HostPage& page, Gfn gfn) const {
    const bool huge = page.order >= kLevel1G.shift() - kPageShift && options_.largest > kLevel2M;
    return page.writable && page.memory_type == MemoryType::kWriteBack && MayBeLarge(page) &&
           !huge && ((gfn.raw() ^ page.hfn.raw()) & (kLevel2M.pages().raw() - 1)) == 0;
  }
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry OrdinaryLeaf(Hfn frame, Access access) const {
    return ordinary_leaves_[access.can_write()].WithFrame(frame);
  }

  // Returns the 4 KiB leaf for `gfn` and `page` as an access of `access` wants it. Where writes are
  // logged by their faults a page becomes writable only by the write that marks it. A and D are
  // clear. Inside a section.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry Leaf(const MemorySlot& slot, Gfn gfn, const HostPage& page,
                                             Access access) const {
    const bool writable = page.writable && (kPlain || !slot.is_read_only());
    const bool give_write =
        writable && (kPlain || access.can_write() || UnprotectIn(slot) != Unprotect::kPushWrite);
    const Access rights = give_write ? Access::All() : Access::All().Without(Access::Write());
    EptEntry leaf = EptEntry::Leaf(page.hfn, kLevel4K, rights, page.memory_type).WithIgnorePat();
    if (writable) leaf = leaf.WithHostWritable();
    const bool has_frames = !kPlain && slot.has_host_frames();
    if (ABSL_PREDICT_FALSE(!is_plain_ || has_frames ||
                           page.memory_type != MemoryType::kWriteBack)) {
      leaf = Special(leaf, slot, gfn);
    }
    return leaf;
  }

  // Returns that leaf for a page that is used at once: A and D are set, which saves the CPU its own
  // locked updates.
  template <bool kPlain = false>
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry UsedLeaf(const MemorySlot& slot, Gfn gfn,
                                                 const HostPage& page, Access access) const {
    if (kPlain && ABSL_PREDICT_TRUE(page.writable && page.memory_type == MemoryType::kWriteBack &&
                                    is_plain_)) {
      return OrdinaryLeaf(page.hfn, access);
    }
    const EptEntry leaf = Leaf<kPlain>(slot, gfn, page, access);
    if (!options_.accessed_dirty) return leaf;
    return access.can_write() ? leaf.WithAccessed().WithDirty() : leaf.WithAccessed();
  }

  // Returns what `leaf`, mapped before anyone has made an access of `access`, has to allow. An
  // access of no kind wants all of it, W that an earlier log has left missing included; but not
  // while writes are logged, since that would begin with a fault all the same.
  static Access NeededAhead(const MemorySlot& slot, EptEntry leaf, Access access) {
    const bool all = access.is_empty() && !slot.logs_dirty_pages();
    return all ? leaf.access() & Access::ReadWrite() : access;
  }

  // Returns `leaf`, which has the type of its host page and ignores the guest's PAT, as the types
  // of the guest make it. Inside a section, or before anybody else has the policy.
  EptEntry WithType(EptEntry leaf, Gfn gfn) const;

  // Returns whether `RuleOf` may say more than that everything is allowed, or `BackingOf` more than
  // the slot, of a slot that has no host frames. Any thread may ask; whoever changes the answer
  // moves the change sequence afterwards.
  bool restricts() const { return (special_.load(std::memory_order_relaxed) & kRestricts) != 0; }
  // Returns whether a leaf is to be looked at by itself before it is made, since rules may say more
  // of it or a reverse map has to name it. Any thread may ask, as for `restricts`.
  bool is_by_page() const { return restricts() || options_.has_rmap; }
  // Returns what slot and view allow of `gfn`. #VE is raised only where the slot denies nothing
  // that the view leaves. Inside a section that has checked the change sequence.
  ViewRule RuleOf(const MemorySlot& slot, Gfn gfn) const {
    AssertInSection();
    const ViewRule rule = RuleOf(gfn);
    return ABSL_PREDICT_TRUE(!slot.has_host_frames()) ? rule : Narrowed(rule, slot);
  }
  // Returns what the view allows of `gfn`, and whether it is private. Inside a section.
  ViewRule RuleOf(Gfn gfn) const {
    AssertInSection();
    return rules_ == nullptr ? ViewRule() : rules_->At(gfn);
  }
  bool IsPrivate(Gfn gfn) const {
    AssertInSection();
    return private_ != nullptr && private_->At(gfn);
  }
  // Returns what stands behind `gfn`, a frame of `slot`: what the view shows there, other memory if
  // it is private; nothing if the slot has none of that. Inside a section that has checked the
  // change sequence.
  std::optional<Backing> BackingOf(const MemorySlot& slot, Gfn gfn) const;
  // Returns how many of `pages` frames from `gfn` on have leaves that differ in their frame alone.
  // Inside a section.
  PageCount PagesAlike(Gfn gfn, PageCount pages) const {
    AssertInSection();
    if (types_ == nullptr) return pages;
    return std::min(pages, types_->EndOfRun(gfn, gfn + pages) - gfn);
  }
  // Returns whether the frames of a leaf of `level` around `gfn` are of one kind in every respect.
  // Inside a section.
  bool IsUniform(Gfn gfn, Level level) const;

  // These are null where they do not count. Read them inside a section, and change them inside the
  // writer's; what is set outlives its use here.
  const MemoryTypeMap* types() const { return types_; }
  const ViewRules* rules() const { return rules_; }
  const PrivateFrames* private_frames() const { return private_; }
  const ViewFrames* frames() const { return frames_; }
  void set_types(const MemoryTypeMap* types, bool ignore_pat) {
    types_ = types;
    ignore_pat_ = ignore_pat;
    Update();
  }
  void set_rules(const ViewRules* rules) {
    rules_ = rules;
    Update();
  }
  void set_frames(const ViewFrames* frames) {
    frames_ = frames;
    Update();
  }
  void set_private_frames(const PrivateFrames* frames) {
    private_ = frames;
    Update();
  }
  // Takes over what `other` has, but for rules and frames, which are each view's own.
  void Share(const LeafPolicy& other) {
    set_types(other.types_, other.ignore_pat_);
    set_private_frames(other.private_);
    if (other.may_be_aged()) SetMayBeAged();
  }

 private:
  // Returns whether the host page covers the whole leaf of `level` around the frame, from a host
  // frame that is aligned alike.
  ABSL_ATTRIBUTE_ALWAYS_INLINE static bool Holds(const HostPage& page, Gfn gfn, Level level) {
    const uint64_t inside = level.pages().raw() - 1;
    return page.order >= level.shift() - kPageShift &&
           (gfn.raw() & inside) == (page.hfn.raw() & inside);
  }

  // Decides `LargestLevel` where the host page is large.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Level LargestOf(const MemorySlot& slot, Gfn gfn,
                                               const HostPage& page, Access access) const {
    Level level = kLevel4K;
    if (options_.largest > kLevel4K && Holds(page, gfn, kLevel2M)) {
      // The slot is asked last: most small pages are small because the host's are.
      const bool huge = options_.largest > kLevel2M && Holds(page, gfn, kLevel1G);
      level = slot.state->MaxLevel(gfn, huge ? kLevel1G : kLevel2M);
    }
    return ABSL_PREDICT_TRUE(is_plain_) ? level : LimitLevel(level, gfn, access);
  }
  static ViewRule Narrowed(ViewRule rule, const MemorySlot& slot);
  bool IsShown(Gfn gfn) const { return frames_ != nullptr && frames_->At(gfn).is_shown(); }
  Level LimitLevel(Level level, Gfn gfn, Access access) const;
  static EptEntry Foreign(EptEntry leaf, const MemorySlot& slot);
  EptEntry Special(EptEntry leaf, const MemorySlot& slot, Gfn gfn) const;
  EptEntry WithRule(EptEntry leaf, const MemorySlot& slot, Gfn gfn) const;
  void Update();
  void SetSpecial(uint32_t bit, bool set) {
    set ? special_.fetch_or(bit, std::memory_order_relaxed)
        : special_.fetch_and(~bit, std::memory_order_relaxed);
  }

  // The reasons for which a policy is special.
  static constexpr uint32_t kRestricts = 1;  // the frame's rule and backing are to be asked for
  static constexpr uint32_t kUnlike = 2;     // leaves do not follow from slot and host page alone
  static constexpr uint32_t kMayBeAged = 4;
  static constexpr uint32_t kShowsFrames = 8;

  const LeafPolicyOptions options_;
  const int large_order_;  // from which on a host page may be mapped by a large leaf
  // The leaves of ordinary memory in a slot without flags, after a read and after a write. Their
  // frame is missing.
  EptEntry ordinary_leaves_[2];
  Atomic<uint32_t> special_{0};
  bool is_plain_ = true;  // leaves follow from slot and host page alone
  bool ignore_pat_ = false;
  const MemoryTypeMap* types_ = nullptr;
  const ViewRules* rules_ = nullptr;
  const PrivateFrames* private_ = nullptr;
  const ViewFrames* frames_ = nullptr;
};

}  // namespace tdp

#endif  // TDP_MMU_POLICY_LEAF_POLICY_H_
