// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/leaf_policy.h"

namespace tdp {

void LeafPolicy::Update() {
  is_plain_ = types_ == nullptr && rules_ == nullptr && private_ == nullptr &&
              !options_.execute_4k_only && !options_.suppress_ve;
  SetSpecial(kUnlike, !is_plain_);
  SetSpecial(kRestricts, rules_ != nullptr || private_ != nullptr || options_.execute_by_mode);
}

std::optional<Hva> LeafPolicy::HvaOf(const MemorySlot& slot, Gfn gfn) const {
  if (!IsPrivate(gfn)) return slot.HvaOf(gfn);
  const std::optional<Hva> start = slot.state->private_hva();
  if (!start) return std::nullopt;
  return *start + (gfn - slot.base).bytes();
}

bool LeafPolicy::IsUniform(Gfn gfn, Level level) const {
  return (types_ == nullptr || types_->IsUniform(gfn, level)) &&
         (rules_ == nullptr || rules_->IsUniform(gfn, level)) &&
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
  leaf = Typed(leaf, gfn);
  if (IsPrivate(gfn)) leaf = leaf.WithPrivate();
  if (rules_ != nullptr) return Ruled(leaf, slot, gfn);
  return options_.suppress_ve ? leaf.WithSuppressVe() : leaf;
}

// By KVM's vmx_get_mt_mask: what the host maps uncached is a device, and the guest may make it
// write-combining by its PAT; ordinary memory has the type of the guest's MTRRs, where they count,
// to be combined with its PAT. Other types of the host stand whatever the guest says.
EptEntry LeafPolicy::Typed(EptEntry leaf, Gfn gfn) const {
  if (leaf.memory_type() == MemoryType::kUncacheable) return leaf.WithoutIgnorePat();
  if (types_ == nullptr || leaf.memory_type() != MemoryType::kWriteBack) return leaf;
  leaf = leaf.WithMemoryType(types_->TypeOf(gfn));
  return ignore_pat_ ? leaf : leaf.WithoutIgnorePat();
}

// The leaf with the rights that the view allows. A violation of it may become #VE only if nobody
// but the view denies anything: the guest could do nothing about what slot, host or log deny.
EptEntry LeafPolicy::Ruled(EptEntry leaf, const MemorySlot& slot, Gfn gfn) const {
  const ViewRule rule = rules_->At(gfn);
  leaf = leaf.WithAccess(leaf.access() & rule.rights);
  if (!rule.rights.can_write()) leaf = leaf.WithoutHostWritable();
  const bool raises = rule.raises_ve && leaf.access() == rule.rights && !slot.logs_dirty_pages() &&
                      !slot.is_read_only();
  return raises || !options_.suppress_ve ? leaf : leaf.WithSuppressVe();
}

}  // namespace tdp
