// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#ifndef TDP_TESTS_WORLD_SHOWN_PAGES_H_
#define TDP_TESTS_WORLD_SHOWN_PAGES_H_

#include <bit>
#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace tdp {

// The pages that a dirty log shows to the visitor with which `take` is called.
template <typename Take>
std::set<uint64_t> ShownPages(Take take) {
  std::set<uint64_t> pages;
  const auto visit = [&pages](uint64_t base, uint64_t mask) {
    for (; mask != 0; mask &= mask - 1) {
      pages.insert(base + static_cast<uint64_t>(std::countr_zero(mask)));
    }
  };
  EXPECT_EQ(take(visit), absl::OkStatus());
  return pages;
}

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_SHOWN_PAGES_H_
