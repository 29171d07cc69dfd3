// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Regions, flat views and slots as text, in the form of QEMU's `info mtree`.

#ifndef TDP_TOOLS_REGIONS_REGION_TEXT_H_
#define TDP_TOOLS_REGIONS_REGION_TEXT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"

namespace tdp::tools {

// "address-space: NAME" and the tree below `root`, a region a line, children indented, siblings by
// offset. Every region outside that an alias shows follows with its own tree.
std::string TreeText(std::string_view name, const Region& root);

// "FlatView of NAME" and a range a line.
std::string FlatViewText(std::string_view name, absl::Span<const FlatRange> view);

// "slots of NAME" and a slot a line.
std::string SlotsText(std::string_view name, absl::Span<const RegionSlots::Applied> slots);

// One step, as a line without its end.
std::string StepText(SlotStep::Kind kind, uint32_t id, const PlannedSlot& slot);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_REGION_TEXT_H_
