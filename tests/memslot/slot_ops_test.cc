// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/memslot/slot_ops.h"

#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

TEST(SlotOps, SlotsLogsAndRegionsAgreeWithAMapOfPages) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<uint8_t> bytes(6 * 400);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % (seed % 2 == 0 ? 256 : 24));
    const std::vector<SlotOp> ops = SlotOpsFromBytes(bytes.data(), bytes.size());
    SlotOpsModel model;
    for (size_t i = 0; i < ops.size(); ++i) {
      absl::Status status = model.Apply(ops[i]);
      if (status.ok() && i % 16 == 0) status = model.Check();
      ASSERT_TRUE(status.ok()) << status << "\nseed " << seed << "\n"
                               << SlotOpsToCpp({ops.begin(), ops.begin() + i + 1});
    }
    ASSERT_TRUE(model.Check().ok());
  }
}

TEST(SlotOps, PrintAsCpp) {
  const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 0};
  EXPECT_EQ(SlotOpsToCpp(SlotOpsFromBytes(bytes, sizeof(bytes))),
            "{SlotOp::Kind::kAbandon, 2, 3, 4, 5, 6},\n");
}

}  // namespace
}  // namespace tdp
