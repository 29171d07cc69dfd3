// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm/view_change.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/base/access.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {
namespace {

// Returns a copy of `old` (null: one that says nothing) in which `change` was made in `range`; null
// if the copy says nothing.
template <typename Map, typename Value, typename Change>
std::unique_ptr<const Map> Changed(const std::unique_ptr<const Map>& old, FrameRange range,
                                   Change change) {
  const Map from = old == nullptr ? Map(Value()) : *old;
  auto changed = std::make_unique<const Map>(from.With(range, change));
  if (changed->IsAll(Value())) changed.reset();
  return changed;
}

}  // namespace

absl::StatusOr<FrameRange> ViewChange::CheckRange(Gfn first, PageCount count) const {
  const Gfn end = view_.mmu().end();
  if (count == PageCount(0) || first >= end || count > end - first) {
    return absl::InvalidArgumentError(
        absl::StrFormat("frames 0x%x, count 0x%x: none, or beyond what the tables can name",
                        first.raw(), count.raw()));
  }
  return FrameRange{first, first + count};
}

// Views other than the base are not made where their rules could not hold, so only the base is
// checked.
absl::Status ViewChange::CheckMayRule() const {
  if (view_.id() != kBaseView) return absl::OkStatus();
  return CheckCall(engine_.options(), Feature::kRangeRules);
}

absl::Status ViewChange::ChangeRules(Gfn first, PageCount count,
                                     absl::FunctionRef<ViewRule(ViewRule)> change) {
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckRange(first, count));
  rules_ = Changed<ViewRules, ViewRule>(has_rules_ ? rules_ : view_.rules, range, change);
  has_rules_ = true;
  ranges_.push_back(range);
  return absl::OkStatus();
}

absl::Status ViewChange::SetRights(Gfn first, PageCount count, Access rights) {
  TDP_RETURN_IF_ERROR(CheckMayRule());
  TDP_ASSIGN_OR_RETURN(rights, CheckRights(engine_, rights));
  return ChangeRules(first, count, [rights](ViewRule rule) {
    rule.rights = rights;
    return rule;
  });
}

absl::Status ViewChange::SetRaisesVe(Gfn first, PageCount count, bool raises) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_.options(), Feature::kRaisesVe));
  if (!engine_.pool().empty_entry().suppress_ve()) {
    return absl::FailedPreconditionError("VmOptions.virtualization_exceptions is off");
  }
  if (!engine_.accessed_dirty()) {
    return absl::FailedPreconditionError(
        "without A and D bits aging takes rights, and the guest would hear of that");
  }
  return ChangeRules(first, count, [raises](ViewRule rule) {
    rule.raises_ve = raises;
    return rule;
  });
}

absl::Status ViewChange::SetMemoryType(Gfn first, PageCount count,
                                       std::optional<ViewMemoryType> type) {
  TDP_RETURN_IF_ERROR(CheckMayRule());
  if (type && !IsValidMemoryType(static_cast<uint64_t>(type->type))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("type %u: reserved", static_cast<unsigned>(type->type)));
  }
  return ChangeRules(first, count, [type](ViewRule rule) {
    rule.has_type = type.has_value();
    rule.type = type.value_or(ViewMemoryType());
    return rule;
  });
}

absl::Status ViewChange::SetFrames(Gfn first, PageCount count, std::optional<Hfn> frames) {
  TDP_RETURN_IF_ERROR(CheckMayRule());
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckRange(first, count));
  const int bits = engine_.backend().capabilities().physical_address_bits;
  const uint64_t end = uint64_t{1} << (bits - kPageShift);
  if (frames && (frames->raw() >= end || count.raw() > end - frames->raw())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("host frame 0x%x, count 0x%x: beyond the MAXPHYADDR of %d bits",
                        frames->raw(), count.raw(), bits));
  }
  const ViewFrame shown = frames ? ViewFrame(first, *frames) : ViewFrame();
  frames_ = Changed<ViewFrames, ViewFrame>(has_frames_ ? frames_ : view_.frames, range,
                                           [shown](ViewFrame) { return shown; });
  has_frames_ = true;
  ranges_.push_back(range);
  return absl::OkStatus();
}

void ViewChange::Publish() {
  AssertWriting(engine_.mmu_lock());
  if (has_rules_) {
    view_.policy().set_rules(rules_.get());
    std::swap(view_.rules, rules_);
  }
  if (has_frames_) {
    view_.policy().set_frames(frames_.get());
    std::swap(view_.frames, frames_);
  }
}

}  // namespace tdp
