// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a view allows of each guest frame.

#ifndef TDP_MMU_POLICY_VIEW_RULES_H_
#define TDP_MMU_POLICY_VIEW_RULES_H_

#include <cstdint>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/guest_memory_types.h"
#include "tdp/mmu/policy/frame_map.h"

namespace tdp {

struct ViewRule {
  Access rights = Access::All();  // at most these, of what slot and host allow
  bool raises_ve = false;         // what the view denies becomes #VE where it can
  bool has_type = false;          // `type` counts
  ViewMemoryType type;

  friend bool operator==(const ViewRule&, const ViewRule&) = default;
};

struct RaisesVe {
  constexpr bool operator()(const ViewRule& rule) const { return rule.raises_ve; }
};

using ViewRules = FrameMap<ViewRule, RaisesVe>;

// Says which host frame a view shows for a guest frame, if it is another than the slot's. It is
// kept as the distance between the two, so that frames in a row are one run.
class ViewFrame {
 public:
  constexpr ViewFrame() = default;
  constexpr ViewFrame(Gfn gfn, Hfn shown) : raw_(kIsShown | ((shown.raw() - gfn.raw()) & kMask)) {}

  constexpr bool is_shown() const { return raw_ != 0; }
  constexpr Hfn FrameOf(Gfn gfn) const { return Hfn((gfn.raw() + raw_) & kMask); }

  friend constexpr bool operator==(const ViewFrame&, const ViewFrame&) = default;

 private:
  static constexpr uint64_t kIsShown = uint64_t{1} << 63;
  static constexpr uint64_t kMask = (uint64_t{1} << (52 - kPageShift)) - 1;

  uint64_t raw_ = 0;
};

using ViewFrames = FrameMap<ViewFrame>;

// Says of each frame whether it is private to the guest.
using PrivateFrames = FrameMap<bool>;

}  // namespace tdp

#endif  // TDP_MMU_POLICY_VIEW_RULES_H_
