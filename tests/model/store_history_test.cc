// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each operation of the engine is checked store by store: see store_history.h. The guest has 8 MiB;
// host pages are of 4 KiB or 2 MiB.

#include "tests/model/store_history.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp::model {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(8);
constexpr uint64_t kPages = kSize >> kPageShift;

struct Setting {
  const char* name;
  int host_order;
  VmOptions options;
};

class StoreHistoryTest : public HostTest, public testing::WithParamInterface<Setting> {
 protected:
  StoreHistoryTest() {
    host_.order = GetParam().host_order;
    Start(GetParam().options);
    SetFlags(0);
    history_ = std::make_unique<StoreHistory>(*vm_, kPages);
  }
  ~StoreHistoryTest() override { SetEntryStoreHook(nullptr); }

  void SetFlags(uint32_t flags) {
    ASSERT_TRUE(vm_->SetMemoryRegion({.flags = flags, .size = kSize, .hva = kRam}).ok());
  }
  FaultOutcome Fault(uint64_t page, ExitQualification q) {
    const FaultOutcome outcome = vcpu_->HandleEptViolation(Gfn(page).address(), q).outcome;
    Use(page, q.is_write());
    return outcome;
  }
  // Lets the guest use every third page and write every fourth of those.
  void Touch() {
    for (uint64_t page = 0; page < kPages; page += 3) {
      Fault(page, page % 4 == 0 ? kWriteFault : kReadFault);
    }
    SetBits();
  }
  // Sets A on the way to a page that the CPU may use, and D in the leaf if it writes.
  void Use(uint64_t page, bool write) {
    const Gpa gpa = Gfn(page).address();
    const auto found = vm_->Translate(gpa);
    if (!found.ok() || !found->access.can_read()) return;
    write = write && found->access.can_write();
    if (write) written_.insert(page);
    if (!vm_->eptp().accessed_dirty()) return;
    const Gfn gfn(page);
    uint64_t table = vm_->eptp().root().raw();
    for (Level level = vm_->eptp().root_level(); level > found->level; level = level.below()) {
      const EntryRef entry(reinterpret_cast<uint64_t*>(table) + level.IndexOf(gfn));
      table = entry.FetchOr(ept::kAccessed).address().raw();
    }
    EntryRef(EntryOf(*vm_, gpa)).FetchOr(ept::kAccessed | (write ? ept::kDirty : 0));
  }
  void SetBits() {
    for (uint64_t page = 0; page < kPages; page += 3) Use(page, page % 4 == 0);
  }
  void Watch(const char* what, const std::function<void()>& operation,
             const FlagsLost& allowed = {}) {
    const auto broken = history_->Watch(operation, allowed);
    EXPECT_FALSE(broken.has_value()) << what << ": " << *broken;
    stores_ += history_->stores();
  }
  // Takes the log, in which every page must be that was written since the last take.
  std::set<uint64_t> Take() {
    const std::set<uint64_t> pages = TakenPages(*vm_);
    for (const uint64_t page : written_) {
      EXPECT_TRUE(pages.contains(page)) << page << " was written";
    }
    written_.clear();
    return pages;
  }
  bool KeepsReverseMap() const { return GetParam().options.reverse_map; }

  std::unique_ptr<StoreHistory> history_;
  std::set<uint64_t> written_;
  uint64_t stores_ = 0;  // a test that watched none has shown nothing
};

TEST_P(StoreHistoryTest, FaultsOfEveryKind) {
  Watch("the first of a guest", [&] { EXPECT_EQ(Fault(5, kReadFault), FaultOutcome::kFixed); });
  Watch("a neighbour", [&] { Fault(6, kWriteFault); });
  Watch("another 2 MiB", [&] { Fault(700, kWriteFault); });
  Watch("a write after a read", [&] { Fault(5, kWriteFault); });
  Watch("nothing to do", [&] { Fault(5, kReadFault); });
  host_.writable = false;
  Watch("a page that the host lets be read only", [&] { Fault(1030, kReadFault); });
  host_.writable = true;
  Watch("and written later", [&] { Fault(1030, kWriteFault); });
  Watch("no memory", [&] {
    EXPECT_EQ(vcpu_->HandleEptViolation(Gpa(kSize + MiB(4)), kReadFault).outcome,
              FaultOutcome::kMmio);
  });
  EXPECT_GE(stores_, 5u);
}

