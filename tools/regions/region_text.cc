// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/region_text.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/tools/printable_text.h"

namespace tdp::tools {
namespace {

// Returns the last byte of what begins at `start`; what reaches beyond 2^64 is cut there.
uint64_t LastOf(uint64_t start, RegionSize size) {
  const RegionSize end = std::min(RegionSize(start) + size, kWholeAddressSpace);
  return absl::Uint128Low64(end - 1);
}

std::string RangeText(uint64_t start, RegionSize size) {
  return absl::StrFormat("%016x-%016x", start, LastOf(start, size));
}

// QEMU's words.
std::string_view TypeOf(const Region& region) {
  switch (region.kind()) {
    case RegionKind::kRam:
      return region.read_only() ? "rom" : "ram";
    case RegionKind::kRom:
      return "rom";
    case RegionKind::kRomDevice:
      return region.rom_mode() ? "romd" : "i/o";
    case RegionKind::kAlias:
      return TypeOf(*region.alias_of());
    case RegionKind::kContainer:
    case RegionKind::kMmio:
    case RegionKind::kReservation:
      break;
  }
  return "i/o";
}

class TreeWriter {
 public:
  void Write(const Region& region, uint64_t base, int depth) {
    seen_.insert(&region);
    absl::StrAppendFormat(&text_, "%*s%s (prio %d, %s): ", 2 * depth, "",
                          RangeText(base, region.size()), region.priority(), TypeOf(region));
    if (region.is_alias()) {
      absl::StrAppendFormat(&text_, "alias %s @%s %s", Printable(region.name()),
                            Printable(region.alias_of()->name()),
                            RangeText(region.alias_offset(), region.size()));
      shown_.push_back(region.alias_of());
    } else {
      absl::StrAppend(&text_, Printable(region.name()));
    }
    absl::StrAppend(&text_, region.enabled() ? "\n" : " [disabled]\n");
    for (const Region* child : ByOffset(region)) Write(*child, base + child->offset(), depth + 1);
  }

  // The regions that aliases show and no tree so far has.
  void WriteShown() {
    for (size_t i = 0; i < shown_.size(); ++i) {
      const Region* top = shown_[i];
      while (top->parent() != nullptr) top = top->parent();
      if (seen_.contains(top)) continue;
      absl::StrAppend(&text_, "memory-region: ", Printable(top->name()), "\n");
      Write(*top, 0, 1);
    }
  }

  std::string text_;

 private:
  static std::vector<const Region*> ByOffset(const Region& region) {
    std::vector<const Region*> children(region.children().begin(), region.children().end());
    std::stable_sort(children.begin(), children.end(), [](const Region* a, const Region* b) {
      return a->offset() != b->offset() ? a->offset() < b->offset() : a->priority() > b->priority();
    });
    return children;
  }

  std::set<const Region*> seen_;
  std::vector<const Region*> shown_;
};

std::string SlotText(const PlannedSlot& slot) {
  return absl::StrFormat("%s -> hva %012x %s%s  %s @%016x", RangeText(slot.gpa.raw(), slot.size),
                         slot.hva.raw(), (slot.flags & kSlotReadOnly) != 0 ? "ro" : "rw",
                         (slot.flags & kSlotLogDirtyPages) != 0 ? ",log" : "",
                         Printable(slot.region->name()), slot.offset);
}

}  // namespace

std::string TreeText(std::string_view name, const Region& root) {
  TreeWriter writer;
  writer.text_ = absl::StrCat("address-space: ", Printable(name), "\n");
  writer.Write(root, 0, 1);
  writer.WriteShown();
  return std::move(writer.text_);
}

std::string FlatViewText(std::string_view name, absl::Span<const FlatRange> view) {
  std::string text = absl::StrCat("FlatView of ", Printable(name), "\n");
  for (const FlatRange& range : view) {
    const bool rom = range.read_only && range.region->is_memory();
    absl::StrAppendFormat(&text, "  %s (prio %d, %s): %s", RangeText(range.start, range.size),
                          range.region->priority(), rom ? "rom" : TypeOf(*range.region),
                          Printable(range.region->name()));
    if (range.offset != 0) absl::StrAppendFormat(&text, " @%016x", range.offset);
    absl::StrAppend(&text, "\n");
  }
  return text;
}

std::string SlotsText(std::string_view name, absl::Span<const RegionSlots::Applied> slots) {
  std::string text = absl::StrCat("slots of ", Printable(name), "\n");
  for (const RegionSlots::Applied& applied : slots) {
    absl::StrAppendFormat(&text, "  %2d  %s\n", applied.id, SlotText(applied.slot));
  }
  return text;
}

std::string StepText(SlotStep::Kind kind, uint32_t id, const PlannedSlot& slot) {
  constexpr std::string_view kWords[] = {"delete", "move", "flags", "create"};
  return absl::StrFormat("  %-6s %2d  %s", kWords[static_cast<int>(kind)], id, SlotText(slot));
}

}  // namespace tdp::tools
