// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine model's frames that slots name and views show are here, and its changes that are made
// together.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm/change.h"
#include "tests/model/engine_model.h"

namespace tdp::model {
namespace {

absl::Status Wrong(std::string what) { return absl::InternalError(std::move(what)); }

}  // namespace

// Returns rights that every backend offers.
tdp::Access EngineModel::RightsOf(uint8_t how) {
  constexpr tdp::Access kRights[] = {tdp::Access::All(),
                                     tdp::Access::ReadExecute(),
                                     tdp::Access::ReadWrite(),
                                     tdp::Access::Read(),
                                     tdp::Access::Execute() | tdp::Access::UserExecute(),
                                     tdp::Access::None()};
  return kRights[how % std::size(kRights)];
}

tdp::Access EngineModel::RightsAt(ViewId view, uint64_t page) const {
  return rights_[view][page] & SlotAt(page)->rights;
}

std::optional<Hfn> EngineModel::ShownAt(ViewId view, uint64_t page) const {
  return shown_[view][page];
}

absl::StatusOr<Hpa> EngineModel::ExpectedFrame(ViewId view, const Slot& slot, uint64_t page) {
  if (const std::optional<Hfn> shown = ShownAt(view, page)) return shown->address();
  if (slot.has_frames() && !private_[page]) {
    return kFrames + (slot.host + page - slot.page) * kPageSize;
  }
  TDP_ASSIGN_OR_RETURN(const HostPage host,
                       memory().Resolve(HostOf(slot, page), tdp::Access::Read()));
  return host.hfn.address();
}

absl::Status EngineModel::SetFrames(const Op& op) {
  if (!HasViews()) return absl::OkStatus();
  ForgetUse();
  const auto view = static_cast<ViewId>(op.slot % kViews);
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(1 + op.count % 1024, kGuestPages - first);
  const bool shows = op.how % 4 != 0;
  const Hfn frames = kShown + PageCount(op.how % 8 == 1 ? first : op.host);
  shown_[view].SetEach(first, count, [&](uint64_t i) {
    return shows ? std::optional(frames + PageCount(i)) : std::nullopt;
  });
  return vm().SetViewFrames(view, Gfn(first), PageCount(count),
                            shows ? std::optional(frames) : std::nullopt);
}

// Populate gets as far as there is memory that is not denied altogether.
absl::Status EngineModel::Populate(const Op& op) {
  const auto view = static_cast<ViewId>(HasViews() ? op.slot % kViews : 0);
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(1 + op.count % 2048, kGuestPages - first);
  uint64_t expected = 0;
  for (; expected < count; ++expected) {
    const uint64_t page = first + expected;
    const Slot* slot = SlotAt(page);
    const bool has_memory = slot != nullptr && (!private_[page] || HasPrivateMemory(*slot) ||
                                                ShownAt(view, page).has_value());
    if (!has_memory || RightsAt(view, page).is_empty()) break;
  }
  ForgetUse();
  const auto done = vm().Populate(Gfn(first).address(), count * kPageSize, 0, view);
  const uint64_t pages = done.ok() ? *done >> kPageShift : 0;
  for (uint64_t page = first; page < first + pages; ++page) {
    if (!vm().Translate(Gfn(page).address(), 0, view).ok()) return Wrong("a page is not there");
  }
  const bool short_of_tables =
      is_quota_set_ && (done.ok() || absl::IsResourceExhausted(done.status()));
  if (pages == expected || (pages < expected && short_of_tables)) return absl::OkStatus();
  return Wrong(absl::StrFormat("populate of 0x%x pages from 0x%x got 0x%x instead of 0x%x: %s",
                               count, first, pages, expected, done.status().ToString()));
}

absl::Status EngineModel::ApplyBatch(const Op& op) {
  ForgetUse();
  const uint32_t id = op.slot % kSlots;
  const Slot slot = SlotFrom(op);
  const auto view = static_cast<ViewId>(op.slot % kViews);
  const tdp::Access rights = RightsOf(op.how);
  std::vector<Change> changes;
  if (HasViews()) {
    changes.push_back(Change::ViewRights(view, Gfn(slot.page), PageCount(slot.count), rights));
  }
  if (slots_.contains(id)) changes.push_back(Change::Region({.slot = id, .size = 0}));
  changes.push_back(Change::Region(RegionOf(id, slot)));
  changes.push_back(Change::Zap(Gfn(op.host % kGuestPages), PageCount(op.count % 64)));
  const absl::Status status = vm().Apply(changes);
  if (OverlapsAnother(id, slot.page, slot.count)) {
    ++batches_refused_;
    return absl::IsAlreadyExists(status) ? absl::OkStatus()
                                         : Wrong("overlapping slots: " + status.ToString());
  }
  TDP_RETURN_IF_ERROR(status);
  ++batches_made_;
  slots_[id] = slot;
  unshown_.erase(id);  // it is another slot, with another log
  if (HasViews()) {
    rights_[view].Set(slot.page, slot.count, rights);
  }
  return absl::OkStatus();
}

}  // namespace tdp::model
