// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A schedule makes a run what it is: it says where the run left the way that it takes by itself.

#ifndef TDP_TESTS_EXPLORE_SCHEDULE_H_
#define TDP_TESTS_EXPLORE_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tdp::explore {

// By itself a run goes on with the thread that runs; where that one cannot, with the next that can,
// by number, the first after the last; and every load sees the newest value.
struct Schedule {
  // Lets thread `thread` go on before step `step`.
  struct Turn {
    uint64_t step = 0;
    int thread = 0;
    friend bool operator==(const Turn&, const Turn&) = default;
  };
  // Lets the load of step `step` see the value that is `age` stores older than the newest.
  struct OldRead {
    uint64_t step = 0;
    int age = 0;
    friend bool operator==(const OldRead&, const OldRead&) = default;
  };

  std::vector<Turn> turns;         // by ascending step
  std::vector<OldRead> old_reads;  // the same

  // Returns the C++ that makes it.
  std::string ToCpp() const;

  friend bool operator==(const Schedule&, const Schedule&) = default;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_SCHEDULE_H_
