// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Builds what a view is to allow and to show from now on, beside what counts until then.

#ifndef TDP_MMU_VM_VIEW_CHANGE_H_
#define TDP_MMU_VM_VIEW_CHANGE_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/policy/view_rules.h"
#include "tdp/mmu/space/view.h"

namespace tdp {

// A change of one view, used under the slots mutex. Each `Set` checks its arguments as the call of
// `Vm` of that name says, and changes nothing if they are bad; several add up.
class ViewChange {
 public:
  ViewChange(Engine& engine, View& view) : engine_(engine), view_(view) {}
  ViewChange(ViewChange&&) = default;

  View& view() const { return view_; }
  // Returns where mappings have to go because of it.
  const std::vector<FrameRange>& ranges() const { return ranges_; }

  absl::Status SetRights(Gfn first, PageCount count, Access rights);
  absl::Status SetRaisesVe(Gfn first, PageCount count, bool raises);
  absl::Status SetMemoryType(Gfn first, PageCount count, std::optional<ViewMemoryType> type);
  absl::Status SetFrames(Gfn first, PageCount count, std::optional<Hfn> frames);

  // Lets faults go by the new rules, in the writer's section that takes the mappings away and moves
  // the change sequence. What counted before goes with this object.
  void Publish();

 private:
  absl::StatusOr<FrameRange> CheckRange(Gfn first, PageCount count) const;
  absl::Status CheckMayRule() const;
  absl::Status ChangeRules(Gfn first, PageCount count,
                           absl::FunctionRef<ViewRule(ViewRule)> change);

  Engine& engine_;
  View& view_;
  std::vector<FrameRange> ranges_;
  bool has_rules_ = false;  // `rules_` take the place of the view's; null: none
  bool has_frames_ = false;
  std::unique_ptr<const ViewRules> rules_;
  std::unique_ptr<const ViewFrames> frames_;
};

}  // namespace tdp

#endif  // TDP_MMU_VM_VIEW_CHANGE_H_
