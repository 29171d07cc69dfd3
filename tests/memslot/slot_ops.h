// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Operations on slots, dirty logs and regions are values here: made from bytes, applied beside a
// model that knows pages only, printed as C++.

#ifndef TDP_TESTS_MEMSLOT_SLOT_OPS_H_
#define TDP_TESTS_MEMSLOT_SLOT_OPS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/tests/memslot/region_machine.h"

namespace tdp {

struct SlotOp {
  enum class Kind : uint8_t {
    kSet,      // slot, flags, gfn, pages, hva_page
    kAbandon,  // the same, dropped after its invalid slot was published
    kMark,     // the page gfn is written
    kTake,     // the log of slot
    kClear,    // pages of the log of slot from 64 * gfn on
    kRegion,   // slot: which region, flags: which property, gfn: its value
  };

  Kind kind = Kind::kSet;
  uint8_t slot = 0;
  uint8_t flags = 0;
  uint8_t gfn = 0;
  uint8_t pages = 0;
  uint8_t hva_page = 0;
};

std::vector<SlotOp> SlotOpsFromBytes(const uint8_t* data, size_t size);
// Returns "{SlotOp::Kind::kSet, 1, 0, 16, 4, 2}," and the like, a line each.
std::string SlotOpsToCpp(const std::vector<SlotOp>& ops);

class SlotOpsModel {
 public:
  SlotOpsModel();

  // Applies `op` to both. Returns Internal, saying what differs.
  absl::Status Apply(const SlotOp& op);
  // Compares everything.
  absl::Status Check();

 private:
  struct Page {
    uint32_t slot = 0;
    uint64_t hva_page = 0;
    uint32_t flags = 0;
  };

  absl::Status Set(const SlotOp& op, bool abandon);
  absl::Status Expected(const MemoryRegion& region) const;
  void SetModel(const MemoryRegion& region);
  absl::Status Mark(const SlotOp& op);
  absl::Status Take(const SlotOp& op);
  absl::Status Clear(const SlotOp& op);
  absl::Status ChangeRegion(const SlotOp& op);
  absl::Status CheckRegions() const;

  SlotSet slots_;
  SlotReader reader_;
  std::map<uint32_t, MemoryRegion> regions_;
  std::map<uint64_t, Page> pages_;
  std::map<uint32_t, std::set<uint64_t>> dirty_;

  RegionTree tree_;
  Region* root_;
  std::vector<Region*> tree_regions_;
  SlotSetSink sink_;
  std::unique_ptr<RegionSlots> region_slots_;
};

}  // namespace tdp

#endif  // TDP_TESTS_MEMSLOT_SLOT_OPS_H_
