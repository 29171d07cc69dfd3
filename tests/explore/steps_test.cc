// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One call comes between any two instructions of another, and goes on until it is done or has to
// wait for that one. So a look at plain memory, which is no step of the scheduler, is tried on both
// sides of a change, too, and what was freed meanwhile cannot be touched.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/explore/fenced_memory.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/strategy.h"
#include "tests/mmu/single_step.h"
#include "tests/world/test_host.h"

namespace tdp::explore {
namespace {

constexpr ByteCount kSize = MiB(2);
constexpr Gpa kSecond{GiB(1)};
constexpr Gpa kPage = kSecond + 0x3000;
constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), true, true);

struct AlignedDelete {
  void operator()(std::byte* bytes) const { operator delete[](bytes, std::align_val_t{kPageSize}); }
};

// Returns the memory of the second slot. It is the host's, and outlives every machine.
std::byte* SecondMemory() {
  static std::unique_ptr<std::byte[], AlignedDelete> memory(new (std::align_val_t{kPageSize})
                                                                std::byte[kSize]());
  return memory.get();
}

// Has two slots far from each other, and a vCPU.
struct Machine {
  explicit Machine(const VmOptions& options, int order, MemoryRegion second) {
    host.order = order;
    vm = *Vm::Create(host, options);
    // The tables are there before, so that nobody needs the C library's heap on the way, in which a
    // thread may be stopped.
    EXPECT_EQ(vm->ReserveTables(120), absl::OkStatus());
    second.slot = 1;
    second.gpa = kSecond;
    second.size = kSize;
    if ((second.flags & kSlotHostFrames) != 0) {
      second.hpa = Hpa(TiB(2));
    } else {
      second.hva = Hva(order == 0 ? reinterpret_cast<uintptr_t>(SecondMemory()) : TiB(2));
    }
    EXPECT_EQ(vm->SetMemoryRegion({.size = kSize, .hva = Hva(TiB(1))}), absl::OkStatus());
    EXPECT_EQ(vm->SetMemoryRegion(second), absl::OkStatus());
    vcpu = *vm->CreateVcpu();
  }
  void Fault(Gpa gpa) { (void)vcpu->HandleEptViolation(gpa, kWrite); }
  void PageFault(Gva gva) { (void)vcpu->shadow()->HandlePageFault(gva, guest::kFaultWrite); }

  TestHost host;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
};

using Step = std::function<void(Machine&)>;

// Names two calls of different threads.
struct Pair {
  std::string name;
  Step call;
  Step change;
  Step prepare = [](Machine&) {};
  // Returns what is wrong when both are over; empty for nothing.
  std::function<std::string(Machine&)> judge = [](Machine&) { return std::string(); };
  VmOptions options = {};
  int order = 0;
  MemoryRegion second = {};
};

void Delete(Machine& machine) { (void)machine.vm->SetMemoryRegion({.slot = 1}); }

std::string NothingOfTheSlotIsMapped(Machine& machine) {
  for (uint64_t page = 0; page < kSize / kPageSize; ++page) {
    if (machine.vm->Translate(kSecond + page * kPageSize).ok()) {
      return absl::StrCat("page ", page, " of the slot that was deleted is mapped");
    }
  }
  return "";
}

void Alternate(Machine& machine) {
  for (const Gpa gpa : {Gpa(0x1000), kSecond + 0x1000, Gpa(0x2000)}) machine.Fault(gpa);
}

void DenyWrites(Machine& machine) {
  (void)machine.vm->Apply(
      {Change::ViewRights(kBaseView, Gfn::Of(kPage), PageCount(1), Access::ReadExecute())});
}

std::string NoWriteIsPossible(Machine& machine) {
  const auto mapped = machine.vm->Translate(kPage);
  return mapped.ok() && mapped->entry.is_writable() ? "a write that is denied is possible" : "";
}

// Writes four tables at the end of the second slot, by which the guest maps the page 0x5000.
GuestRoots WriteGuestTables() {
  constexpr uint64_t kFirst = kSize - 4 * kPageSize;
  for (uint64_t i = 0; i < 4; ++i) {
    auto* const table = reinterpret_cast<uint64_t*>(SecondMemory() + kFirst + i * kPageSize);
    std::fill_n(table, 512, 0);
    table[i == 3 ? 5 : 0] = (kSecond.raw() + kFirst + (i + 1) * kPageSize) | 0x67;
  }
  return {.cr3 = kSecond.raw() + kFirst};
}

void WalkGuest(Machine& machine) {
  static const GuestPaging paging{GuestControls{.cr0 = guest::kCr0Paging,
                                                .cr4 = guest::kCr4PhysicalAddressExtension,
                                                .efer = guest::kEferLongModeActive}};
  static const GuestRoots roots = WriteGuestTables();
  GuestWalk walk;
  (void)machine.vcpu->WalkGuest(paging, roots, Gva(0x5678), GuestAccess::Read(), walk);
}

