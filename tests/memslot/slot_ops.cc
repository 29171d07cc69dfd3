// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/memslot/slot_ops.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

constexpr uint64_t kHva = 0x100000000000;
constexpr uint64_t kSpanPages = 300;
constexpr std::string_view kKindNames[] = {"kSet",  "kAbandon", "kMark",
                                           "kTake", "kClear",   "kRegion"};

MemoryRegion RegionOf(const SlotOp& op) {
  MemoryRegion region;
  region.slot = op.slot % 32;
  region.flags = op.flags % 4;
  region.gpa = Gpa(op.gfn * kPageSize);
  region.size = op.pages % 80 * kPageSize;
  region.hva = Hva(kHva + op.hva_page * kPageSize);
  return region;
}

absl::Status Differs(const std::string& what) { return absl::InternalError(what); }

// Returns what a tree of regions shows at `at`, by the definition alone.
const Region* Look(const Region& region, uint64_t at, bool* read_only, uint64_t* offset) {
  if (!region.enabled() || at >= region.size()) return nullptr;
  *read_only |= region.read_only();
  for (const Region* child : region.children()) {
    bool child_read_only = *read_only;
    if (at < child->offset()) continue;
    const Region* const shown = Look(*child, at - child->offset(), &child_read_only, offset);
    if (shown == nullptr) continue;
    *read_only = child_read_only;
    return shown;
  }
  *offset = at;
  return region.is_container() ? nullptr : &region;
}

}  // namespace

std::vector<SlotOp> SlotOpsFromBytes(const uint8_t* data, size_t size) {
  std::vector<SlotOp> ops;
  for (; size >= 6; data += 6, size -= 6) {
    ops.push_back(
        {static_cast<SlotOp::Kind>(data[0] % 6), data[1], data[2], data[3], data[4], data[5]});
  }
  return ops;
}

std::string SlotOpsToCpp(const std::vector<SlotOp>& ops) {
  std::string text;
  for (const SlotOp& op : ops) {
    absl::StrAppendFormat(&text, "{SlotOp::Kind::%s, %d, %d, %d, %d, %d},\n",
                          kKindNames[static_cast<int>(op.kind)], op.slot, op.flags, op.gfn,
                          op.pages, op.hva_page);
  }
  return text;
}

SlotOpsModel::SlotOpsModel() : slots_(SlotLimits{}), reader_(slots_) {
  root_ = MustCreate(tree_, {.name = "root", .size = kWholeAddressSpace});
  tree_regions_.push_back(MustCreate(tree_, {.name = "box", .size = 64 * kPageSize}));
  MustAttach(tree_, root_, tree_regions_[0], 16 * kPageSize, 1);
  for (int i = 0; i < 5; ++i) {
    RegionSpec spec{.name = absl::StrCat("r", i),
                    .kind = i == 4 ? RegionKind::kMmio : RegionKind::kRam,
                    .size = 24 * kPageSize};
    spec.host = Hva(kHva + static_cast<uint64_t>(i) * MiB(16));
    tree_regions_.push_back(MustCreate(tree_, std::move(spec)));
    MustAttach(tree_, i % 2 == 0 ? root_ : tree_regions_[0], tree_regions_.back(),
               static_cast<uint64_t>(i) * 20 * kPageSize);
  }
  region_slots_ = std::make_unique<RegionSlots>(&tree_, root_, &sink_);
  TDP_CHECK(region_slots_->OnRegionsChanged().ok());
}

absl::Status SlotOpsModel::Apply(const SlotOp& op) {
  switch (op.kind) {
    case SlotOp::Kind::kSet:
      return Set(op, false);
    case SlotOp::Kind::kAbandon:
      return Set(op, true);
    case SlotOp::Kind::kMark:
      return Mark(op);
    case SlotOp::Kind::kTake:
      return Take(op);
    case SlotOp::Kind::kClear:
      return Clear(op);
    case SlotOp::Kind::kRegion:
      return ChangeRegion(op);
  }
  return absl::OkStatus();
}

