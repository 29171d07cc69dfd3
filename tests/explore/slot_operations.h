// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The public operations that change slots are here; tests/explore/operations.h has the others.

#ifndef TDP_TESTS_EXPLORE_SLOT_OPERATIONS_H_
#define TDP_TESTS_EXPLORE_SLOT_OPERATIONS_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tests/explore/world.h"

namespace tdp::explore {

// Several operations work on these frames.
inline constexpr Gfn kFew{1};
inline constexpr uint64_t kFewPages = 3;

// Slot 1 goes, comes over other memory, or goes to another place.
void DeleteSecond(World& world);
void MakeAnew(World& world);
void MoveSecond(World& world);
void LogSecondAndMove(World& world);
// Slot 1 goes while it logs, and its log is shown.
void DeleteAndShow(World& world);
// Slot 1 comes over other memory, and a few pages are zapped, in one batch.
void MakeAnewAtOnce(World& world);

// Slot 2 comes, of host memory or of host frames, and goes.
void MakeInHole(World& world);
void MakeOfFrames(World& world);
void DeleteInHole(World& world);

// Slot 0 logs, or does no more.
void LogOn(World& world);
void LogOff(World& world);

// Slots of address space 1 log or do no more, move, or come over other memory.
void LogOnInSmm(World& world);
void LogOffInSmm(World& world);
void MoveSmram(World& world);
void MakeSmramAnew(World& world);
// SMRAM moves and slot 1 of address space 0 goes, in one batch.
void SwapAtOnce(World& world);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_SLOT_OPERATIONS_H_
