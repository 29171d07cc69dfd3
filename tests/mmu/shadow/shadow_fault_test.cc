// SPDX-License-Identifier: Apache-2.0

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_machine.h"

namespace tdp::shadow_test {
namespace {

constexpr uint64_t kTable = 0x67;  // present, writable, user, A, D
constexpr uint64_t kPage = 0x67;
constexpr auto kLoad = sim::AccessKind::kLoad;
constexpr auto kStore = sim::AccessKind::kStore;

// 4-level tables in frames 1 to 4; the table of leaves is frame 4.
class ShadowFault : public testing::Test {
 protected:
  void SetUp() override {
    for (uint64_t table = 1; table < 4; ++table) {
      machine_.Poke<uint64_t>(Gpa(table << kPageShift), (table + 1) << kPageShift | kTable);
    }
    guest_ = GuestIn(PagingMode::k4Level);
    guest_.cr3 = 0x1000;
    Leaf(0, 0x10000 | kPage);
    machine_.Load(guest_);
  }
  void TearDown() override {
    const absl::Status status = machine_.vm().CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }

  void Leaf(uint64_t index, uint64_t entry) {
    machine_.Poke<uint64_t>(Gpa(0x4000 + index * 8), entry);
  }
  void ExpectSame(const Request& request) {
    EXPECT_EQ(machine_.Access(request), machine_.Reference(request));
  }

  Machine machine_;
  GuestCpu guest_;
};

TEST_F(ShadowFault, AMappedPageIsReachedAfterOneFault) {
  ExpectSame({Gva(0x123)});
  EXPECT_EQ(machine_.faults(), 1u);
  ExpectSame({Gva(0x456)});
  EXPECT_EQ(machine_.faults(), 1u);
}

TEST_F(ShadowFault, APageThatTheGuestDoesNotMapIsTheGuestsOwnFault) {
  EXPECT_EQ(machine_.Access({Gva(0x1000), kStore, true}), (Seen{Seen::What::kPageFault, 6}));
  ExpectSame({Gva(0x1000), kStore, true});
}

}  // namespace
}  // namespace tdp::shadow_test
