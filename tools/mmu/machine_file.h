// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Machine files: the MMU of a real part as text, each number with its source.
//
//   [tlb L1D 4K]                what it is, and its name
//   level = 1
//   for = load store            fetch, load, store; of data caches walk too
//   pages = 4k                  4k, 2m, 1g
//   sets = 16 | the manual, page 43
//   ways = 4 | the same
//   replacement = plru | assumed
//   cycles = 0 | assumed
//
// Other sections: [machine] with name; [walk-cache NAME] with of (guest, ept, both) and level;
// [nested-tlb NAME] with pages; [data-cache NAME] with level and for; [memory] with cycles; [costs]
// with vm-exit, page-fault and context-switch. A line that begins with # says nothing.

#ifndef TDP_TOOLS_MMU_MACHINE_FILE_H_
#define TDP_TOOLS_MMU_MACHINE_FILE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/backends/sim/mmu_config.h"

namespace tdp::tools {

// InvalidArgument, with `name`, line and reason, for a file that does not follow the form: an
// unknown section or key, one that is missing or there twice, a number out of range, a number or a
// policy without a source.
absl::StatusOr<sim::MmuConfig> ParseMachine(std::string_view name, std::string_view text);

// The machine of that name among those that come with the program, or in the file of that name.
// NotFound, listing the names, if there is neither; else the errors of `ParseMachine`.
absl::StatusOr<sim::MmuConfig> LoadMachine(const std::string& name_or_path);

// Where the number under `cost` in [costs] comes from, for a report: the file, and whether that
// says it is assumed. The errors of `LoadMachine`.
absl::StatusOr<std::string> NameOfCost(const std::string& name_or_path, const std::string& cost);

// Returns the names of the machines that come with the program.
std::vector<std::string> MachineNames();

}  // namespace tdp::tools

#endif  // TDP_TOOLS_MMU_MACHINE_FILE_H_
