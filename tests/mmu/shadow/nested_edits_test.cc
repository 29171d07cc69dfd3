// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An L1 edits EPT12 under its running L2.

#include <cstdint>
#include <iterator>
#include <map>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/nested_world.h"

namespace tdp::shadow_test {
namespace {

using sim::AccessKind;

constexpr uint64_t kAll = ept::kRightsMask;

// This L1 makes entries, legal and not, and accesses by an L2 with and without paging. It executes
// INVEPT where it has taken something away, and nowhere else.
class EditingL1 {
 public:
  EditingL1(uint64_t seed, int levels, bool accessed_dirty, bool forgets_invept = false)
      : world_(levels, accessed_dirty, seed % 2 == 0 ? 9 : 0, forgets_invept), random_(seed) {
    for (uint64_t page : kPages) world_.Map(page, FrameFor(page));
    BuildTablesOfL2();
  }

  testing::AssertionResult Run(int steps) {
    for (int step = 0; step < steps; ++step) {
      const uint64_t what = random_() % 16;
      if (what < 5) {
        Edit();
      } else if (what == 5) {
        Disturb();
      } else if (what == 6) {
        UsePaging(random_() % 2 == 0);
      } else if (testing::AssertionResult result = Access(); !result) {
        return result << " in step " << step;
      }
    }
    const absl::Status status = world_.Check();
    return status.ok() ? testing::AssertionSuccess() : testing::AssertionFailure() << status;
  }

  uint64_t reached() const { return reached_; }
  uint64_t refused() const { return refused_; }

 private:
  // These pages of L2 lie close together and far apart; its tables are in the first ones.
  static constexpr uint64_t kPages[] = {0x10000,  0x11000,  0x12000,    0x13000,
                                        0x50000,  0x51000,  0x250000,   0x400000,
                                        0x401000, 0x600000, 0x40000000, 0x40001000};
  static constexpr uint64_t kLinear = 0x7f0000000000;  // of a program of L2

  static uint64_t FrameFor(uint64_t page) { return 0x400000 + (page >> 12) % 0x800 * kPageSize; }
  uint64_t AnyPage() { return kPages[random_() % std::size(kPages)]; }

  // Builds four levels in pages 0x10000 to 0x13000 that map eight pages of L2 at `kLinear`.
  void BuildTablesOfL2() {
    constexpr uint64_t kTable = 0x7;
    const auto at = [](uint64_t table, uint64_t index) { return FrameFor(table) + index * 8; };
    world_.Write(at(0x10000, kLinear >> 39 & 511), 0x11000 | kTable);
    world_.Write(at(0x11000, 0), 0x12000 | kTable);
    world_.Write(at(0x12000, 0), 0x13000 | kTable);
    for (uint64_t i = 0; i < 8; ++i) world_.Write(at(0x13000, i), kPages[4 + i] | kTable);
  }

  void UsePaging(bool on) {
    paged_ = on;
    sim::Registers registers;
    if (on) {
      registers.cr0 |= sim::kCr0Pg | sim::kCr0Wp;
      registers.cr3 = 0x10000;
      registers.cr4 = sim::kCr4Pae;
      registers.efer = sim::kEferLme | sim::kEferLma;
    }
    world_.SetRegisters(registers);
    // A VMM that changes L2's registers drops what was cached under the others.
    const auto done = world_.nested().Invvpid(1, 1, Gva(0), world_.context().rules);
    TDP_CHECK(done.ok() && *done);
  }

