// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs, and eight, fault apart from each other: these tests ask which cache lines they share.
//
// Each has 128 MiB of the guest's memory, and re-enters the guest after each fault. A line is
// shared that one of them stored to and another touched, whenever that was.

#include <barrier>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/vcpu_impl.h"
#include "tests/lines/access_record.h"

namespace tdp::lines {
namespace {

using ::testing::IsEmpty;

constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), true, true);
constexpr auto kWriteToReadOnly =
    ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);
constexpr uint64_t kShare = MiB(128) >> kPageShift;
constexpr uint64_t kPagesPerTable = 512;
constexpr uint64_t kPagesPerChunk = DirtyLog::kPagesPerChunk;
constexpr Hva kMemory{TiB(16)};

// Finds every frame by arithmetic, so that it shares nothing.
class Host : public Backend {
 public:
  explicit Host(int order) : order_(order) {
    capabilities_.ept = EptCapabilities::All();
    capabilities_.physical_address_bits = 52;
    capabilities_.pml = true;
    capabilities_.shadow_paging = true;
  }
  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override {
    return Hpa(reinterpret_cast<uintptr_t>(std::aligned_alloc(kTableBlockBytes, kTableBlockBytes)));
  }
  void FreeTableBlock(Hpa block) override { std::free(reinterpret_cast<void*>(block.raw())); }
  absl::StatusOr<HostPage> Resolve(Hva hva, Access) override {
    HostPage page;
    page.hfn = Hfn(hva.raw() >> kPageShift);
    page.order = order_;
    return page;
  }
  void Invalidate(VcpuId, Eptp) override {}
  void InvalidateAll(VcpuId) override {}
  void Kick(absl::Span<const VcpuId>) override {}

 private:
  Capabilities capabilities_;
  const int order_;
};

class SharedLinesTest : public testing::TestWithParam<int> {
 protected:
  void MakeGuest(VmOptions options, uint32_t flags = 0, int order = 0) {
    host_ = std::make_unique<Host>(order);
    vm_ = *Vm::Create(*host_, options);
    const ByteCount size = vcpu_count() * kShare * kPageSize;
    ASSERT_TRUE(vm_->SetMemoryRegion({.flags = flags, .size = size, .hva = kMemory}).ok());
    for (uint64_t i = 0; i < vcpu_count(); ++i) vcpus_.push_back(*vm_->CreateVcpu());
  }
  uint64_t vcpu_count() const { return static_cast<uint64_t>(GetParam()); }

  // Faults on page `page` of the share of vCPU `i`, and lets the guest go on.
  void Fault(uint64_t i, uint64_t page, ExitQualification exit = kWrite) {
    Vcpu& vcpu = *vcpus_[i];
    const FaultResult result = vcpu.HandleEptViolation(Gfn(i * kShare + page).address(), exit);
    if (result.outcome > FaultOutcome::kSpurious) std::abort();
    vcpu.EnterGuest().Leave();
  }
  // Lets each vCPU fault on every `step`th page of its share from `first` on, one vCPU after
  // another: it has seen what there is, and the engine has seen it in the guest.
  void FaultInTurn(uint64_t first, uint64_t step) {
    for (uint64_t i = 0; i < vcpu_count(); ++i) FaultInShare(i, first, step);
  }
  void FaultInShare(uint64_t i, uint64_t first, uint64_t step) {
    for (uint64_t page = first; page < kShare; page += step) Fault(i, page);
  }

