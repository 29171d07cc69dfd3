// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// All that page tables in an image map, in runs of leaves that continue each other.

#ifndef TDP_TOOLS_IMAGE_LEAF_MAP_H_
#define TDP_TOOLS_IMAGE_LEAF_MAP_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/image/table_walk.h"

namespace tdp::tools {

// Leaves of one size and kind, one after the other on both sides.
struct LeafRun {
  uint64_t from = 0;
  uint64_t to = 0;
  uint64_t bytes = 0;
  int shift = 12;           // of a leaf's size
  uint64_t attributes = 0;  // equal for equal rights and memory types

  uint64_t end() const { return from + bytes; }
  bool IsLike(const LeafRun& other) const {
    return shift == other.shift && attributes == other.attributes &&
           to - from == other.to - other.from;
  }
  friend bool operator==(const LeafRun&, const LeafRun&) = default;
};

// An entry that no CPU would accept, or a table that the image does not have.
struct TableProblem {
  uint64_t address = 0;  // where the entry or the table lies in the image
  uint64_t from = 0;     // the first address that is translated by it
  int level = 0;
  uint64_t entry = 0;       // if there is one
  bool is_outside = false;  // the image has no such table
};

struct LeafMap {
  std::vector<LeafRun> runs;         // by `from`
  std::array<uint64_t, 6> leaves{};  // by level
  uint64_t tables = 0;
  uint64_t problem_count = 0;
  std::vector<TableProblem> problems;  // the first of them
  static constexpr size_t kProblemsKept = 20;
};

// Returns what the guest's tables map, if the walker knows them, and else what the EPT maps. A run
// of a guest goes from linear to guest-physical addresses. ResourceExhausted for tables with
// more entries than 2^28, or more runs than 2^22: these lead back to themselves.
absl::StatusOr<LeafMap> ReadLeafMap(const TableWalker& walker);

// One run: "0x...-0x... 0x... 2m rwx WB". `is_ept`: of what the attributes are.
std::string LeafRunText(const LeafRun& run, bool is_ept);
// Says what is wrong with an entry, by the rule that it breaks.
std::string TableProblemText(const TableProblem& problem, const TableWalker& walker);

// Holds a range that only one of two maps has, or that they map differently: `before` and `after`
// have the same range, or one of them is empty.
struct LeafChange {
  LeafRun before;
  LeafRun after;
};
std::vector<LeafChange> CompareLeafMaps(const LeafMap& before, const LeafMap& after);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_LEAF_MAP_H_
