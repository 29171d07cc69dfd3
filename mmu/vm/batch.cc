// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm/batch.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/engine/slot_change.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {

absl::Status Batch::Add(const Change& change) {
  switch (change.kind()) {
    case Change::Kind::kRegion:
      return AddRegion(change.region());
    case Change::Kind::kViewRights:
    case Change::Kind::kViewMemoryType:
    case Change::Kind::kViewFrames:
      return AddViewPart(change);
    case Change::Kind::kAttributes:
      return AddAttributes(change);
    case Change::Kind::kZap: {
      TDP_ASSIGN_OR_RETURN(
          const FrameRange range,
          CheckFrames(engine_, change.first(), change.count(), change.address_space()));
      zaps_.push_back({change.address_space(), range});
      return absl::OkStatus();
    }
  }
  return absl::InternalError("a change of no kind");
}

absl::Status Batch::AddRegion(const MemoryRegion& asked) {
  TDP_ASSIGN_OR_RETURN(const MemoryRegion region, WithRights(engine_, asked));
  const size_t before = slots_.steps().size();
  TDP_RETURN_IF_ERROR(slots_.Add(region));
  if (slots_.steps().size() == before) return absl::OkStatus();
  const SlotBatch::Step& step = slots_.steps().back();
  if (step.kind == SlotChange::kFlagsOnly) return absl::OkStatus();
  TDP_ASSIGN_OR_RETURN(std::shared_ptr<SlotRmap> rmap, MakeRmap(engine_, step.kind, step.new_slot));
  rmaps_.push_back({region.address_space, region.slot, std::move(rmap)});
  return absl::OkStatus();
}

absl::Status Batch::AddViewPart(const Change& change) {
  const AddressSpaceId space = change.address_space();
  TDP_ASSIGN_OR_RETURN(View * view, FindView(engine_, change.view(), space));
  const auto same = [&](const ViewPart& part) { return &part.change.view() == view; };
  auto part = std::find_if(views_.begin(), views_.end(), same);
  if (part == views_.end()) {
    views_.push_back({space, ViewChange(engine_, *view)});
    part = views_.end() - 1;
  }
  switch (change.kind()) {
    case Change::Kind::kViewRights:
      return part->change.SetRights(change.first(), change.count(), change.rights());
    case Change::Kind::kViewMemoryType:
      return part->change.SetMemoryType(change.first(), change.count(), change.memory_type());
    default:
      return part->change.SetFrames(change.first(), change.count(), change.frames());
  }
}

absl::Status Batch::AddAttributes(const Change& change) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  TDP_RETURN_IF_ERROR(CheckAttributes(engine_, change.gpa(), change.size(), change.attributes()));
  const Gfn first = Gfn::Of(change.gpa());
  const FrameRange range{first, first + PageCount::FromBytes(change.size())};
  const bool is_private = (change.attributes() & kMemoryAttributePrivate) != 0;
  const PrivateFrames& old = private_ == nullptr ? engine_.private_frames() : *private_;
  private_ = std::make_unique<const PrivateFrames>(
      old.With(range, [is_private](bool) { return is_private; }));
  attributes_.push_back(range);
  return absl::OkStatus();
}

bool Batch::TakesSlotsAway() const {
  return std::any_of(slots_.steps().begin(), slots_.steps().end(),
                     [](const auto& step) { return TakesAway(step.kind); });
}

// Counts the quotas that new slots allow before there can be a fault in them, and the lower ones
// without old slots when these are gone.
void Batch::ChangeQuotas(bool add) {
  engine_.ChangeQuotas([&](MemoryQuotas& quotas) {
    for (const SlotBatch::Step& step : slots_.steps()) {
      if (add && Brings(step.kind)) quotas.AddSlot(step.new_slot);
      if (!add && TakesAway(step.kind)) quotas.RemoveSlot(step.old_slot);
    }
  });
}

void Batch::Commit() {
  ChangeQuotas(true);
  for (const SlotBatch::Step& step : slots_.steps()) {
    if (step.new_slot.logs_dirty_pages()) engine_.logging().Add();
  }
  slots_.PublishFirst();
  TakeAway();
  ShowSlots();
  for (const SlotBatch::Step& step : slots_.steps()) {
    if (step.old_slot.logs_dirty_pages()) engine_.logging().Remove();
  }
  if (!TakesSlotsAway()) return;
  ChangeQuotas(false);
  engine_.TrimShadows();
}

