// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each operation of the engine with every budget of memory from nothing upwards, once for what it
// allocates from the heap (slot nodes, indices, dirty logs, permits, rings, reverse maps) and once
// for tables. It fails with ResourceExhausted, or it succeeds; when it fails, no page leads to a
// third thing, the invariants hold, and with memory the same call succeeds and comes to the same
// end.
//
// The library asks the heap by `new (std::nothrow)` wherever it may fail; this program replaces
// that.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/model/store_history.h"
#include "tests/world/host_world.h"

namespace {

// Allocations that may still succeed; one thread alone allocates here.
uint64_t g_budget = std::numeric_limits<uint64_t>::max();
uint64_t g_refused = 0;

bool MayAllocate() {
  if (g_budget == std::numeric_limits<uint64_t>::max()) return true;
  if (g_budget == 0) {
    ++g_refused;
    return false;
  }
  --g_budget;
  return true;
}

}  // namespace

void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return MayAllocate() ? ::operator new(size) : nullptr;
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return MayAllocate() ? ::operator new[](size) : nullptr;
}
void* operator new(size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  return MayAllocate() ? ::operator new(size, align) : nullptr;
}
void* operator new[](size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  return MayAllocate() ? ::operator new[](size, align) : nullptr;
}

namespace tdp::model {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(16);
constexpr uint64_t kPages = kSize >> kPageShift;

class Machine : private HostWorld {
 public:
  explicit Machine(const VmOptions& options, bool with_vcpu = true) {
    host_.order = 9;
    Start(options, with_vcpu);
  }
  TestHost& host() { return host_; }
  Vm& vm() { return *vm_; }
  Vcpu& vcpu() { return *vcpu_; }