  // Calls `work(i)` on a thread for each vCPU, all at once, and returns the lines that they share.
  SharedLines LinesOf(absl::FunctionRef<void(uint64_t i)> work) {
    std::vector<AccessRecord> records(vcpu_count());
    std::barrier together(GetParam());
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < vcpu_count(); ++i) {
      threads.emplace_back([&, i] {
        together.arrive_and_wait();
        const Recording recording(records[i]);
        work(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return FindSharedLines(records, MakeNames());
  }
  // Returns the lines that they share as each faults on the pages of its share, from `first` on.
  SharedLines LinesOfFaults(uint64_t first, uint64_t step) {
    return LinesOf([=, this](uint64_t i) { FaultInShare(i, first, step); });
  }

  Names MakeNames() {
    Names names;
    Engine& engine = *vm_->engine_;
    names.Add("Vm", vm_.get(), sizeof(Vm));
    names.Add("Engine", &engine, sizeof(engine));
    names.Add("TablePool", &engine.pool_, sizeof(engine.pool_));
    names.Add("TablePool's free tables", &engine.pool_.taken_,
              sizeof(engine.pool_.taken_) + sizeof(engine.pool_.blocks_) +
                  sizeof(engine.pool_.mutex_) + sizeof(engine.pool_.free_));
    names.Add("MmuLock", &engine.mmu_lock_, sizeof(engine.mmu_lock_));
    names.Add("FlushClock", &engine.clock_, sizeof(engine.clock_));
    names.Add("ChangeSequence", &engine.sequence_, sizeof(engine.sequence_));
    names.Add("SlotSet", &engine.slots_, sizeof(engine.slots_));
    for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
      names.Add("VcpuImpl", vcpu->impl_.get(), sizeof(VcpuImpl));
      names.Add("FlushClock::Place", vcpu->impl_->flush_member_.place_, sizeof(FlushClock::Place));
    }
    NameTables(engine, names);
    NameSlot(engine, names);
    return names;
  }

  static void NameTables(Engine& engine, Names& names) {
    if (auto* shadow = engine.space(0).shadow_tables()) {
      names.Add("ShadowTables", shadow, sizeof(*shadow));
      for (ShadowPage* page = shadow->pages_.first(); page != nullptr; page = page->newer) {
        const std::string level = std::to_string(page->level().raw());
        names.Add("a shadow page of level " + level, page->table->entries(), kPageSize);
        names.Add("the record of a shadow page of level " + level, page, sizeof(*page));
      }
      return;
    }
    View& view = engine.views(0).base();
    names.Add("View", &view, sizeof(view));
    const auto name_table = [&names](const TablePage* table) {
      const std::string level = std::to_string(table->level().raw());
      names.Add("a table of level " + level, table->entries(), kPageSize);
      names.Add("the record of a table of level " + level, table, sizeof(*table));
    };
    name_table(view.mmu().root());
    view.mmu().ForEach([&](TablePage*, int, EptEntry entry, Level level) {
      if (entry.kind(level) == EntryKind::kTable) {
        name_table(TablePage::Of(engine.pool_.EntriesOf(entry.address())));
      }
    });
  }

  static void NameSlot(Engine& engine, Names& names) {
    if (ReverseMappedMmu* mapped = engine.reverse_mapped(0)) {
      names.Add("ReverseMappedMmu", mapped, sizeof(*mapped));
      SlotRmap& rmap = *mapped->rmaps_[0];
      names.Add("SlotRmap", &rmap, sizeof(rmap));
    }
    if (auto* shadow = engine.space(0).shadow_tables()) {
      SlotRmap& rmap = *shadow->rmaps_.by_id_[1];
      names.Add("SlotRmap", &rmap, sizeof(rmap));
    }
    const std::optional<MemorySlot> slot = engine.slots_.FindById(0, 0);
    names.Add("SlotState", slot->state, sizeof(*slot->state));
    if (DirtyLog* log = slot->state->any_log()) NameLog(*log, names);
  }

  static void NameLog(DirtyLog& log, Names& names) {
    names.Add("DirtyLog", &log, sizeof(log));
    DirtyLog::Directory* directory = log.FindDirectory(0);
    if (directory == nullptr) return;
    names.Add("the summary of a log's chunks", &directory->summary, sizeof(directory->summary));
    names.Add("the pointers to a log's chunks", &directory->chunks, sizeof(directory->chunks));
    for (const Atomic<DirtyLog::Chunk*>& chunk : directory->chunks) {
      if (chunk.load() != nullptr) names.Add("a log's chunk", chunk.load(), sizeof(*chunk.load()));
    }
  }

  std::unique_ptr<Host> host_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

// Matches no line, or those that `written` names.
testing::Matcher<SharedLines> Are(std::set<std::string> written) {
  return testing::AllOf(testing::Field(&SharedLines::written_by_several, written),
                        testing::Field(&SharedLines::written_by_one, IsEmpty()));
}
testing::Matcher<SharedLines> AreNone() { return Are({}); }

constexpr VmOptions kSmallPages{.max_leaf_level = kLevel4K};

TEST_P(SharedLinesTest, PlainFaultsShareNoLine) {
  MakeGuest(kSmallPages);
  FaultInTurn(0, kPagesPerTable);
  EXPECT_THAT(LinesOfFaults(1, 1), AreNone());
}

TEST_P(SharedLinesTest, PlainFaultsInARandomOrderShareNoLine) {
  MakeGuest(kSmallPages);
  FaultInTurn(0, kPagesPerTable);
  EXPECT_THAT(LinesOf([this](uint64_t i) {
                std::mt19937_64 random(i);
                for (int n = 0; n < 5000; ++n) Fault(i, random() % kShare);
              }),
              AreNone());
}

TEST_P(SharedLinesTest, SpuriousFaultsShareNoLine) {
  MakeGuest(kSmallPages);
  FaultInTurn(0, 16);
  EXPECT_THAT(LinesOfFaults(0, 16), AreNone());
}

// A refill is for 32 tables, and a link in a line that had none is noted in its table's record.
TEST_P(SharedLinesTest, FaultsThatMakeTablesShareThePoolAndTheRecordAbove) {
  MakeGuest(kSmallPages);
  // The pool must have tables enough, and the tables of links be there: one for all vCPUs, each
  // with lines of its own.
  FaultInTurn(0, kPagesPerTable);
  vm_->ZapRange(Gfn(0), PageCount(vcpu_count() * kShare))->Settle();
  Fault(0, 0);
  EXPECT_THAT(LinesOfFaults(0, 128),
              Are({"TablePool's free tables", "the record of a table of level 2"}));
}

TEST_P(SharedLinesTest, FaultsOnLargePagesShareNoLine) {
  MakeGuest({}, 0, 9);
  FaultInTurn(0, kShare);
  EXPECT_THAT(LinesOfFaults(kPagesPerTable, kPagesPerTable), AreNone());
}

TEST_P(SharedLinesTest, FaultsUnderALogShareNoLine) {
  MakeGuest({.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K},
            kSlotLogDirtyPages);
  FaultInTurn(0, kPagesPerTable);
  EXPECT_THAT(LinesOfFaults(1, 1), AreNone());
}

TEST_P(SharedLinesTest, WritesThatLiftAProtectionShareNoLine) {
  MakeGuest({.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K});
  FaultInTurn(0, 4);
  const ByteCount size = vcpu_count() * kShare * kPageSize;
  ASSERT_TRUE(
      vm_->SetMemoryRegion({.flags = kSlotLogDirtyPages, .size = size, .hva = kMemory}).ok());
  for (uint64_t i = 0; i < vcpu_count(); ++i) {
    for (uint64_t page = 0; page < kShare; page += kPagesPerTable) Fault(i, page, kWriteToReadOnly);
  }
  EXPECT_THAT(LinesOf([this](uint64_t i) {
                for (uint64_t page = 0; page < kShare; page += 4) {
                  if (page % kPagesPerTable != 0) Fault(i, page, kWriteToReadOnly);
                }
              }),
              AreNone());
}

// The summaries are written once for each 16 MiB after a take of the log.
TEST_P(SharedLinesTest, FirstWritesAfterATakeShareTheLogsSummariesAlone) {
  MakeGuest({.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K},
            kSlotLogDirtyPages);
  FaultInTurn(0, kPagesPerTable);
  ASSERT_TRUE(vm_->TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok());
  Fault(0, kPagesPerTable + 1);  // in the summary of directories, for all
  EXPECT_THAT(LinesOfFaults(1, kPagesPerChunk), Are({"the summary of a log's chunks"}));
}

TEST_P(SharedLinesTest, FaultsUnderALogByDirtyBitsShareNoLine) {
  MakeGuest({.dirty_tracking = DirtyTracking::kDirtyBits, .max_leaf_level = kLevel4K},
            kSlotLogDirtyPages);
  FaultInTurn(0, kPagesPerTable);
  EXPECT_THAT(LinesOfFaults(1, 1), AreNone());
}

TEST_P(SharedLinesTest, FaultsWithAReverseMapShareNoLine) {
  MakeGuest({.max_leaf_level = kLevel4K, .reverse_map = true});
  FaultInTurn(0, kPagesPerTable);
  EXPECT_THAT(LinesOfFaults(1, 1), AreNone());
}

// These guests have paging of their own, which is shadowed. Their tables are real memory in a slot
// of its own; the page at each gva is the one of that number in slot 1.
class SharedShadowLinesTest : public SharedLinesTest {
 protected:
  void MakePagedGuest() {
    host_ = std::make_unique<Host>(0);
    vm_ = *Vm::Create(*host_, {.paging = Paging::kShadow});
    const Hva tables(reinterpret_cast<uintptr_t>(tables_.get()));
    ASSERT_TRUE(vm_->SetMemoryRegion({.size = kTableBytes, .hva = tables}).ok());
    ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 1,
                                      .gpa = kData.address(),
                                      .size = vcpu_count() * kShare * kPageSize,
                                      .hva = kMemory})
                    .ok());
    SetEntry(0, 0, Gfn(1));
    SetEntry(1, 0, Gfn(2));
    for (uint64_t page = 0; page < vcpu_count() * kShare; ++page) {
      const uint64_t table = page / kPagesPerTable;
      SetEntry(3 + table, page % kPagesPerTable, kData + PageCount(page));
      SetEntry(2, table, Gfn(3 + table));
    }
    const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                 .cr4 = guest::kCr4PhysicalAddressExtension,
                                 .efer = guest::kEferLongModeActive};
    for (uint64_t i = 0; i < vcpu_count(); ++i) {
      vcpus_.push_back(*vm_->CreateVcpu());
      ASSERT_TRUE(vcpus_[i]->shadow()->SetPaging(controls, 0).ok());
    }
    // Shadows every table, then shows each vCPU's place to writers again: they have not met it for
    // so long that it is not listed any more.
    for (uint64_t i = 0; i < vcpu_count(); ++i) {
      for (uint64_t page = 0; page < kShare; page += kPagesPerTable) PageFault(i, page);
    }
    for (uint64_t i = 0; i < vcpu_count(); ++i) PageFault(i, 0);
  }
  void PageFault(uint64_t i, uint64_t page, uint32_t error_code = guest::kFaultWrite) {
    Vcpu& vcpu = *vcpus_[i];
    const Gva gva((i * kShare + page) << kPageShift);
    const PagingFaultResult result = vcpu.shadow()->HandlePageFault(gva, error_code);
    if (result.outcome > PagingOutcome::kSpurious) std::abort();
    vcpu.EnterGuest().Leave();
  }
  // Clears D behind each `kWindow`th page of all, so that a read maps it without W.
  void CleanPages() {
    for (uint64_t page = 0; page < vcpu_count() * kShare; page += kWindow) {
      tables_.get()[(3 + page / kPagesPerTable) * 512 + page % kPagesPerTable] &= ~guest::kDirty;
    }
  }

  static constexpr uint64_t kWindow = 8;  // the pages that one fault fills in

 private:
  static constexpr ByteCount kTableBytes = MiB(4);
  static constexpr Gfn kData{GiB(1) >> kPageShift};
  struct Free {
    void operator()(uint64_t* memory) const { std::free(memory); }
  };
  void SetEntry(uint64_t table, uint64_t index, Gfn to) {
    constexpr uint64_t kFlags =
        guest::kPresent | guest::kWrite | guest::kUser | guest::kAccessed | guest::kDirty;
    tables_.get()[table * 512 + index] = to.address().raw() | kFlags;
  }

  const std::unique_ptr<uint64_t, Free> tables_{
      static_cast<uint64_t*>(std::aligned_alloc(kPageSize, kTableBytes))};
};

