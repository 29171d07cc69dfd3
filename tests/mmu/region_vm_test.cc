// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A tree of regions stands over a real `Vm` here: its dirty logs, whatever finds the writes, and
// its rings.

#include <bit>
#include <cstdint>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/mmu/vm.h"
#include "tdp/tests/mmu/logging_guest.h"
#include "tests/world/dirty_logs.h"

namespace tdp {
namespace {

using Pages = std::set<uint64_t>;

// This guest has 4 MiB of RAM that logs, from gpa 0 on.
class RegionGuest {
 public:
  explicit RegionGuest(const LoggingGuestOptions& options) : guest_(options) {
    EXPECT_EQ(guest_.memory().Map(LoggingGuest::kRam, MiB(4)), absl::OkStatus());
    root_ = *tree_.Create({.name = "root", .size = kWholeAddressSpace});
    RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = MiB(4)};
    spec.host = LoggingGuest::kRam;
    spec.log_dirty = true;
    ram_ = *tree_.Create(spec);
    hole_ = *tree_.Create({.name = "hole", .kind = RegionKind::kMmio, .size = kPageSize});
    EXPECT_EQ(slots_.emplace(&tree_, root_, &guest_.vm()).OnRegionsChanged(), absl::OkStatus());
    EXPECT_EQ(tree_.Attach(root_, ram_, 0), absl::OkStatus());
  }
  Pages Take() {
    return ShownPages([this](auto visit) { return slots_->TakeDirty(*ram_, visit); });
  }
  void Write(uint64_t page) { guest_.Write(0, Gpa(page * kPageSize)); }

  LoggingGuest guest_;
  RegionTree tree_;
  Region* root_;
  Region* ram_;
  Region* hole_;
  std::optional<RegionSlots> slots_;
};

class RegionVm : public testing::TestWithParam<DirtyTracking> {
 protected:
  RegionGuest guest_{{.tracking = GetParam(), .oracle = false}};
};

TEST_P(RegionVm, WhatTheCpuAloneKnowsOutlivesASlotThatIsCut) {
  for (const uint64_t page : {3, 4, 700, 1000}) guest_.Write(page);
  // The vCPU is in the guest all the time: its D bits and its own log are not gathered yet.
  ASSERT_EQ(guest_.tree_.Attach(guest_.root_, guest_.hole_, 500 * kPageSize, 1), absl::OkStatus());
  EXPECT_EQ(guest_.slots_->slots().size(), 2u);
  guest_.Write(5);
  EXPECT_EQ(guest_.Take(), (Pages{3, 4, 5, 700, 1000}));
  EXPECT_EQ(guest_.Take(), Pages{});
}

TEST_P(RegionVm, WithManualProtectionAPageIsShownOnceAndItsNextWriteIsNoticed) {
  ASSERT_EQ(guest_.guest_.vm().SetManualDirtyLogProtect(kDirtyLogManualProtect), absl::OkStatus());
  guest_.Write(3);
  guest_.Write(900);
  EXPECT_EQ(guest_.Take(), (Pages{3, 900}));
  EXPECT_EQ(guest_.Take(), Pages{});
  guest_.Write(3);
  EXPECT_EQ(guest_.Take(), Pages{3});
  EXPECT_EQ(guest_.Take(), Pages{});
}

INSTANTIATE_TEST_SUITE_P(EveryTracking, RegionVm, EachTracking(), NameOfTracking);

TEST(RegionVmWithRings, ALoggingRegionComesAndGoes) {
  RegionGuest guest({.tracking = DirtyTracking::kWriteProtection, .vcpus = 0, .oracle = false});
  // Rings come before the first vCPU and before any slot that logs.
  ASSERT_EQ(guest.tree_.Detach(guest.ram_), absl::OkStatus());
  ASSERT_EQ(guest.guest_.vm().EnableDirtyRing(1024), absl::OkStatus());
  ASSERT_EQ(guest.tree_.Attach(guest.root_, guest.ram_, 0), absl::OkStatus());
  ASSERT_EQ(guest.guest_.vm().MarkDirty(Gpa(0), 1), absl::OkStatus());
  EXPECT_EQ(guest.slots_->TakeDirty(*guest.ram_, [](uint64_t, uint64_t) {}).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(guest.tree_.SetLogDirty(guest.ram_, false), absl::OkStatus());
  ASSERT_EQ(guest.tree_.SetLogDirty(guest.ram_, true), absl::OkStatus());
  ASSERT_EQ(guest.tree_.Detach(guest.ram_), absl::OkStatus());
  EXPECT_TRUE(guest.slots_->slots().empty());
  ASSERT_EQ(guest.tree_.Attach(guest.root_, guest.ram_, 0), absl::OkStatus());
  EXPECT_EQ(guest.slots_->slots().size(), 1u);
}

}  // namespace
}  // namespace tdp
