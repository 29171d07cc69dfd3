// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each operation of the engine has every budget of memory from nothing upwards, once for what it
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
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/model/starved_machine.h"
#include "tests/model/store_history.h"

namespace {

// So many allocations may still succeed; one thread alone allocates here.
uint64_t g_budget = std::numeric_limits<uint64_t>::max();
uint64_t g_refused = 0;

uint64_t g_fails_at = 0;  // the allocation that fails, from 1; 0: none

bool MayAllocate() {
  if (g_fails_at != 0 && --g_fails_at == 0) {
    ++g_refused;
    return false;
  }
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

using Machine = StarvedMachine;
using Operation = StarvedOperation;
constexpr uint64_t kPages = kStarvedPages;

class Starvation : public testing::TestWithParam<Operation> {
 protected:
  // Returns what the operation comes to with memory enough.
  std::vector<Seen> Fed() {
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    EXPECT_TRUE(GetParam().run(machine).ok());
    return Snapshot(machine);
  }
  static std::vector<Seen> Snapshot(Machine& machine) {
    std::vector<Seen> seen = StoreHistory(*machine.vm, kPages).Snapshot();
    if (!machine.has_view) return seen;
    const std::vector<Seen> more = StoreHistory(*machine.vm, kPages, 0, 1).Snapshot();
    seen.insert(seen.end(), more.begin(), more.end());
    return seen;
  }
  static void CheckNoThirdThing(const std::vector<Seen>& before, const std::vector<Seen>& after,
                                const std::vector<Seen>& fed, bool may_vanish) {
    for (size_t page = 0; page < after.size(); ++page) {
      const bool vanished = may_vanish && !after[page].is_mapped() && !after[page].is_mmio;
      ASSERT_TRUE(after[page].LeadsWhere(before[page]) || after[page].LeadsWhere(fed[page]) ||
                  vanished)
          << "page " << page << " leads to " << after[page].DebugString() << ", before to "
          << before[page].DebugString();
    }
  }
  void CheckEnd(Machine& machine, const std::vector<Seen>& fed) {
    ASSERT_TRUE(machine.vm->CheckInvariants().ok()) << machine.vm->CheckInvariants();
    const absl::Status again = GetParam().run(machine);
    // An operation in steps may find its first ones done.
    ASSERT_TRUE(again.ok()) << again;
    ASSERT_TRUE(machine.vm->CheckInvariants().ok()) << machine.vm->CheckInvariants();
    const std::vector<Seen> end = Snapshot(machine);
    for (size_t page = 0; page < end.size(); ++page) {
      if (fed[page].is_mapped() && end[page].is_mapped()) {
        ASSERT_EQ(end[page].frame, fed[page].frame) << "page " << page;
      }
    }
  }
  // Checks that an operation that was refused memory has failed as it says, and comes to its end by
  // the next try, or has done without.
  void CheckRefused(Machine& machine, const absl::Status& status, const std::vector<Seen>& before,
                    const std::vector<Seen>& fed) {
    if (status.ok()) {
      CheckNoThirdThing(fed, Snapshot(machine), fed, false);
      ASSERT_TRUE(machine.vm->CheckInvariants().ok()) << machine.vm->CheckInvariants();
      return;
    }
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
    CheckNoThirdThing(before, Snapshot(machine), fed, false);
    CheckEnd(machine, fed);
  }
  // Tries every budget of the heap: `refuse(n)` makes the operation fail at its n-th allocation.
  void TryHeap(const std::function<void(uint64_t)>& refuse) {
    const std::vector<Seen> fed = Fed();
    bool enough = false;
    uint64_t at = 1;
    for (; !enough; ++at) {
      ASSERT_LT(at, 2000u);
      Machine machine(GetParam().options, GetParam().with_vcpu);
      GetParam().prepare(machine);
      const std::vector<Seen> before = Snapshot(machine);
      g_refused = 0;
      refuse(at);
      const absl::Status status = GetParam().run(machine);
      g_budget = std::numeric_limits<uint64_t>::max();
      g_fails_at = 0;
      enough = g_refused == 0;
      CheckRefused(machine, status, before, fed);
      if (HasFatalFailure()) FAIL() << "at allocation " << at;
    }
    RecordProperty("allocations", static_cast<int>(at) - 2);
  }
};

TEST_P(Starvation, OfHeapMemoryIsAllOrNothing) {
  TryHeap([](uint64_t at) { g_budget = at - 1; });
}

TEST_P(Starvation, OfOneAllocationIsAllOrNothing) {
  TryHeap([](uint64_t at) { g_fails_at = at; });
}

// The backend refuses blocks, too, where the tables that are free have been taken.
TEST_P(Starvation, OfOneBlockOfTablesLeavesNothingHalfDone) {
  const std::vector<Seen> fed = Fed();
  bool enough = false;
  for (int call = 1; !enough; ++call) {
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    machine.TakeFreeTables();
    const std::vector<Seen> before = Snapshot(machine);
    machine.host.block_to_refuse = call;
    const absl::Status status = GetParam().run(machine);
    machine.host.block_to_refuse = 0;
    enough = machine.host.refused_blocks == 0;
    // A zap that has no table to split by takes the whole leaf.
    CheckNoThirdThing(before, Snapshot(machine), fed, true);
    if (!status.ok()) {
      ASSERT_TRUE(absl::IsResourceExhausted(status)) << "call " << call << ": " << status;
      CheckEnd(machine, fed);
    }
    ASSERT_TRUE(machine.vm->CheckInvariants().ok()) << machine.vm->CheckInvariants();
    if (HasFatalFailure()) FAIL() << "at call " << call << " for a block";
  }
}

// The quota of tables is just above what the machine uses already. At the quota cold tables may be
// taken back, whose pages vanish.
TEST_P(Starvation, OfTablesLeavesNothingHalfDone) {
  const std::vector<Seen> fed = Fed();
  int failures = 0;
  for (size_t extra = 0; extra <= 40; ++extra) {
    Machine machine(GetParam().options, GetParam().with_vcpu);
    GetParam().prepare(machine);
    const std::vector<Seen> before = Snapshot(machine);
    ASSERT_TRUE(machine.vm->SetTableQuota(machine.vm->Stats().tables_in_use + extra).ok());
    const absl::Status status = GetParam().run(machine);
    CheckNoThirdThing(before, Snapshot(machine), fed, true);
    ASSERT_TRUE(machine.vm->SetTableQuota(1 << 20).ok());
    if (status.ok()) continue;
    ++failures;
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << "quota +" << extra << ": " << status;
    CheckEnd(machine, fed);
    if (HasFatalFailure()) FAIL() << "with " << extra << " tables";
  }
  RecordProperty("failures", failures);
}

INSTANTIATE_TEST_SUITE_P(Operations, Starvation, testing::ValuesIn(StarvedOperations()),
                         [](const auto& param) { return std::string(param.param.name); });

// This tests the test: budgets do reach the library.
TEST(Starvation, IsFeltByTheHeapAndByTheTables) {
  Machine machine({});
  g_budget = 0;
  const absl::Status status = machine.SetRam(kSlotLogDirtyPages);
  g_budget = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  machine.Fill();
  ASSERT_TRUE(machine.vm->SetTableQuota(1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(machine.vm->CreateView().status()));
}

}  // namespace
}  // namespace tdp::model
