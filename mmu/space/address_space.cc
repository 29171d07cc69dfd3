// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/address_space.h"

#include <utility>

#include "absl/memory/memory.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/space/reverse_mapped_tables.h"

namespace tdp {
namespace {

// Returns the policy that is asked for, and what the kind of tables adds to it.
LeafPolicyOptions PolicyOf(const AddressSpaceOptions& options) {
  LeafPolicyOptions policy = options.policy;
  policy.has_rmap = options.kind == PagingKind::kReverseMapped;
  return policy;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AddressSpace>> AddressSpace::Make(const AddressSpaceOptions& options,
                                                                 const MmuParts& parts,
                                                                 ShadowPools* pools) {
  auto space = absl::WrapUnique(new AddressSpace(options, parts));
  TableInHand root(parts.pool);
  TDP_ASSIGN_OR_RETURN(View * base, space->views_.Make(root));
  base->Open();
  space->MakeKinds(options, parts, pools);
  return space;
}

AddressSpace::AddressSpace(const AddressSpaceOptions& options, const MmuParts& parts)
    : views_(options.mmu, PolicyOf(options), parts.pool) {}

void AddressSpace::MakeKinds(const AddressSpaceOptions& options, const MmuParts& parts,
                             ShadowPools* pools) {
  const AddressSpaceId id = options.mmu.address_space;
  // Hands the tables over and says where they are.
  const auto add = [this](auto tables) {
    auto* const raw = tables.get();
    kinds_.push_back(std::move(tables));
    return raw;
  };
  if constexpr (!kHasShadow) {
    only_direct_ = add(std::make_unique<DirectTables>(parts, id, views_, options.caches_mmio));
    direct_ = only_direct_;
    return;
  }
  switch (options.kind) {
    case PagingKind::kShadow:
      shadow_ = add(std::make_unique<GuestShadowTables>(parts, *pools, options.shadow));
      return;
    case PagingKind::kReverseMapped:
      reverse_mapped_ =
          add(std::make_unique<ReverseMappedTables>(parts, id, views_, options.caches_mmio));
      direct_ = reverse_mapped_;
      return;
    case PagingKind::kNested:
      direct_ = add(std::make_unique<DirectTables>(parts, id, views_, options.caches_mmio));
      nested_ = add(std::make_unique<NestedTables>(parts, *pools, options.shadow));
      return;
    case PagingKind::kDirect:
      only_direct_ = add(std::make_unique<DirectTables>(parts, id, views_, options.caches_mmio));
      direct_ = only_direct_;
      return;
  }
}

ReverseMappedMmu* AddressSpace::reverse_mapped() const {
  return !kHasShadow || reverse_mapped_ == nullptr ? nullptr : &reverse_mapped_->mmu();
}

absl::StatusOr<std::shared_ptr<SlotRmap>> AddressSpace::MakeRmap(const MemorySlot& slot) const {
  if (!kHasShadow || only_direct_ != nullptr) return std::shared_ptr<SlotRmap>();
  return ReverseMappedMmu::MakeRmap(slot);
}

bool AddressSpace::DetachFromAll(FrameRange range, TableCache& spare, TableList& detached) {
  bool any = false;
  for (const auto& tables : kinds_) any |= tables->Detach(range, spare, detached);
  return any;
}

bool AddressSpace::DetachMmio(TableList& detached) {
  bool any = false;
  for (const auto& tables : kinds_) any |= tables->DetachMmio(detached);
  return any;
}

bool AddressSpace::DetachRaising(FrameRange slot, TableList& detached) {
  bool any = false;
  for (const auto& tables : kinds_) any |= tables->DetachRaising(slot, detached);
  return any;
}

bool AddressSpace::WriteProtect(FrameRange range) {
  bool any = false;
  for (const auto& tables : kinds_) any |= tables->WriteProtect(range);
  return any;
}

void AddressSpace::SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap) {
  for (const auto& tables : kinds_) tables->SetRmap(slot, rmap);
}

absl::Status AddressSpace::CheckInvariants() const {
  for (const auto& tables : kinds_) TDP_RETURN_IF_ERROR(tables->CheckInvariants());
  return absl::OkStatus();
}

void AddressSpace::NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) {
  for (const auto& tables : kinds_) tables->NarrowPages(base, mask, notice);
}

void AddressSpace::Age(FrameRange range, AgeMode mode, Aged& aged) {
  for (const auto& tables : kinds_) tables->Age(range, mode, aged);
}

PendingFlush AddressSpace::ZapAll() {
  PendingFlush flush;
  for (const auto& tables : kinds_) flush.Merge(tables->ZapAll());
  return flush;
}

absl::Status AddressSpace::PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)> push) {
  for (const auto& tables : kinds_) TDP_RETURN_IF_ERROR(tables->PushDown(push));
  return absl::OkStatus();
}

bool AddressSpace::DetachIn(View& view, FrameRange range, TableCache& spare, TableList& detached) {
  TDP_DCHECK(direct_ != nullptr);
  return direct_->DetachIn(view, range, spare, detached);
}

void AddressSpace::TakeTables(TableList& out) {
  kinds_.clear();
  views_.TakeTables(out);
}

}  // namespace tdp