std::vector<Pair> Pairs() {
  std::vector<Pair> pairs;
  const auto beside_a_deletion = [&](std::string name, Step call, Pair more = {}) -> Pair& {
    more.name = std::move(name);
    more.call = std::move(call);
    more.change = Delete;
    if (more.options.paging != Paging::kShadow) more.judge = NothingOfTheSlotIsMapped;
    pairs.push_back(std::move(more));
    return pairs.back();
  };
  const Step fault = [](Machine& m) { m.Fault(kPage); };
  const Step page_fault = [](Machine& m) { m.PageFault(Gva(kPage.raw())); };
  const Step populate = [](Machine& m) { (void)m.vm->Populate(kSecond, 8 * kPageSize); };
  const MemoryRegion frames{.flags = kSlotHostFrames};

  beside_a_deletion("AFaultInAnotherSlotThanTheLast", fault).prepare = Alternate;
  beside_a_deletion("AFaultInASlotOfFrames", fault, {.second = frames});
  beside_a_deletion("PopulateOfASlotOfFrames", populate, {.second = frames});
  beside_a_deletion("Prefault", [](Machine& m) {
    (void)m.vcpu->Prefault(kSecond, 8 * kPageSize, Access::ReadWrite());
  });
  beside_a_deletion("Collapse",
                    [](Machine& m) { (void)m.vm->CollapseRange(Gfn::Of(kSecond), PageCount(512)); },
                    {.prepare =
                         [](Machine& m) {
                           m.Fault(kPage);
                           m.vm->SplitRange(Gfn::Of(kSecond), PageCount(512))->Settle();
                         },
                     .order = 9});
  beside_a_deletion("WalkGuest", WalkGuest);
  beside_a_deletion("AShadowsFaultInASlotOfFrames", page_fault,
                    {.options = {.paging = Paging::kShadow}, .second = frames});

  pairs.push_back({.name = "AFaultInAViewWhoseRightsAreTakenAtOnce",
                   .call = fault,
                   .change = DenyWrites,
                   .prepare = Alternate,
                   .judge = NoWriteIsPossible});
  pairs.push_back({.name = "ADenialOfWhatAFaultMaps",
                   .call = DenyWrites,
                   .change = fault,
                   .prepare = Alternate,
                   .judge = NoWriteIsPossible});
  return pairs;
}

std::string NameOf(const testing::TestParamInfo<Pair>& info) { return info.param.name; }

class BesideEachInstruction : public testing::TestWithParam<Pair> {
 protected:
  // Steps through `one`. At one instruction after another a process of its own runs `other` as far
  // as it comes, then both to their ends: so `one` is gone through once.
  void RunAll(const Step& one, const Step& other) {
    const Pair& pair = GetParam();
    FencedMemory fences(pair.name);
    fences_ = &fences;
    Machine machine(pair.options, pair.order, pair.second);
    pair.prepare(machine);
    const Schedule none;
    ReplayStrategy strategy(none);  // whoever runs goes on where it can
    const RunResult result = fibers_.Run(
        {[&] { SingleStep::Run([&] { one(machine); }, [&](uint64_t step) { return Act(step); }); },
         [&] { other(machine); }},
        strategy, {});
    const std::string wrong = result.finding.empty() ? Judge(machine) : result.finding;
    if (in_child_) {
      if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
      _exit(wrong.empty() ? 0 : 1);
    }
    EXPECT_EQ(wrong, "");
    EXPECT_GT(runs_, 10u);
  }

 private:
  // Acts after each of the first instructions; from there on after fewer and fewer, as loops go
  // round.
  bool Act(uint64_t step) {
    if (step < next_) return true;
    next_ += 1 + step / kEach;
    ++runs_;
    const pid_t child = fork();
    if (child == 0) {
      in_child_ = true;
      fences_->Close();
      fibers_.Yield();
      return false;
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
      std::fprintf(stderr, "after instruction %d\n", static_cast<int>(step));
      is_wrong_ = true;
    }
    return !is_wrong_;
  }

  std::string Judge(Machine& machine) {
    if (is_wrong_) return "a change beside it was not held";
    const std::string wrong = GetParam().judge(machine);
    if (!wrong.empty()) return wrong;
    const absl::Status sound = machine.vm->CheckInvariants();
    return sound.ok() ? "" : sound.ToString();
  }

  static constexpr uint64_t kEach = 100;

  FiberScheduler fibers_;
  FencedMemory* fences_ = nullptr;
  uint64_t next_ = 1;
  uint64_t runs_ = 0;
  bool in_child_ = false;
  bool is_wrong_ = false;
};

TEST_P(BesideEachInstruction, OfTheCallTheChangeIsMade) {
  RunAll(GetParam().call, GetParam().change);
}

INSTANTIATE_TEST_SUITE_P(Steps, BesideEachInstruction, testing::ValuesIn(Pairs()), NameOf);

}  // namespace
}  // namespace tdp::explore