TEST_P(SharedShadowLinesTest, ShadowFaultsWithTheirNeighboursShareNoLine) {
  MakePagedGuest();
  EXPECT_THAT(LinesOf([this](uint64_t i) {
                for (uint64_t page = kWindow; page < kShare; page += kWindow) {
                  if (page % kPagesPerTable != 0) PageFault(i, page);
                }
              }),
              AreNone());
}

TEST_P(SharedShadowLinesTest, ShadowFaultsInARandomOrderShareNoLine) {
  MakePagedGuest();
  EXPECT_THAT(LinesOf([this](uint64_t i) {
                std::mt19937_64 random(i);
                for (int n = 0; n < 5000; ++n) PageFault(i, random() % kShare);
              }),
              AreNone());
}

TEST_P(SharedShadowLinesTest, FirstWritesToPagesThatWereReadShareNoLine) {
  MakePagedGuest();
  CleanPages();
  for (uint64_t i = 0; i < vcpu_count(); ++i) {
    for (uint64_t page = kWindow; page < kShare; page += 2 * kWindow) PageFault(i, page, 0);
  }
  EXPECT_THAT(LinesOf([this](uint64_t i) {
                for (uint64_t page = kWindow; page < kShare; page += 2 * kWindow) {
                  PageFault(i, page, guest::kFaultPresent | guest::kFaultWrite);
                }
              }),
              AreNone());
}

INSTANTIATE_TEST_SUITE_P(Vcpus, SharedShadowLinesTest, testing::Values(2, 8),
                         [](const auto& test) { return std::to_string(test.param); });
INSTANTIATE_TEST_SUITE_P(Vcpus, SharedLinesTest, testing::Values(2, 8),
                         [](const auto& test) { return std::to_string(test.param); });

}  // namespace
}  // namespace tdp::lines