  void Edit() {
    const uint64_t page = AnyPage();
    const int level = random_() % 4 == 0 ? 2 : 1;
    if (level == 1 && (world_.Read(world_.EntryAt(page, 2)) & ept::kLargePage) != 0) return;
    const uint64_t at = world_.EntryAt(page, level);
    const uint64_t before = world_.Read(at);
    world_.Write(at, level == 1 ? NewLeaf(page) : NewUpper(before));
    if ((before & kAll) != 0) world_.Invept();
  }
  uint64_t NewLeaf(uint64_t page) {
    constexpr uint64_t kRights[] = {kAll, kAll, kAll, 1, 3, 5, 4, 0, 2, 6};
    const uint64_t other = random_() % 4 == 0 ? 0x1000 : 0;
    // No table of L2 may go there: nobody minds what a walk through MMIO comes to.
    const uint64_t beyond = random_() % 32 == 0 && page >= kPages[4] ? GiB(1) : 0;
    return (FrameFor(page) + other + beyond) | kRights[random_() % std::size(kRights)] |
           NestedWorld::kWriteBack | (random_() % 3 == 0 ? ept::kAccessed | ept::kDirty : 0);
  }
  // Changes the rights of the table, takes it away for a time, or puts a large page there.
  uint64_t NewUpper(uint64_t before) {
    if ((before & ept::kLargePage) != 0 || (before & kAll) == 0) return tables_[before];
    constexpr uint64_t kRights[] = {1, 3, 5, 0};
    const uint64_t after =
        random_() % 3 == 0
            ? (MiB(2) * (2 + random_() % 4)) | kAll | ept::kLargePage | NestedWorld::kWriteBack
            : (before & ~kAll) | kRights[random_() % std::size(kRights)];
    if ((after & kAll) == 0 || (after & ept::kLargePage) != 0) tables_[after] = before | kAll;
    return after;
  }

  void Disturb() {
    const Hva start = NestedWorld::kRam + 0x400000 + random_() % 64 * KiB(64);
    switch (random_() % 3) {
      case 0:
        TDP_CHECK(world_.Migrate(start, KiB(64)).ok());
        break;
      case 1:
        world_.vm().ZapAll()->Settle();
        break;
      default:
        TDP_CHECK(world_.nested().Leave().ok());
        break;
    }
    world_.oracle().SettleAll();
  }

  testing::AssertionResult Access() {
    constexpr AccessKind kKinds[] = {AccessKind::kLoad, AccessKind::kStore, AccessKind::kFetch};
    const AccessKind kind = kKinds[random_() % 3];
    const uint64_t address = paged_ ? kLinear + random_() % 8 * kPageSize : AnyPage();
    const Nested seen = world_.Access(address, kind, paged_);
    const Nested expected = world_.Reference(address, kind, paged_);
    ++(seen.what == Nested::What::kMemory ? reached_ : refused_);
    if (!(seen == expected)) {
      return testing::AssertionFailure()
             << testing::PrintToString(seen) << " instead of " << testing::PrintToString(expected);
    }
    uint64_t where = world_.FirstDifference();
    if (where == 0) where = world_.FirstDifference(FrameFor(0x10000), FrameFor(0x14000));
    if (where == 0) return testing::AssertionSuccess();
    return testing::AssertionFailure()
           << absl::StrFormat("gpa 0x%x holds 0x%x instead of 0x%x", where, world_.Read(where),
                              world_.ReadCopy(where));
  }

  NestedWorld world_;
  std::mt19937_64 random_;
  std::map<uint64_t, uint64_t> tables_;  // what stood where now a large page or nothing is
  bool paged_ = false;
  uint64_t reached_ = 0;
  uint64_t refused_ = 0;
};

TEST(NestedVcpu, AnL1ThatEditsItsTablesSeesWhatItWouldOnACpu) {
  uint64_t reached = 0;
  uint64_t refused = 0;
  for (uint64_t seed = 1; seed <= 32; ++seed) {
    EditingL1 l1(seed, seed % 4 < 2 ? 4 : 5, seed % 3 != 0);
    ASSERT_TRUE(l1.Run(200)) << "seed " << seed;
    reached += l1.reached();
    refused += l1.refused();
  }
  EXPECT_GT(reached, 300u);
  EXPECT_GT(refused, 300u);
}

TEST(NestedVcpu, AnEngineThatIsNotToldOfInveptIsFoundOut) {
  bool found = false;
  for (uint64_t seed = 1; seed <= 8 && !found; ++seed) {
    found = !EditingL1(seed, 4, true, true).Run(200);
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace tdp::shadow_test
