// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/guest_hypervisor.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/tools/guest/memory_map.h"

namespace tdp::tools {
namespace {

constexpr Gpa kVga{KiB(640)};
constexpr Gpa kRom{KiB(768)};

// Has a hypervisor whose guest has 16 MiB, and a walker of its tables.
class GuestHypervisorTest : public testing::Test {
 protected:
  static constexpr ByteCount kRam = MiB(16);

  void Make(const GuestHypervisor::Options& options, ByteCount bytes = MiB(1)) {
    memory_.assign(bytes / sizeof(uint64_t), 0);
    const auto reach = [this](Gfn gfn) -> absl::StatusOr<std::byte*> {
      return reinterpret_cast<std::byte*>(memory_.data()) + gfn.address().raw();
    };
    hypervisor_ =
        GuestHypervisor::Create(MemoryMap::ForPc(kRam).value(), reach, bytes, options).value();
  }
  bool Answer(Gpa gpa, Access access) { return hypervisor_->HandleViolation(gpa, access).value(); }
  // Returns the lowest entry on the way to `gpa`.
  EptEntry EntryFor(Gpa gpa, Level& level) {
    uint64_t table = hypervisor_->eptp().root().raw();
    for (level = hypervisor_->eptp().root_level();; level = level.below()) {
      const uint64_t index = gpa.raw() >> level.shift() & (Level::kEntries - 1);
      const EptEntry entry(memory_[table / sizeof(uint64_t) + index]);
      if (entry.kind(level) != EntryKind::kTable) return entry;
      table = entry.address().raw();
    }
  }

  std::vector<uint64_t> memory_;
  std::unique_ptr<GuestHypervisor> hypervisor_;
};

TEST_F(GuestHypervisorTest, MapsRamWithEveryRightAtItsOffset) {
  for (const int levels : {4, 5}) {
    Make({.page = kLevel4K, .levels = levels});
    const Gpa gpa(MiB(5) + 0x123);
    EXPECT_FALSE(hypervisor_->Maps(gpa).value());
    EXPECT_TRUE(Answer(gpa, Access::Read()));
    EXPECT_TRUE(hypervisor_->Maps(gpa).value());
    Level level = kLevel4K;
    const EptEntry entry = EntryFor(gpa, level);
    EXPECT_EQ(level, kLevel4K);
    EXPECT_EQ(entry.address().raw(), GuestHypervisor::kL2Memory + MiB(5));
    EXPECT_EQ(entry.access(), Access::All());
    EXPECT_EQ(hypervisor_->table_pages(), PageCount(static_cast<uint64_t>(levels)));
    EXPECT_EQ(hypervisor_->leaves()[0], 1u);
  }
}

TEST_F(GuestHypervisorTest, MapsLargeWhereAWholeBlockIsRam) {
  Make({.page = kLevel2M});
  EXPECT_TRUE(Answer(Gpa(MiB(5)), Access::Write()));
  EXPECT_TRUE(Answer(Gpa(MiB(1)), Access::Write()));
  Level level = kLevel4K;
  EXPECT_EQ(EntryFor(Gpa(MiB(5)), level).address().raw(), GuestHypervisor::kL2Memory + MiB(4));
  EXPECT_EQ(level, kLevel2M);
  EntryFor(Gpa(MiB(1)), level);
  EXPECT_EQ(level, kLevel4K) << "the block has the VGA window in it";
  EXPECT_EQ(hypervisor_->leaves()[0], 1u);
  EXPECT_EQ(hypervisor_->leaves()[1], 1u);
}

TEST_F(GuestHypervisorTest, RomIsReadAndTheRestIsForADeviceModel) {
  Make({});
  EXPECT_FALSE(Answer(kRom, Access::Write()));
  EXPECT_FALSE(hypervisor_->Maps(kRom).value());
  EXPECT_TRUE(Answer(kRom, Access::Execute()));
  Level level = kLevel4K;
  EXPECT_EQ(EntryFor(kRom, level).access(), Access::ReadExecute());
  for (Gpa gpa : {kVga, Gpa(kRam), Gpa(GiB(64))}) EXPECT_FALSE(Answer(gpa, Access::Read()));
}

TEST_F(GuestHypervisorTest, ASecondCpuFindsThePageMapped) {
  Make({});
  EXPECT_TRUE(Answer(Gpa(MiB(3)), Access::Read()));
  EXPECT_TRUE(Answer(Gpa(MiB(3)), Access::Write()));
  EXPECT_EQ(hypervisor_->leaves()[1], 1u);
}

TEST_F(GuestHypervisorTest, RunsOutOfTablesWithAnError) {
  Make({}, 3 * kPageSize);
  EXPECT_TRUE(Answer(Gpa(MiB(3)), Access::Read())) << "a leaf of 2 MiB needs three tables";
  EXPECT_TRUE(
      absl::IsResourceExhausted(hypervisor_->HandleViolation(kRom, Access::Read()).status()));
  EXPECT_FALSE(hypervisor_->Maps(kRom).value());
}

TEST_F(GuestHypervisorTest, ItsTableMemoryIsEnoughForAllOfTheRam) {
  Make({.page = kLevel4K, .levels = 5}, GuestHypervisor::TableMemory(kRam));
  for (Gpa gpa(MiB(1)); gpa < Gpa(kRam); gpa = gpa + kPageSize) {
    ASSERT_TRUE(Answer(gpa, Access::Write()));
  }
}

}  // namespace
}  // namespace tdp::tools