absl::Status SlotOpsModel::Set(const SlotOp& op, bool abandon) {
  const MemoryRegion region = RegionOf(op);
  const absl::Status expected = Expected(region);
  absl::StatusOr<SlotUpdate> update = slots_.Prepare(region);
  if (update.status().code() != expected.code()) {
    return Differs(
        absl::StrCat("answers ", update.status().ToString(), ", not ", expected.ToString()));
  }
  if (!update.ok()) return absl::OkStatus();
  if (update->takes_away()) slots_.PublishInvalid(*update);
  if (abandon) {
    update->Abandon();
    return absl::OkStatus();
  }
  slots_.Publish(*std::move(update));
  SetModel(region);
  return absl::OkStatus();
}

absl::Status SlotOpsModel::Expected(const MemoryRegion& region) const {
  const auto old = regions_.find(region.slot);
  if (region.size == 0) {
    return old == regions_.end() ? absl::InvalidArgumentError("no such slot") : absl::OkStatus();
  }
  if (old != regions_.end()) {
    const MemoryRegion& was = old->second;
    if (was.hva != region.hva || was.size != region.size ||
        ((was.flags ^ region.flags) & kSlotReadOnly) != 0) {
      return absl::InvalidArgumentError("differs from the slot that is there");
    }
  }
  for (uint64_t i = 0; i < region.size / kPageSize; ++i) {
    const auto page = pages_.find(region.gpa.raw() / kPageSize + i);
    if (page != pages_.end() && page->second.slot != region.slot) {
      return absl::AlreadyExistsError("overlaps");
    }
  }
  return absl::OkStatus();
}

void SlotOpsModel::SetModel(const MemoryRegion& region) {
  std::erase_if(pages_, [&](const auto& page) { return page.second.slot == region.slot; });
  const auto old = regions_.find(region.slot);
  const bool logged = old != regions_.end() && (old->second.flags & kSlotLogDirtyPages) != 0;
  if (region.size == 0 || !logged || (region.flags & kSlotLogDirtyPages) == 0) {
    dirty_.erase(region.slot);
  }
  regions_.erase(region.slot);
  if (region.size == 0) return;
  regions_[region.slot] = region;
  for (uint64_t i = 0; i < region.size / kPageSize; ++i) {
    pages_[region.gpa.raw() / kPageSize + i] = {region.slot, region.hva.raw() / kPageSize + i,
                                                region.flags};
  }
}

absl::Status SlotOpsModel::Mark(const SlotOp& op) {
  const MemorySlot* const slot = reader_.Find(0, Gfn(op.gfn));
  const auto page = pages_.find(op.gfn);
  if ((slot != nullptr) != (page != pages_.end())) return Differs("a page is there for one only");
  if (slot == nullptr || slot->state->dirty_log() == nullptr) return absl::OkStatus();
  const uint64_t index = slot->IndexOf(Gfn(op.gfn));
  TDP_RETURN_IF_ERROR(slot->state->dirty_log()->Prepare(index));
  slot->state->dirty_log()->Mark(index);
  dirty_[slot->id].insert(index);
  return absl::OkStatus();
}

absl::Status SlotOpsModel::Take(const SlotOp& op) {
  const std::optional<MemorySlot> slot = slots_.FindById(0, op.slot % 32);
  if (!slot.has_value() || slot->state->dirty_log() == nullptr) return absl::OkStatus();
  std::set<uint64_t> taken;
  TDP_RETURN_IF_ERROR(slot->state->dirty_log()->Take([&](uint64_t base, uint64_t mask) {
    for (; mask != 0; mask &= mask - 1) taken.insert(base + std::countr_zero(mask));
  }));
  if (taken != std::exchange(dirty_[slot->id], {})) return Differs("other pages are dirty");
  return absl::OkStatus();
}

