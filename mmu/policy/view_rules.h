// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a view allows of each guest frame.

#ifndef TDP_MMU_POLICY_VIEW_RULES_H_
#define TDP_MMU_POLICY_VIEW_RULES_H_

#include "tdp/base/access.h"
#include "tdp/mmu/policy/frame_map.h"

namespace tdp {

struct ViewRule {
  Access rights = Access::All();  // at most these, of what slot and host allow
  bool raises_ve = false;         // what the view denies becomes #VE where it can

  friend bool operator==(const ViewRule&, const ViewRule&) = default;
};

struct RaisesVe {
  constexpr bool operator()(const ViewRule& rule) const { return rule.raises_ve; }
};

using ViewRules = FrameMap<ViewRule, RaisesVe>;

// Which frames are private to the guest.
using PrivateFrames = FrameMap<bool>;

}  // namespace tdp

#endif  // TDP_MMU_POLICY_VIEW_RULES_H_
