// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests of guest paging begin with a guest of one page, and have a second page of memory to which
// its tables can be turned.

#ifndef TDP_TESTS_SIM_GUEST_PAGE_H_
#define TDP_TESTS_SIM_GUEST_PAGE_H_

#include <cstdint>

#include "gtest/gtest.h"
#include "tdp/backends/sim/cpu.h"
#include "tests/sim/world.h"

namespace tdp::sim {

inline constexpr uint64_t kGva = 0x40000000;
inline constexpr uint64_t kGpa = MiB(64);
inline constexpr uint64_t kHpa = MiB(512);
inline constexpr uint64_t kOtherHpa = MiB(640);
inline constexpr uint64_t kOtherGpa = MiB(96);

class GuestPageTest : public testing::Test {
 protected:
  GuestPageTest() {
    world_.MapEpt(kGpa, kHpa);
    world_.MapEpt(kOtherGpa, kOtherHpa);
    entry_ = world_.MapGuest(kGva, kGpa);
    world_.Enter();
  }
  void SetCr4(uint64_t bits) {
    world_.ChangeRegisters([bits](Registers& r) { r.cr4 |= bits; });
  }
  AccessResult Touch(AccessKind kind = AccessKind::kLoad,
                     Accessor accessor = Accessor::kSupervisor) {
    return world_.cpu().Access({.gva = kGva, .kind = kind, .accessor = accessor});
  }
  // Makes the guest's tables say another page, without telling the CPU.
  void MoveSilently() { world_.Store(entry_, kOtherGpa | kGuestLeaf); }
  bool StillCached() { return Touch().hpa == Hpa(kHpa); }

  World world_;
  uint64_t entry_ = 0;
};

}  // namespace tdp::sim

#endif  // TDP_TESTS_SIM_GUEST_PAGE_H_
