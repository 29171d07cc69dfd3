// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests of dirty logs share these functions.

#ifndef TDP_TESTS_WORLD_DIRTY_LOGS_H_
#define TDP_TESTS_WORLD_DIRTY_LOGS_H_

#include <bit>
#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"

namespace tdp {

// Returns the pages that a dirty log shows to the visitor with which `take` is called.
template <typename Take>
std::set<uint64_t> ShownPages(Take take) {
  std::set<uint64_t> pages;
  const auto visit = [&pages](uint64_t base, uint64_t mask) {
    for (; mask != 0; mask &= mask - 1) {
      const uint64_t page = base + static_cast<uint64_t>(std::countr_zero(mask));
      EXPECT_TRUE(pages.insert(page).second) << "page " << page << " is shown twice";
    }
  };
  EXPECT_EQ(take(visit), absl::OkStatus());
  return pages;
}

// Returns the pages that the next take of a slot's log shows.
inline std::set<uint64_t> TakenPages(Vm& vm, uint32_t slot = 0) {
  return ShownPages([&](auto visit) { return vm.TakeDirtyLog(slot, visit); });
}

// Makes tests take each way of finding writes as their parameter, with its name.
inline auto EachTracking() {
  return testing::Values(DirtyTracking::kWriteProtection, DirtyTracking::kDirtyBits,
                         DirtyTracking::kPml);
}
inline std::string NameOfTracking(const testing::TestParamInfo<DirtyTracking>& info) {
  if (info.param == DirtyTracking::kPml) return "Pml";
  return info.param == DirtyTracking::kDirtyBits ? "DirtyBits" : "WriteProtection";
}

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_DIRTY_LOGS_H_
