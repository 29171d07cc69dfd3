// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The public operations are here, each with what its header promises when it returns.

#ifndef TDP_TESTS_EXPLORE_OPERATIONS_H_
#define TDP_TESTS_EXPLORE_OPERATIONS_H_

#include <string_view>
#include <vector>

#include "tests/explore/world.h"

namespace tdp::explore {

struct Operation {
  const char* name;
  void (*run)(World& world);
  bool (*offered)(const MachineKind& kind);
};

// Returns those that a kind of machine offers. All work on overlapping ranges: frames 1 to 4 of
// slot 0, the whole of it, and slots 1 and 2.
std::vector<const Operation*> OperationsOf(const MachineKind& kind);

// Returns null if there is none of that name.
const Operation* FindOperation(std::string_view name);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_OPERATIONS_H_
