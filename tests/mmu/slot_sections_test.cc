// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests count how often a change of slots holds up the faults of all vCPUs.

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

// Each writer's section reads the clock as it begins and as it ends.
int g_readings = 0;
uint64_t CountReadings() { return static_cast<uint64_t>(++g_readings); }

struct Kind {
  const char* name;
  VmOptions options;
};

class SlotSections : public HostTest, public testing::WithParamInterface<Kind> {
 protected:
  SlotSections() {
    VmOptions options = GetParam().options;
    options.section_clock = &CountReadings;
    Start(options, false);
    // The first zap has a section more: it stocks the tables that zaps split large leaves with.
    vm_->ZapRange(Gfn(0), PageCount(1))->Settle();
  }
  void SetSlot(Gpa gpa, ByteCount size) {
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.slot = 1, .gpa = gpa, .size = size, .hva = Hva(1 << 30)}).ok());
  }
  // Returns how many writers' sections a change of the slot to [gpa, gpa + size) has.
  int SectionsOf(Gpa gpa, ByteCount size) {
    const int before = g_readings;
    SetSlot(gpa, size);
    return (g_readings - before) / 2;
  }
};

TEST_P(SlotSections, ADeleteHasTwo) {
  SetSlot(Gpa(0), MiB(4));
  EXPECT_EQ(SectionsOf(Gpa(0), 0), 2);
}

TEST_P(SlotSections, AMoveHasTwo) {
  SetSlot(Gpa(0), MiB(4));
  EXPECT_EQ(SectionsOf(Gpa(MiB(2)), MiB(4)), 2);
  EXPECT_TRUE(vm_->CheckInvariants().ok()) << vm_->CheckInvariants();
}

TEST_P(SlotSections, ACreateHasNoMore) { EXPECT_LE(SectionsOf(Gpa(0), MiB(4)), 2); }

INSTANTIATE_TEST_SUITE_P(Kinds, SlotSections,
                         testing::Values(Kind{"Direct", {}},
                                         Kind{"ReverseMapped", {.reverse_map = true}},
                                         Kind{"Nested", {.nested = true}},
                                         Kind{"Shadow", {.paging = Paging::kShadow}}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace tdp
