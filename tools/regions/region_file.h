// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A machine's regions from a JSON file. docs/regions.md has the format.

#ifndef TDP_TOOLS_REGIONS_REGION_FILE_H_
#define TDP_TOOLS_REGIONS_REGION_FILE_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/memslot/region.h"

namespace tdp::tools {

struct RegionMachine {
  struct AddressSpace {
    std::string name;
    Region* root = nullptr;
  };
  // Changes that become visible together.
  struct Transaction {
    std::string name;
    std::vector<std::function<absl::Status(RegionTree&)>> changes;
  };

  std::unique_ptr<RegionTree> tree;
  std::vector<AddressSpace> address_spaces;  // not empty
  std::vector<Transaction> transactions;
};

// InvalidArgument, in one line that begins with the path of the region (or what else is at fault;
// of text that `ParseJson` refuses, line and column), for text that is no JSON, unknown or missing
// fields, values out of range, and trees that are
// none.
absl::StatusOr<RegionMachine> ParseRegionFile(std::string_view text);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_REGION_FILE_H_
