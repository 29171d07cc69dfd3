// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cold_check.h"

#include <cstdint>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {
namespace {

ColdCheck CheckAll(Machine& machine) {
  Progress progress;
  return CheckFromCold(machine, ColdCheckMode::kAll, progress).value();
}

using ::testing::HasSubstr;

constexpr int kPages = 20;
constexpr Gva kFirstPage{0x10000};

// Returns a machine on which a program has touched 20 pages.
std::unique_ptr<Machine> UsedMachine(Paging paging) {
  ReplayOptions options;
  options.paging = paging;
  options.ept_page = kLevel4K;
  std::unique_ptr<Machine> machine = Machine::Create(options).value();
  std::vector<TraceRecord> records;
  for (uint64_t i = 0; i < kPages; ++i) {
    records.push_back(TraceRecord::Make(kFirstPage + i * kPageSize, AccessKind::kStore, 3));
  }
  EXPECT_TRUE(CpuRunner(*machine, 0).Run(records).ok());
  return machine;
}

TEST(ColdCheck, FindsNothingWrongAfterAReplay) {
  for (Paging paging : {Paging::kNative, Paging::kEpt, Paging::kShadow, Paging::kNested}) {
    const ColdCheck check = CheckAll(*UsedMachine(paging));
    EXPECT_EQ(check.pages, kPages);
    EXPECT_EQ(check.mismatches, 0u) << check.first_mismatch;
    EXPECT_EQ(check.first_mismatch, "");
  }
}

TEST(ColdCheck, FindsAPageThatTheHostMovedWithoutAWord) {
  const std::unique_ptr<Machine> machine = UsedMachine(Paging::kEpt);
  const Gpa gpa = machine->kernel().mappings()[7].gpa;
  const Hva hva = machine->HvaBySlots(gpa).value();
  ASSERT_TRUE(machine->host().Migrate(hva, kPageSize).ok());
  const ColdCheck check = CheckAll(*machine);
  EXPECT_EQ(check.pages, kPages);
  EXPECT_EQ(check.mismatches, 2u);  // once by its walk, once by the check of all invariants
  EXPECT_THAT(check.first_mismatch, HasSubstr("the slots say"));
}

// Returns the hypervisor's entry for the page of L2 at `gpa`.
uint64_t* EntryOfL1(Machine& machine, Gpa gpa) {
  uint64_t* entry = nullptr;
  uint64_t table = machine.hypervisor().eptp().root().raw();
  for (int level = 4; level >= 1; --level) {
    const auto at = machine.HypervisorPage(Gfn::Of(Gpa(table))).value();
    entry = reinterpret_cast<uint64_t*>(at) +
            (gpa.raw() >> Level(level).shift() & (Level::kEntries - 1));
    table = *entry & 0x000ffffffffff000;
  }
  return entry;
}

TEST(ColdCheck, FindsAPageOfL2ThatTheHostMovedWithoutAWord) {
  const std::unique_ptr<Machine> machine = UsedMachine(Paging::kNested);
  const Hva hva = machine->HvaBySlots(machine->kernel().mappings()[7].gpa).value();
  ASSERT_TRUE(machine->host().Migrate(hva, kPageSize).ok());
  const ColdCheck check = CheckAll(*machine);
  EXPECT_EQ(check.pages, kPages);
  EXPECT_GE(check.mismatches, 1u) << "the engine's own check may find it too";
  EXPECT_THAT(check.first_mismatch, HasSubstr("the slots say"));
}

TEST(ColdCheck, FindsAnEntryOfL1ThatLeadsElsewhere) {
  const std::unique_ptr<Machine> machine = UsedMachine(Paging::kNested);
  *EntryOfL1(*machine, machine->kernel().mappings()[7].gpa) ^= kPageSize;
  // The tables on which L2 runs hold the old entry until INVEPT.
  EXPECT_EQ(CheckAll(*machine).mismatches, 0u);
  ASSERT_TRUE(machine->Invept(0).value());
  const ColdCheck check = CheckAll(*machine);
  EXPECT_EQ(check.mismatches, 1u);
  EXPECT_THAT(check.first_mismatch, HasSubstr("the slots say"));
}

TEST(ColdCheck, WhatL1DoesNotMapIsUntouched) {
  const std::unique_ptr<Machine> machine = UsedMachine(Paging::kNested);
  *EntryOfL1(*machine, machine->kernel().mappings()[7].gpa) = 0;
  ASSERT_TRUE(machine->Invept(0).value());
  const ColdCheck check = CheckAll(*machine);
  EXPECT_EQ(check.pages, kPages - 1);
  EXPECT_EQ(check.untouched, 1u);
  EXPECT_EQ(check.mismatches, 0u) << check.first_mismatch;
}

TEST(ColdCheck, FindsAPageThatTheShadowHasNotHeardOf) {
  const std::unique_ptr<Machine> machine = UsedMachine(Paging::kShadow);
  const Hva hva = machine->HvaBySlots(machine->kernel().mappings()[7].gpa).value();
  ASSERT_TRUE(machine->host().Migrate(hva, kPageSize).ok());
  const ColdCheck check = CheckAll(*machine);
  EXPECT_GE(check.mismatches, 1u) << "the engine's own check may find it too";
  EXPECT_THAT(check.first_mismatch, HasSubstr("the slots say"));
}

TEST(ColdCheck, FindsAGuestEntryThatLeadsElsewhere) {
  for (Paging paging : {Paging::kNative, Paging::kEpt}) {
    const std::unique_ptr<Machine> machine = UsedMachine(paging);
    // This walks down to the entry of the first page, and changes its frame.
    uint64_t table = machine->kernel().root().raw();
    uint64_t* entry = nullptr;
    for (int level = 4; level >= 1; --level) {
      const Hpa hpa = machine->HpaBySlots(Gpa(table)).value();
      const uint64_t index = kFirstPage.raw() >> Level(level).shift() & (Level::kEntries - 1);
      entry = reinterpret_cast<uint64_t*>(machine->host().At(hpa)) + index;
      table = *entry & 0x000ffffffffff000;
    }
    *entry ^= kPageSize;
    EXPECT_EQ(CheckAll(*machine).mismatches, 1u);
  }
}

}  // namespace
}  // namespace tdp::tools
