// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm`'s calls about views.

#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/space/view.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {
namespace {

// Rights as an entry can have them: without MBEC one X stands for both modes.
absl::StatusOr<Access> CheckRights(Engine& engine, Access rights) {
  const Capabilities& offered = engine.backend().capabilities();
  if (rights.can_write() && !rights.can_read()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rights %s: no page can be written and not read", ToString(rights)));
  }
  if (!UsesExecuteByMode(engine.options(), offered)) {
    if (rights.can_user_execute() && !rights.can_execute()) {
      return absl::FailedPreconditionError(
          absl::StrFormat("rights %s: VmOptions.execute_by_mode is off", ToString(rights)));
    }
    if (rights.can_execute()) rights = rights | Access::UserExecute();
  }
  if (!rights.can_read() && !rights.is_empty() && !offered.ept.execute_only()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "rights %s: the backend does not offer execute-only pages", ToString(rights)));
  }
  return rights;
}

// Under the slots mutex. Publishes the rules in the section that takes away what was mapped by the
// old ones: a fault under way finds the sequence moved.
absl::Status ChangeRules(Engine& engine, View& view, Gfn first, PageCount count,
                         AddressSpaceId space, absl::FunctionRef<ViewRule(ViewRule)> change) {
  const Gfn end = view.mmu().end();
  if (count == PageCount(0) || first >= end || count > end - first) {
    return absl::InvalidArgumentError(
        absl::StrFormat("frames 0x%x, count 0x%x: none, or beyond what the tables can name",
                        first.raw(), count.raw()));
  }
  const FrameRange range{first, first + count};
  const ViewRules old = view.rules == nullptr ? ViewRules(ViewRule()) : *view.rules;
  auto rules = std::make_unique<const ViewRules>(old.With(range, change));
  if (rules->IsAll(ViewRule())) rules.reset();
  PendingFlush flush = engine.ZapIn(space, view, range.first, range.end, [&] {
    view.policy().set_rules(rules.get());
    engine.sequence().Move();
  });
  std::swap(view.rules, rules);
  flush.Settle();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ViewId> Vm::CreateView(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kViews));
  MutexLock lock(engine_->slots_mutex());
  ViewSet& views = engine_->views(space);
  TDP_ASSIGN_OR_RETURN(View * view, views.Make());
  engine_->ChangeQuotas([&](MemoryQuotas& quotas) { quotas.SetViews(space, views.size()); });
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
    engine_->views(space).UpdateList(*view);
  });
  view->rules.reset();
  // Even if nothing was mapped: whoever went there by VMFUNC is brought out of the guest, and comes
  // back by the EPTP of `Vcpu`.
  flush.Merge(engine_->clock().Advance());
  flush.Settle();
  return absl::OkStatus();
}

absl::Status Vm::SetViewRights(ViewId id, Gfn first, PageCount count, Access rights,
                               AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(View * view, FindView(*engine_, id, space));
  if (id == kBaseView) {
    return absl::InvalidArgumentError("view 0 is the address space's own and denies nothing");
  }
  TDP_ASSIGN_OR_RETURN(rights, CheckRights(*engine_, rights));
  return ChangeRules(*engine_, *view, first, count, space, [rights](ViewRule rule) {
    rule.rights = rights;
    return rule;
  });
}

absl::Status Vm::SetRaisesVe(ViewId id, Gfn first, PageCount count, bool raises,
                             AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(View * view, FindView(*engine_, id, space));
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kRaisesVe));
  if (!engine_->pool().empty_entry().suppress_ve()) {
    return absl::FailedPreconditionError("VmOptions.virtualization_exceptions is off");
  }
  if (!engine_->accessed_dirty()) {
    return absl::FailedPreconditionError(
        "without A and D bits aging takes rights, and the guest would hear of that");
  }
  return ChangeRules(*engine_, *view, first, count, space, [raises](ViewRule rule) {
    rule.raises_ve = raises;
    return rule;
  });
}

absl::StatusOr<Hpa> Vm::EptpList(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  if (!engine_->backend().capabilities().eptp_switching) {
    return absl::FailedPreconditionError("the backend does not offer EPTP switching by VMFUNC");
  }
  MutexLock lock(engine_->slots_mutex());
  return engine_->views(space).EptpList(engine_->mmu_lock());
}

}  // namespace tdp