TEST_P(StoreHistoryTest, AFaultWhoseHostPageShrankOrGrew) {
  Touch();
  host_.order = 9 - GetParam().host_order;
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam + 20 * kPageSize, 4 * kPageSize).ok());
  for (uint64_t page = 19; page < 26; ++page) {
    Watch("a fault", [&] { Fault(page, kWriteFault); });
  }
  EXPECT_GT(stores_, 0u);
}

TEST_P(StoreHistoryTest, Zaps) {
  Touch();
  Watch("one page", [&] { vm_->ZapRange(Gfn(33), PageCount(1))->Settle(); });
  Watch("ragged ends", [&] { vm_->ZapRange(Gfn(100), PageCount(1000))->Settle(); });
  Touch();
  Watch("whole tables", [&] { vm_->ZapRange(Gfn(512), PageCount(1024))->Settle(); });
  Touch();
  Watch("the host's invalidation",
        [&] { EXPECT_TRUE(vm_->InvalidateHostRange(kRam + 77 * kPageSize, MiB(3)).ok()); });
  EXPECT_GT(stores_, 3u);
  Touch();
  Watch("everything", [&] { vm_->ZapAll()->Settle(); });
  EXPECT_FALSE(history_->Page(0).is_mapped());
}

TEST_P(StoreHistoryTest, SplitsAndCollapses) {
  if (KeepsReverseMap()) GTEST_SKIP() << "leaves keep their size with a reverse map";
  Touch();
  Watch("a split of part", [&] { vm_->SplitRange(Gfn(600), PageCount(10))->Settle(); });
  Watch("a split of all", [&] { vm_->SplitRange(Gfn(0), PageCount(kPages))->Settle(); });
  SetBits();
  host_.order = 9;
  Watch("a collapse", [&] { EXPECT_TRUE(vm_->CollapseRange(Gfn(0), PageCount(kPages)).ok()); });
  EXPECT_GE(stores_, 4u);
  EXPECT_EQ(vm_->Translate(Gpa(0))->level, kLevel2M);
}

TEST_P(StoreHistoryTest, DirtyLogging) {
  Touch();
  Watch("logging on", [&] { SetFlags(kSlotLogDirtyPages); }, {.dirty = true});
  written_.clear();
  const FlagsLost harvest = {.accessed = true, .dirty = true};
  // Dirty bits that are older than the log go where the protection is pushed past them.
  const FlagsLost push = {.dirty = true};
  Watch(
      "the first take", [&] { Take(); }, harvest);
  // A write pushes the protection one level down on its way, and splits what is large.
  for (const uint64_t page : {8, 9, 600, 8}) {
    Watch(
        "a write", [&] { Fault(page, kWriteFault); }, push);
  }
  SetBits();
  Watch(
      "a take", [&] { Take(); }, harvest);
  Watch(
      "the push down", [&] { EXPECT_TRUE(vm_->PushDownDirtyLog(0).ok()); }, push);
  for (uint64_t page = 0; page < kPages; page += 97) {
    Watch("a write", [&] { Fault(page, kWriteFault); });
  }
  Watch(
      "a take", [&] { Take(); }, harvest);
  Watch("logging off", [&] { SetFlags(0); });
  Watch("a write after it", [&] { Fault(8, kWriteFault); });
  EXPECT_GT(stores_, 10u);
}

// A harvest clears D in an entry only if it shows the page.
TEST_P(StoreHistoryTest, AHarvestShowsEveryDirtyBitThatItClears) {
  SetFlags(kSlotLogDirtyPages);
  Take();
  Touch();
  const std::vector<Seen> before = history_->Snapshot();
  std::set<uint64_t> taken;
  Watch("a take", [&] { taken = Take(); }, {.accessed = true, .dirty = true});
  for (uint64_t page = 0; page < kPages; ++page) {
    if (before[page].dirty && !history_->Page(page).dirty) {
      EXPECT_TRUE(taken.contains(page)) << page;
    }
  }
}

TEST_P(StoreHistoryTest, Aging) {
  Touch();
  Watch("aging", [&] { vm_->AgeHostRange(kRam, kSize)->flush.Settle(); }, {.accessed = true});
  for (uint64_t page = 0; page < 24; page += 3) {
    Watch("the next use", [&] { Fault(page, page % 4 == 0 ? kWriteFault : kReadFault); });
  }
  EXPECT_GT(stores_, 0u);
}

