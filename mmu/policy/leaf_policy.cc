// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/leaf_policy.h"

namespace tdp {

absl::StatusOr<HostPage> PageBehind(Backend& backend, const MemorySlot& slot, Gfn gfn,
                                    const Backing& backing, Access access) {
  if (backing.frame) return *backing.frame;
  if (!backend.capabilities().resolves_pages) return backend.Resolve(backing.hva, access);
  return backend.ResolvePage({.hva = backing.hva,
                              .access = access,
                              .gfn = gfn,
                              .address_space = slot.address_space,
                              .slot = slot.id,
                              .cookie = backing.cookie,
                              .is_private = backing.is_private});
}

void LeafPolicy::Update() {
  is_plain_ = types_ == nullptr && rules_ == nullptr && private_ == nullptr && frames_ == nullptr &&
              !options_.execute_4k_only && !options_.suppress_ve;
  SetSpecial(kUnlike, !is_plain_);
  SetSpecial(kShowsFrames, frames_ != nullptr);
  SetSpecial(kRestricts, rules_ != nullptr || private_ != nullptr || frames_ != nullptr ||
                             options_.execute_by_mode || options_.resolves_pages);
}

// A frame that is named has no piece of host memory around it that would limit a leaf: the slot and
// the run of the view do.
std::optional<Backing> LeafPolicy::BackingOf(const MemorySlot& slot, Gfn gfn) const {
  AssertInSection();
  constexpr int kAnyOrder = HostPage::kLargestOrder;
  const SlotBacking& slot_backing = slot.state->backing();
  Backing backing;
  backing.cookie = slot_backing.cookie;
  backing.is_private = IsPrivate(gfn);
  if (IsShown(gfn)) {
    backing.is_foreign = true;
    // A slot of the host's memory has all rights here; what is read-only says so by its flag.
    backing.frame = HostPage{.hfn = frames_->At(gfn).FrameOf(gfn),
                             .order = kAnyOrder,
                             .writable = slot_backing.rights.can_write()};
    return backing;
  }
  if (backing.is_private) {
    if (!slot_backing.private_hva) return std::nullopt;
    backing.hva = *slot_backing.private_hva + (gfn - slot.base).bytes();
    return backing;
  }
  if (slot.has_host_frames()) {
    backing.frame = HostPage{.hfn = slot.FrameOf(gfn),
                             .order = kAnyOrder,
                             .writable = slot_backing.rights.can_write(),
                             .memory_type = slot_backing.memory_type};
    return backing;
  }
  backing.hva = slot.HvaOf(gfn);
  return backing;
}

ViewRule LeafPolicy::Narrowed(ViewRule rule, const MemorySlot& slot) {
  const Access rights = slot.state->backing().rights;
  rule.raises_ve = rule.raises_ve && rights.Covers(rule.rights);
  rule.rights = rule.rights & rights;
  return rule;
}

bool LeafPolicy::IsUniform(Gfn gfn, Level level) const {
  AssertInSection();
  return (types_ == nullptr || types_->IsUniform(gfn, level)) &&
         (rules_ == nullptr || rules_->IsUniform(gfn, level)) &&
         (frames_ == nullptr || frames_->IsUniform(gfn, level)) &&
         (private_ == nullptr || private_->IsUniform(gfn, level));
}

Level LeafPolicy::LimitLevel(Level level, Gfn gfn, Access access) const {
  const bool fetch = access.can_execute() || access.can_user_execute();
  // A missing X must not become #VE if the view is not what denies it.
  if (options_.execute_4k_only && (fetch || RuleOf(gfn).raises_ve)) return kLevel4K;
  while (level > kLevel4K && !IsUniform(gfn, level)) level = level.below();
  return level;
}

EptEntry LeafPolicy::Special(EptEntry leaf, const MemorySlot& slot, Gfn gfn) const {
  leaf = WithType(leaf, gfn);
  // Not `IsPrivate`: a policy that nobody else has yet is asked outside of every section.
  if (private_ != nullptr && private_->At(gfn)) leaf = leaf.WithPrivate();
  if (IsShown(gfn)) leaf = Foreign(leaf, slot);
  if (rules_ != nullptr || slot.has_host_frames()) return WithRule(leaf, slot, gfn);
  return options_.suppress_ve ? leaf.WithSuppressVe() : leaf;
}

// Returns the leaf of a frame that the view shows in place of the slot's. No log is about what is
// written there, so no fault has to see it first.
EptEntry LeafPolicy::Foreign(EptEntry leaf, const MemorySlot& slot) {
  if (!slot.is_read_only()) leaf = leaf.WithWrite().WithHostWritable();
  return leaf.WithForeign();
}

// Gives the type by KVM's vmx_get_mt_mask: what the host maps uncached is a device, and the guest
// may make it write-combining by its PAT; ordinary memory has the type of the guest's MTRRs, where
// they count, to be combined with its PAT. Other types of the host stand whatever the guest says.
EptEntry LeafPolicy::WithType(EptEntry leaf, Gfn gfn) const {
  if (rules_ != nullptr) {
    if (const ViewRule rule = rules_->At(gfn); rule.has_type) {
      leaf = leaf.WithMemoryType(rule.type.type);
      return rule.type.ignore_pat ? leaf : leaf.WithoutIgnorePat();
    }
  }
  if (leaf.memory_type() == MemoryType::kUncacheable) return leaf.WithoutIgnorePat();
  if (types_ == nullptr || leaf.memory_type() != MemoryType::kWriteBack) return leaf;
  leaf = leaf.WithMemoryType(types_->TypeOf(gfn));
  return ignore_pat_ ? leaf : leaf.WithoutIgnorePat();
}

// Returns the leaf with the rights that slot and view allow. A violation of it may become #VE only
// if nobody but the view denies anything: the guest could do nothing about what slot, host or log
// deny.
EptEntry LeafPolicy::WithRule(EptEntry leaf, const MemorySlot& slot, Gfn gfn) const {
  const ViewRule rule = RuleOf(slot, gfn);
  leaf = leaf.WithAccess(leaf.access() & rule.rights);
  if (!rule.rights.can_write()) leaf = leaf.WithoutHostWritable();
  const bool raises = rule.raises_ve && leaf.access() == rule.rights && !slot.logs_dirty_pages() &&
                      !slot.is_read_only();
  return raises || !options_.suppress_ve ? leaf : leaf.WithSuppressVe();
}

}  // namespace tdp