absl::Status SlotOpsModel::Clear(const SlotOp& op) {
  const std::optional<MemorySlot> slot = slots_.FindById(0, op.slot % 32);
  if (!slot.has_value() || slot->state->dirty_log() == nullptr) return absl::OkStatus();
  const uint64_t first = std::min<uint64_t>(op.gfn % 2 * 64, slot->pages.raw() / 64 * 64);
  const uint64_t count = std::min<uint64_t>(op.pages, slot->pages.raw() - first);
  const uint64_t pattern = uint64_t{op.flags} * 0x0101010101010101;
  const std::vector<uint64_t> bits(4, pattern);
  std::set<uint64_t> cleared;
  TDP_RETURN_IF_ERROR(
      slot->state->dirty_log()->Clear(first, count, bits, [&](uint64_t base, uint64_t mask) {
        for (; mask != 0; mask &= mask - 1) cleared.insert(base + std::countr_zero(mask));
      }));
  std::set<uint64_t> expected;
  for (uint64_t i = 0; i < count; ++i) {
    const bool asked = (pattern >> (i % 64) & 1) != 0;
    if (asked && dirty_[slot->id].erase(first + i) != 0) expected.insert(first + i);
  }
  return cleared == expected ? absl::OkStatus() : Differs("other pages were cleared");
}

absl::Status SlotOpsModel::ChangeRegion(const SlotOp& op) {
  Region* const region = tree_regions_[op.slot % tree_regions_.size()];
  const bool flag = op.gfn % 2 != 0;
  switch (op.flags % 6) {
    case 0:
      TDP_RETURN_IF_ERROR(tree_.SetEnabled(region, flag));
      break;
    case 1:
      TDP_RETURN_IF_ERROR(tree_.SetOffset(region, op.gfn % 128 * kPageSize));
      break;
    case 2:
      TDP_RETURN_IF_ERROR(tree_.SetSize(region, (1 + op.gfn % 64) * kPageSize));
      break;
    case 3:
      TDP_RETURN_IF_ERROR(tree_.SetPriority(region, op.gfn % 4));
      break;
    case 4:
      TDP_RETURN_IF_ERROR(tree_.SetReadOnly(region, flag));
      break;
    case 5:
      if (region->kind() == RegionKind::kRam) TDP_RETURN_IF_ERROR(tree_.SetLogDirty(region, flag));
      break;
  }
  return CheckRegions();
}

absl::Status SlotOpsModel::CheckRegions() const {
  for (uint64_t gfn = 0; gfn < kSpanPages; ++gfn) {
    bool read_only = false;
    uint64_t offset = 0;
    const Region* const shown = Look(*root_, gfn * kPageSize, &read_only, &offset);
    const std::optional<MemorySlot> slot = sink_.set().FindByGfn(0, Gfn(gfn));
    const bool is_memory = shown != nullptr && shown->is_memory();
    if (is_memory != slot.has_value()) {
      return Differs(absl::StrFormat("frame 0x%x: memory in the tree or the slots alone", gfn));
    }
    if (!is_memory) continue;
    if (slot->HvaOf(Gfn(gfn)) != shown->host() + offset || slot->is_read_only() != read_only ||
        slot->logs_dirty_pages() != shown->log_dirty()) {
      return Differs(absl::StrFormat("frame 0x%x: other memory, rights or log", gfn));
    }
  }
  return sink_.set().CheckInvariants();
}

absl::Status SlotOpsModel::Check() {
  TDP_RETURN_IF_ERROR(slots_.CheckInvariants());
  for (uint64_t gfn = 0; gfn < kSpanPages + 40; ++gfn) {
    const MemorySlot* const slot = reader_.Find(0, Gfn(gfn));
    const auto page = pages_.find(gfn);
    const bool same = page == pages_.end()
                          ? slot == nullptr
                          : slot != nullptr && !slot->invalid && slot->id == page->second.slot &&
                                slot->flags == page->second.flags &&
                                slot->HvaOf(Gfn(gfn)).raw() / kPageSize == page->second.hva_page;
    if (!same) return Differs(absl::StrFormat("frame 0x%x is of another slot", gfn));
  }
  return CheckRegions();
}

}  // namespace tdp