// Takes all that goes away. Faults that saw what counted before cannot install after this.
void Batch::TakeAway() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  PendingFlush flush = engine_.ZapWith([&](TableCache& spare, TableList& detached) {
    for (ViewPart& part : views_) part.change.Publish();
    if (private_ != nullptr) engine_.ShowPrivateFrames(private_.get());
    // The sequence moves after what a fault looks at without a section: one that reads this
    // sequence sees all that.
    engine_.sequence().Move();
    const bool any = DetachAll(spare, detached);
    return ProtectForLogs(detached) || any;
  });
  if (private_ != nullptr) engine_.SwapPrivateFrames(private_);
  flush.Settle();
  // A log that moves with its slot has every page by now.
  engine_.clock().WaitForReclaims();
}

// Detaches what every change takes away, inside the writer's section. Returns whether anything was
// there.
bool Batch::DetachAll(TableCache& spare, TableList& detached) {
  AssertWriting(engine_.mmu_lock());
  bool any = false;
  for (const SlotBatch::Step& step : slots_.steps()) {
    if (!TakesAway(step.kind)) continue;
    const MemorySlot& slot = step.old_slot;
    any |= engine_.space(slot.address_space).Detach({slot.base, slot.end()}, spare, detached);
  }
  for (const ViewPart& part : views_) {
    for (const FrameRange& range : part.change.ranges()) {
      any |= engine_.space(part.space).DetachIn(part.change.view(), range, spare, detached);
    }
  }
  for (const FrameRange& range : attributes_) {
    engine_.ForEachSpace([&](AddressSpace& space) { any |= space.Detach(range, spare, detached); });
  }
  for (const Zap& zap : zaps_) {
    any |= engine_.space(zap.space).Detach(zap.range, spare, detached);
  }
  for (const Rmap& rmap : rmaps_) engine_.space(rmap.space).SetRmap(rmap.slot, rmap.rmap);
  return any;
}

// Protects slots that begin or end to log, whose new flags show already, in the same section.
bool Batch::ProtectForLogs(TableList& detached) {
  AssertWriting(engine_.mmu_lock());
  bool any = false;
  for (const SlotBatch::Step& step : slots_.steps()) {
    if (step.kind != SlotChange::kFlagsOnly) continue;
    any |= ProtectForLog(engine_, step.new_slot, step.old_slot.logs_dirty_pages(), detached);
  }
  return any;
}

// Lets new slots show, when no CPU can reach anything of the slots that went.
void Batch::ShowSlots() {
  if (slots_.steps().empty()) return;
  std::vector<uint64_t> before;
  for (size_t space = 0; space < engine_.address_spaces(); ++space) {
    before.push_back(SettledGeneration(engine_, static_cast<AddressSpaceId>(space)));
  }
  slots_.Publish();
  PendingFlush flush;
  {
    MmuWriteSection section(engine_.mmu_lock());
    engine_.sequence().Move();
    TableList detached;
    bool any = false;
    for (size_t i = 0; i < before.size(); ++i) {
      any |= DetachOldMmio(engine_, static_cast<AddressSpaceId>(i), before[i], detached);
    }
    flush = engine_.clock().AdvanceIf(any);
    engine_.clock().Retire(std::move(detached), flush);
  }
  flush.Settle();
}

absl::Status Vm::Apply(absl::Span<const Change> changes) {
  if (changes.empty()) return absl::OkStatus();
  engine_->StockSpare(changes.size());
  MutexLock lock(engine_->slots_mutex());
  const auto batch = std::make_unique<Batch>(*engine_);
  for (size_t i = 0; i < changes.size(); ++i) {
    const absl::Status bad = batch->Add(changes[i]);
    if (!bad.ok()) {
      return absl::Status(bad.code(), absl::StrFormat("change %d: %s", i, bad.message()));
    }
  }
  batch->Commit();
  return absl::OkStatus();
}

}  // namespace tdp