  absl::Status SetSlot(uint32_t slot, uint32_t flags, Gpa gpa, ByteCount size) {
    return vm_->SetMemoryRegion(
        {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = kRam + slot * GiB(1)});
  }
  absl::Status SetRam(uint32_t flags = 0) { return SetSlot(0, flags, Gpa(0), kSize); }
  absl::Status AddVcpu() {
    auto vcpu = vm_->CreateVcpu();
    if (vcpu.ok()) vcpu_ = *std::move(vcpu);
    return vcpu.status();
  }
  absl::Status Fault(uint64_t page, ExitQualification q = kWriteFault) {
    return vcpu_->HandleEptViolation(Gfn(page).address(), q).status;
  }
  // Half the guest in 2 MiB pages, some of the rest in 4 KiB.
  void Fill() {
    EXPECT_TRUE(SetRam().ok());
    for (uint64_t page = 0; page < kPages / 2; page += 512) EXPECT_TRUE(Fault(page).ok());
    host_.order = 0;
    for (uint64_t page = kPages / 2; page < kPages; page += 300) EXPECT_TRUE(Fault(page).ok());
  }
  absl::Status Take() {
    return vm_->TakeDirtyLog(0, [](uint64_t, uint64_t) {});
  }
  static absl::Status Settle(absl::StatusOr<PendingFlush> flush) {
    if (flush.ok()) flush->Settle();
    return flush.status();
  }
};

struct Operation {
  const char* name;
  VmOptions options;
  std::function<void(Machine&)> prepare;
  std::function<absl::Status(Machine&)> run;
  bool with_vcpu = true;
};

const VmOptions kWriteProtect = {.dirty_tracking = DirtyTracking::kWriteProtection};
const VmOptions kReverse = {.reverse_map = true};

void Fill(Machine& m) { m.Fill(); }
void FillAndLog(Machine& m) {
  m.Fill();
  EXPECT_TRUE(m.SetRam(kSlotLogDirtyPages).ok());
}

const std::vector<Operation>& Operations() {
  static const auto* const operations = new std::vector<Operation>{
      {"ASlot", {}, [](Machine&) {}, [](Machine& m) { return m.SetRam(); }},
      {"ALoggingSlot",
       {},
       [](Machine&) {},
       [](Machine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"ASlotWithReverseMap", kReverse, [](Machine&) {}, [](Machine& m) { return m.SetRam(); }},
      {"ALoggingSlotWithReverseMap", kReverse, [](Machine&) {},
       [](Machine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"ManySlots",
       {},
       [](Machine&) {},
       [](Machine& m) {
         for (uint32_t slot = 1; slot < 80; ++slot) {
           const absl::Status status = m.SetSlot(slot, 0, Gpa(slot * MiB(64)), kPageSize);
           if (!status.ok()) return status;
         }
         return absl::OkStatus();
       }},
      {"DeletingASlot", {}, Fill, [](Machine& m) { return m.SetSlot(0, 0, Gpa(0), 0); }},
      {"MovingASlot", {}, Fill, [](Machine& m) { return m.SetSlot(0, 0, Gpa(MiB(8)), kSize); }},
      {"LoggingOn", {}, Fill, [](Machine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"LoggingOnByProtection", kWriteProtect, Fill,
       [](Machine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"LoggingOff", kWriteProtect, FillAndLog, [](Machine& m) { return m.SetRam(); }},
      {"AFaultOf2M",
       {},
       [](Machine& m) { EXPECT_TRUE(m.SetRam().ok()); },
       [](Machine& m) { return m.Fault(0); }},
      {"AFaultWithReverseMap", kReverse,
       [](Machine& m) {
         m.host().order = 0;
         EXPECT_TRUE(m.SetRam().ok());
       },
       [](Machine& m) { return m.Fault(77); }},
      {"AWriteThatIsLogged", kWriteProtect, FillAndLog, [](Machine& m) { return m.Fault(5); }},
      {"TakingTheLog", kWriteProtect,
       [](Machine& m) {
         FillAndLog(m);
         EXPECT_TRUE(m.Fault(5).ok());
       },
       [](Machine& m) { return m.Take(); }},
      {"TakingTheLogOfDirtyBits", {}, FillAndLog, [](Machine& m) { return m.Take(); }},
      {"PushingTheLogDown", kWriteProtect, FillAndLog,
       [](Machine& m) { return m.vm().PushDownDirtyLog(0); }},
      {"Prefault",
       {},
       [](Machine& m) { EXPECT_TRUE(m.SetRam().ok()); },
       [](Machine& m) {
         m.host().order = 0;
         ByteCount done = 0;
         while (done < kSize) {
           const auto more = m.vcpu().Prefault(Gpa(done), kSize - done, Access::Write());
           if (!more.ok()) return more.status();
           done += *more;
         }
         return absl::OkStatus();
       }},
      {"ZapOfPartOfALeaf",
       {},
       Fill,
       [](Machine& m) { return Machine::Settle(m.vm().ZapRange(Gfn(100), PageCount(1000))); }},
      {"ZapOfEverything", {}, Fill, [](Machine& m) { return Machine::Settle(m.vm().ZapAll()); }},
      {"TheHostsInvalidation",
       {},
       Fill,
       [](Machine& m) { return m.vm().InvalidateHostRange(kRam + 3 * kPageSize, MiB(5)); }},
      {"Split",
       {},
       Fill,
       [](Machine& m) { return Machine::Settle(m.vm().SplitRange(Gfn(0), PageCount(kPages))); }},
      {"Collapse",
       {},
       [](Machine& m) {
         m.Fill();
         m.vm().SplitRange(Gfn(0), PageCount(kPages))->Settle();
         m.host().order = 9;
       },
       [](Machine& m) { return m.vm().CollapseRange(Gfn(0), PageCount(kPages)).status(); }},
      {"Aging",
       {.accessed_dirty = Use::kNever},
       Fill,
       [](Machine& m) {
         auto aged = m.vm().AgeHostRange(kRam, kSize);
         if (aged.ok()) aged->flush.Settle();
         return aged.status();
       }},
      {"MemoryTypes",
       {},
       Fill,
       [](Machine& m) {
         GuestMemoryTypes types;
         types.non_coherent_dma = true;
         return m.vm().SetMemoryTypes(types);
       }},
      {"ADirtyRing", kWriteProtect,
       [](Machine& m) { EXPECT_TRUE(m.vm().EnableDirtyRing(4096).ok()); },
       [](Machine& m) { return m.AddVcpu(); },
       /*with_vcpu=*/false},
  };
  return *operations;
}

class Starvation : public testing::TestWithParam<Operation> {
 protected:
  // What the operation comes to with memory enough.
  std::vector<Seen> Fed() {
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    EXPECT_TRUE(GetParam().run(machine).ok());
    return Snapshot(machine);
  }
  static std::vector<Seen> Snapshot(Machine& machine) {
    return StoreHistory(machine.vm(), kPages).Snapshot();
  }
  static void CheckNoThirdThing(const std::vector<Seen>& before, const std::vector<Seen>& after,
                                const std::vector<Seen>& fed, bool may_vanish) {
    for (uint64_t page = 0; page < kPages; ++page) {
      const bool vanished = may_vanish && !after[page].is_mapped() && !after[page].is_mmio;
      ASSERT_TRUE(after[page].LeadsWhere(before[page]) || after[page].LeadsWhere(fed[page]) ||
                  vanished)
          << "page " << page << " leads to " << after[page].DebugString() << ", before to "
          << before[page].DebugString();
    }
  }
  void CheckEnd(Machine& machine, const std::vector<Seen>& fed) {
    ASSERT_TRUE(machine.vm().CheckInvariants().ok()) << machine.vm().CheckInvariants();
    const absl::Status again = GetParam().run(machine);
    // An operation in steps may find its first ones done.
    ASSERT_TRUE(again.ok()) << again;
    ASSERT_TRUE(machine.vm().CheckInvariants().ok()) << machine.vm().CheckInvariants();
    const std::vector<Seen> end = Snapshot(machine);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (fed[page].is_mapped() && end[page].is_mapped()) {
        ASSERT_EQ(end[page].frame, fed[page].frame) << "page " << page;
      }
    }
  }
};

TEST_P(Starvation, OfHeapMemoryIsAllOrNothing) {
  const std::vector<Seen> fed = Fed();
  bool enough = false;
  uint64_t budget = 0;
  for (; !enough; ++budget) {
    ASSERT_LT(budget, 2000u);
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    const std::vector<Seen> before = Snapshot(machine);
    g_refused = 0;
    g_budget = budget;
    const absl::Status status = GetParam().run(machine);
    g_budget = std::numeric_limits<uint64_t>::max();
    enough = g_refused == 0;
    if (status.ok()) {
      CheckNoThirdThing(fed, Snapshot(machine), fed, false);
      ASSERT_TRUE(machine.vm().CheckInvariants().ok()) << machine.vm().CheckInvariants();
      continue;
    }
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << "budget " << budget << ": " << status;
    CheckNoThirdThing(before, Snapshot(machine), fed, false);
    CheckEnd(machine, fed);
    if (HasFatalFailure()) FAIL() << "with a budget of " << budget;
  }
  RecordProperty("allocations", static_cast<int>(budget) - 1);
}

// Tables: a quota just above what the machine uses already. At the quota cold tables may be taken
// back, whose pages vanish.
TEST_P(Starvation, OfTablesLeavesNothingHalfDone) {
  const std::vector<Seen> fed = Fed();
  int failures = 0;
  for (size_t extra = 0; extra <= 40; ++extra) {
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    const std::vector<Seen> before = Snapshot(machine);
    ASSERT_TRUE(machine.vm().SetTableQuota(machine.vm().Stats().tables_in_use + extra).ok());
    const absl::Status status = GetParam().run(machine);
    CheckNoThirdThing(before, Snapshot(machine), fed, true);
    ASSERT_TRUE(machine.vm().SetTableQuota(1 << 20).ok());
    if (status.ok()) continue;
    ++failures;
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << "quota +" << extra << ": " << status;
    CheckEnd(machine, fed);
    if (HasFatalFailure()) FAIL() << "with " << extra << " tables";
  }
  RecordProperty("failures", failures);
}

INSTANTIATE_TEST_SUITE_P(Operations, Starvation, testing::ValuesIn(Operations()),
                         [](const auto& param) { return std::string(param.param.name); });

// The test of the test: budgets do reach the library.
TEST(Starvation, IsFeltByTheHeapAndByTheTables) {
  Machine machine({});
  g_budget = 0;
  const absl::Status status = machine.SetRam(kSlotLogDirtyPages);
  g_budget = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  machine.Fill();
  ASSERT_TRUE(machine.vm().SetTableQuota(1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(machine.vm().CreateView().status()));
}

}  // namespace
}  // namespace tdp::model
