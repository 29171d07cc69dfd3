// SPDX-License-Identifier: Apache-2.0
//
// Guests in every paging mode, from an empty EPT, with the CPU as judge.

#include <cstdint>

#include "gtest/gtest.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr Gpa kData{0x400000};
constexpr int kPages = 16;

TEST(GuestModes, A64BitGuestThatStartsWithAnEmptyEptFinishes) {
  Machine machine;
  machine.Start64(WritePagesProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = kPages;
  machine.registers().rax = 7;
  machine.registers().rsi = 3;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  for (int i = 0; i < kPages; ++i) {
    EXPECT_EQ(machine.At<uint64_t>(kData + i * kPageSize), 7u + 3 * i);
  }
  // The guest's three tables, its code, and its data, a page each.
  EXPECT_EQ(machine.faults().size(), 4u + kPages);
  EXPECT_EQ(machine.vm().Stats().faults.fixed, 4u + kPages);
  CheckOk(machine.vm().CheckInvariants());
}

}  // namespace
}  // namespace tdp::vtx
