// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The public operations about views are here; tests/explore/operations.h has the others.

#ifndef TDP_TESTS_EXPLORE_VIEW_OPERATIONS_H_
#define TDP_TESTS_EXPLORE_VIEW_OPERATIONS_H_

#include "tests/explore/world.h"

namespace tdp::explore {

// A view comes and goes: one like the base, and one that denies what others allow.
void MakeView(World& world);
void MakeRuledView(World& world);

// The rules of the view beside the base change.
void SetRights(World& world);
// A batch changes them, whose rules faults ask for before they come to a section.
void SetRightsAtOnce(World& world);
// The view denies writes from now on, for good.
void DenyAtOnce(World& world);
void SetFrames(World& world);
void SetRaisesVe(World& world);

// A vCPU comes, runs on two views, and goes.
void SwitchView(World& world);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_VIEW_OPERATIONS_H_
