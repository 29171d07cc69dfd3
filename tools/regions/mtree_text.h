// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Reads what QEMU's monitor prints for `info mtree`, with or without -f, -o and -D, as it stands
// there.

#ifndef TDP_TOOLS_REGIONS_MTREE_TEXT_H_
#define TDP_TOOLS_REGIONS_MTREE_TEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/memslot/region.h"

namespace tdp::tools {

// The words that QEMU has for what a region is.
enum class MtreeType : uint8_t { kRam, kRom, kRomDevice, kIo };

// A line of a tree, and those below it.
struct MtreeNode {
  int line = 0;        // of the file; 0 for a disabled region that QEMU did not print
  uint64_t start = 0;  // in the guest, not in the parent
  RegionSize size = 0;
  int priority = 0;
  MtreeType type = MtreeType::kIo;  // of an alias: of what it shows
  bool enabled = true;
  std::string name;
  std::string alias_of;  // a region's name; empty if this is no alias
  uint64_t alias_offset = 0;
  std::vector<std::unique_ptr<MtreeNode>> children;

  bool is_alias() const { return !alias_of.empty(); }
};

// "address-space: NAME", once or more often for one tree, or "memory-region: NAME", and the tree.
struct MtreeSection {
  int line = 0;
  bool is_space = false;
  std::vector<std::string> names;
  std::unique_ptr<MtreeNode> root;  // null if QEMU printed none
};

// A line of a flat view.
struct MtreeRange {
  int line = 0;
  uint64_t start = 0;
  RegionSize size = 0;
  int priority = 0;
  MtreeType type = MtreeType::kIo;
  std::string name;
  uint64_t offset = 0;  // in the region of that name
};

// "FlatView #N", the address spaces that have it, and its ranges in ascending order.
struct MtreeFlatView {
  int line = 0;
  std::vector<std::string> spaces;
  std::vector<MtreeRange> ranges;
};

struct MtreeFile {
  std::vector<MtreeSection> sections;
  std::vector<MtreeFlatView> views;
};

// Returns whether `text` has a line with which `info mtree` begins an address space or a view.
bool LooksLikeMtree(std::string_view text);

// InvalidArgument, in one line that begins with "LINE: ", for a line that `info mtree` does not
// print, an indentation or a number that cannot be, ranges of a flat view that overlap, and text
// that ends before there is anything. The prompt and banner of the monitor are passed over.
absl::StatusOr<MtreeFile> ParseMtree(std::string_view text);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_MTREE_TEXT_H_
