// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_log_request.h"

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

using absl::StatusCode;

// Slot 0 logs 200 pages, slot 1 does not log, slot 2 is not there.
class DirtyLogRequest : public testing::Test {
 protected:
  DirtyLogRequest() {
    Add(0, kSlotLogDirtyPages, Gpa(0), 200 * kPageSize);
    Add(1, 0, Gpa(MiB(2)), MiB(1));
  }

  void Add(uint32_t id, uint32_t flags, Gpa gpa, ByteCount size) {
    MemoryRegion region;
    region.slot = id;
    region.flags = flags;
    region.gpa = gpa;
    region.size = size;
    region.hva = Hva(MiB(16));
    absl::StatusOr<SlotUpdate> update = set_.Prepare(region);
    ASSERT_TRUE(update.ok());
    set_.Publish(*std::move(update));
  }

  void ExpectClear(uint32_t slot, uint64_t first, uint64_t count, StatusCode code,
                   const std::string& words = "") {
    const absl::StatusOr<MemorySlot> got = SlotToClearDirtyLog(set_, 0, slot, {first, count});
    EXPECT_EQ(got.status().code(), code) << got.status();
    EXPECT_TRUE(absl::StrContains(got.status().message(), words)) << got.status();
  }

  SlotSet set_{SlotLimits{}};
};

TEST_F(DirtyLogRequest, GetNamesWhatIsMissing) {
  EXPECT_TRUE(SlotToGetDirtyLog(set_, 0, 0).ok());
  EXPECT_EQ(SlotToGetDirtyLog(set_, 0, 1).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SlotToGetDirtyLog(set_, 0, 2).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SlotToGetDirtyLog(set_, 0, 32764).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(SlotToGetDirtyLog(set_, 1, 0).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(DirtyLogRequest, ClearChecksInTheKernelsOrder) {
  ExpectClear(40000, 1, 999, StatusCode::kInvalidArgument, "slot = 40000");
  ExpectClear(2, 1, 999, StatusCode::kInvalidArgument, "first_page = 1");
  ExpectClear(2, 64, 999, StatusCode::kNotFound, "slot = 2");
  ExpectClear(1, 64, 999, StatusCode::kNotFound, "does not log");
  ExpectClear(0, 256, 0, StatusCode::kInvalidArgument, "first_page = 256");
  ExpectClear(0, 128, 73, StatusCode::kInvalidArgument, "num_pages = 73");
  ExpectClear(0, 64, 63, StatusCode::kInvalidArgument, "num_pages = 63");
  ExpectClear(0, 128, 72, StatusCode::kOk);
  ExpectClear(0, 64, 64, StatusCode::kOk);
  ExpectClear(0, 0, 0, StatusCode::kOk);
  Add(3, kSlotLogDirtyPages, Gpa(MiB(4)), 128 * kPageSize);
  ExpectClear(3, 128, 0, StatusCode::kOk);
}

TEST_F(DirtyLogRequest, RingsAreAnotherInterface) {
  set_.set_dirty_bitmap_policy(DirtyBitmapPolicy::kRings);
  EXPECT_EQ(SlotToGetDirtyLog(set_, 0, 40000).status().code(), StatusCode::kFailedPrecondition);
  ExpectClear(40000, 1, 1, StatusCode::kFailedPrecondition);
}

TEST_F(DirtyLogRequest, ManualProtectTakesThreeValues) {
  for (uint64_t flags = 0; flags < 9; ++flags) {
    const bool valid = flags == 0 || flags == 1 || flags == 3;
    EXPECT_EQ(CheckManualProtectFlags(flags).ok(), valid) << flags;
  }
}

}  // namespace
}  // namespace tdp