TEST_P(StoreHistoryTest, Prefaults) {
  Watch("an empty range",
        [&] { EXPECT_TRUE(vcpu_->Prefault(Gpa(40 * kPageSize), MiB(3), Access::Read()).ok()); });
  Watch("with holes and weaker leaves",
        [&] { EXPECT_TRUE(vcpu_->Prefault(Gpa(0), kSize, Access::Write()).ok()); });
  EXPECT_GT(stores_, 1u);
}

TEST_P(StoreHistoryTest, SlotChanges) {
  Touch();
  Watch("a move", [&] {
    EXPECT_TRUE(vm_->SetMemoryRegion({.gpa = Gpa(MiB(2)), .size = kSize, .hva = kRam}).ok());
  });
  Touch();
  Watch("a slot beside it", [&] {
    EXPECT_TRUE(vm_->SetMemoryRegion({.slot = 1, .size = MiB(2), .hva = kRam + GiB(1)}).ok());
  });
  Touch();
  Watch("its deletion", [&] { EXPECT_TRUE(vm_->SetMemoryRegion({.slot = 1, .size = 0}).ok()); });
  EXPECT_FALSE(history_->Page(0).is_mapped());
  EXPECT_TRUE(history_->Page(513).is_mapped());
  EXPECT_GT(stores_, 1u);
}

TEST_P(StoreHistoryTest, ChangesOfMemoryTypes) {
  if (KeepsReverseMap()) GTEST_SKIP() << "types come with zaps, which other tests watch";
  Touch();
  GuestMemoryTypes types;
  types.non_coherent_dma = true;  // with MTRRs off: all of it is uncacheable from now on
  Watch("other types", [&] { EXPECT_TRUE(vm_->SetMemoryTypes(types).ok()); });
  const Seen old = history_->Page(0);
  Watch("a fault", [&] { Fault(0, kWriteFault); });
  EXPECT_NE(history_->Page(0).type, uint64_t{6} << ept::kMemoryTypeShift) << old.DebugString();
}

INSTANTIATE_TEST_SUITE_P(
    Settings, StoreHistoryTest,
    testing::Values(Setting{"SmallPages", 0, {}}, Setting{"LargePages", 9, {}},
                    Setting{
                        "WriteProtection", 9, {.dirty_tracking = DirtyTracking::kWriteProtection}},
                    Setting{"NoAccessedDirty", 9, {.accessed_dirty = Use::kNever}},
                    Setting{"NoAccessedDirtySmall", 0, {.accessed_dirty = Use::kNever}},
                    Setting{"ReverseMap", 0, {.reverse_map = true}}),
    [](const auto& param) { return param.param.name; });

// --- reclaim ---

TEST(StoreHistory, AFaultThatReclaimsTablesTakesTheirPagesWhole) {
  TestHost host;
  const auto vm = *Vm::Create(host, {.table_quota = 24});
  const auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.size = MiB(64), .hva = kRam}).ok());
  StoreHistory history(*vm, MiB(64) >> kPageShift);
  uint64_t stores = 0;
  for (uint64_t region = 0; region < 32; ++region) {
    const auto broken = history.Watch(
        [&] {
          EXPECT_EQ(vcpu->HandleEptViolation(Gpa(region * MiB(2)), kWriteFault).outcome,
                    FaultOutcome::kFixed);
        },
        {.accessed = true});
    ASSERT_FALSE(broken.has_value()) << *broken;
    stores += history.stores();
  }
  EXPECT_GT(vm->Stats().table_reclaims, 0u);
  EXPECT_GT(stores, 32u);
}

// --- the test of the test ---

TEST(StoreHistory, NoticesAThirdThing) {
  TestHost host;
  const auto vm = *Vm::Create(host);
  const auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.size = kSize, .hva = kRam}).ok());
  ASSERT_EQ(vcpu->HandleEptViolation(Gpa(0), kWriteFault).outcome, FaultOutcome::kFixed);
  StoreHistory history(*vm, kPages);
  const EntryRef entry(EntryOf(*vm, Gpa(0)));
  const EptEntry whole = entry.Load();
  const auto hole = history.Watch([&] {
    entry.Exchange(EptEntry());
    entry.Exchange(whole);
  });
  ASSERT_TRUE(hole.has_value());
  EXPECT_NE(hole->find("a third thing: page 0 after store 1"), std::string::npos) << *hole;
  entry.FetchOr(ept::kDirty);
  const auto lost = history.Watch([&] { entry.Exchange(entry.Load().WithoutDirty()); });
  ASSERT_TRUE(lost.has_value());
  EXPECT_NE(lost->find("D is lost"), std::string::npos) << *lost;
}

}  // namespace
}  // namespace tdp::model
