// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm`'s calls about views.

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/space/view.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"
#include "tdp/mmu/vm/view_change.h"

namespace tdp {
namespace {

// Makes the change of one view that `fill(change)` names, and publishes what the view goes by in
// the section that takes away what was mapped by the old: a fault under way finds the sequence
// moved.
template <typename Fill>
absl::Status ChangeView(Engine& engine, ViewId id, AddressSpaceId space, Fill fill) {
  engine.StockSpare();
  MutexLock lock(engine.slots_mutex());
  TDP_ASSIGN_OR_RETURN(View * view, FindView(engine, id, space));
  ViewChange change(engine, *view);
  TDP_RETURN_IF_ERROR(fill(change));
  const FrameRange range = change.ranges().front();
  PendingFlush flush = engine.ZapIn(space, *view, range.first, range.end, [&] {
    change.Publish();
    engine.sequence().Move();
  });
  flush.Settle();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ViewId> Vm::CreateView(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kViews));
  TableInHand root(engine_->pool());
  MutexLock lock(engine_->slots_mutex());
  ViewSet& views = engine_->views(space);
  TDP_ASSIGN_OR_RETURN(View * view, views.Make(root));
  engine_->ChangeQuotas([&](MemoryQuotas& quotas) { quotas.SetViews(space, views.size()); });
  engine_->StockSpareForMoreViews();
  // Guests go there by themselves as soon as the list says where. Another root may have stood in
  // this memory, of which their CPUs still have translations.
  if (views.has_list()) engine_->clock().AdvanceAllRoots().Settle();
  const MmuWriteSection section(engine_->mmu_lock());
  view->policy().Share(views.base().policy());
  view->Open();
  views.UpdateList(*view);
  return view->id();
}

absl::Status Vm::DestroyView(ViewId id, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(View * view, FindView(*engine_, id, space));
  if (id == kBaseView) return absl::InvalidArgumentError("view 0 is the address space's own");
  if (!view->Close()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("view %u: %u vCPUs run on it", id, view->users()));
  }
  PendingFlush flush = engine_->ZapIn(space, *view, Gfn(0), view->mmu().end(), [&] {
    view->policy().set_rules(nullptr);
    view->policy().set_frames(nullptr);
    engine_->views(space).UpdateList(*view);
  });
  view->rules.reset();
  view->frames.reset();
  // The flush is made even if nothing was mapped: whoever went there by VMFUNC is brought out of
  // the guest, and comes back by the EPTP of `Vcpu`.
  flush.Merge(engine_->clock().Advance());
  flush.Settle();
  return absl::OkStatus();
}

absl::Status Vm::SetViewRights(ViewId id, Gfn first, PageCount count, Access rights,
                               AddressSpaceId space) {
  return ChangeView(*engine_, id, space,
                    [&](ViewChange& change) { return change.SetRights(first, count, rights); });
}

absl::Status Vm::SetViewMemoryType(ViewId id, Gfn first, PageCount count,
                                   std::optional<ViewMemoryType> type, AddressSpaceId space) {
  return ChangeView(*engine_, id, space,
                    [&](ViewChange& change) { return change.SetMemoryType(first, count, type); });
}

absl::Status Vm::SetViewFrames(ViewId id, Gfn first, PageCount count, std::optional<Hfn> frames,
                               AddressSpaceId space) {
  return ChangeView(*engine_, id, space,
                    [&](ViewChange& change) { return change.SetFrames(first, count, frames); });
}

absl::Status Vm::SetRaisesVe(ViewId id, Gfn first, PageCount count, bool raises,
                             AddressSpaceId space) {
  return ChangeView(*engine_, id, space,
                    [&](ViewChange& change) { return change.SetRaisesVe(first, count, raises); });
}

absl::StatusOr<Hpa> Vm::EptpList(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  if (!engine_->backend().capabilities().eptp_switching) {
    return absl::FailedPreconditionError("the backend does not offer EPTP switching by VMFUNC");
  }
  TableInHand table(engine_->pool());
  MutexLock lock(engine_->slots_mutex());
  ViewSet& views = engine_->views(space);
  const bool is_first = !views.has_list();
  TDP_ASSIGN_OR_RETURN(const Hpa list, views.EptpList(engine_->mmu_lock(), table));
  // The flushes of vCPUs that used one root were of that root alone.
  if (is_first) engine_->clock().AdvanceAllRoots().Settle();
  return list;
}

}  // namespace tdp
