// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/reference_counts.h"

#include <gtest/gtest.h>

#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

struct WalkCase {
  const char* name;
  PagingMode mode;
  int guest_leaf;  // level
  int ept_levels;
  int ept_leaf;  // level, of every page
  uint64_t guest_references;
  uint64_t ept_references;
};

class WalkReferences : public testing::TestWithParam<WalkCase> {};

// A walk of n guest levels over m EPT levels has n·m + n + m references while everything is
// missing.
TEST_P(WalkReferences, MatchTheTable) {
  const WalkCase& c = GetParam();
  World world(NoCaches(), c.mode, c.ept_levels);
  const uint64_t gva = 0x40000000;
  const uint64_t gpa = GiB(2);
  world.MapEpt(gpa, GiB(8), c.ept_leaf);
  if (c.mode != PagingMode::kNone) {
    world.MapGuest(gva, gpa, c.guest_leaf, kGuestLeaf, c.ept_leaf);
  }
  ASSERT_EQ(world.Enter(), Event::kNone);
  const uint64_t offset = 0x123;
  const Gva where(c.mode == PagingMode::kNone ? gpa + offset : gva + offset);

  const AccessResult result = world.cpu().Access(where, AccessKind::kLoad);

  ASSERT_TRUE(result.ok()) << world.cpu().exit().DebugString();
  EXPECT_EQ(result.hpa, Hpa(GiB(8) + offset));
  EXPECT_EQ(result.ept_level, c.ept_leaf);
  const ReferenceCounts& references = world.cpu().counters().references;
  EXPECT_EQ(references.guest_total(), c.guest_references);
  EXPECT_EQ(references.ept_total(), c.ept_references);
  for (int level = c.ept_leaf; level <= c.ept_levels; ++level) {
    EXPECT_EQ(references.ept[0][level], 1u) << "final address, EPT level " << level;
  }
  for (int level = c.guest_leaf; level <= GuestLevels(c.mode); ++level) {
    EXPECT_EQ(references.guest[level], 1u) << "guest level " << level;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, WalkReferences,
    testing::Values(WalkCase{"g4_e4", PagingMode::k4Level, 1, 4, 1, 4, 20},
                    WalkCase{"g5_e4", PagingMode::k5Level, 1, 4, 1, 5, 24},
                    WalkCase{"g4_e5", PagingMode::k4Level, 1, 5, 1, 4, 25},
                    WalkCase{"g5_e5", PagingMode::k5Level, 1, 5, 1, 5, 30},
                    WalkCase{"g4_2m_e4", PagingMode::k4Level, 2, 4, 1, 3, 16},
                    WalkCase{"g4_e4_2m", PagingMode::k4Level, 1, 4, 2, 4, 15},
                    WalkCase{"g4_2m_e4_2m", PagingMode::k4Level, 2, 4, 2, 3, 12},
                    WalkCase{"g4_1g_e4_1g", PagingMode::k4Level, 3, 4, 3, 2, 6},
                    WalkCase{"g32_e4", PagingMode::k32Bit, 1, 4, 1, 2, 12},
                    WalkCase{"pae_e4", PagingMode::kPae, 1, 4, 1, 2, 12},
                    WalkCase{"unpaged_e4", PagingMode::kNone, 1, 4, 1, 0, 4},
                    WalkCase{"unpaged_e5", PagingMode::kNone, 1, 5, 1, 0, 5}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(WalkReferencesWithoutEpt, AreOnePerGuestLevel) {
  World world(NoCaches());
  const uint64_t root = world.NewFrame();
  uint64_t table = root;
  for (int level = 4; level > 1; --level) {
    const uint64_t next = world.NewFrame();
    world.Store(table, next | kGuestTable);
    table = next;
  }
  world.Store(table, 0x5000 | kGuestLeaf);
  world.ChangeRegisters([&](Registers& r) { r.cr3 = root; });
  Controls controls;
  controls.ept = false;
  ASSERT_TRUE(world.cpu().SetControls(controls).ok());

  ASSERT_EQ(world.cpu().Access(Gva(0x10), AccessKind::kLoad).hpa, Hpa(0x5010));

  EXPECT_EQ(world.cpu().counters().references.guest_total(), 4u);
  EXPECT_EQ(world.cpu().counters().references.ept_total(), 0u);
}

}  // namespace
}  // namespace tdp::sim
