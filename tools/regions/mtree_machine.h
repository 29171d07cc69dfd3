// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A machine's regions from what QEMU prints of them. What the print leaves out is taken from its
// flat views, where it has both, or guessed as docs/regions.md says.

#ifndef TDP_TOOLS_REGIONS_MTREE_MACHINE_H_
#define TDP_TOOLS_REGIONS_MTREE_MACHINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/tools/regions/mtree_text.h"
#include "tdp/tools/regions/region_file.h"

namespace tdp::tools {

struct MtreeMachine {
  RegionMachine regions;
  // By address space: what QEMU itself shows there; null if the file does not say, or says nothing
  // else.
  std::vector<const MtreeFlatView*> views;
  // Each says in a line what was guessed.
  std::vector<std::string> notes;
};

// The machine of the address spaces named, one or two; if none is, of "memory" or else of the first
// there is. From flat views alone each address space has a root with the ranges in it.
// InvalidArgument, with the line where there is one, for a name that the file lacks, an alias of a
// region that it lacks, and what a `RegionTree` refuses. `file` outlives the result.
absl::StatusOr<MtreeMachine> MakeMtreeMachine(const MtreeFile& file,
                                              absl::Span<const std::string> spaces);

// Returns what is different between `view` and `flat`, a line each; empty if nothing is.
std::vector<std::string> ViewDifferences(absl::Span<const FlatRange> flat,
                                         const MtreeFlatView& view);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_MTREE_MACHINE_H_
