// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/base/check.h"

#include "gtest/gtest.h"

namespace tdp {
namespace {

TEST(CheckDeathTest, AFailedComparisonPrintsBothValues) {
  const int a = 16;
  EXPECT_DEATH(TDP_CHECK_EQ(a, 17), "check failed: a == 17 .0x10, 0x11.");
}

TEST(CheckDeathTest, AFailedConditionPrintsItself) {
  EXPECT_DEATH(TDP_CHECK(1 > 2), "check failed: 1 > 2");
}

TEST(Check, ATrueConditionCostsNothingElse) {
  int evaluated = 0;
  TDP_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace tdp
