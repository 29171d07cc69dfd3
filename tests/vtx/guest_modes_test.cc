// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Guests in every paging mode begin with an empty EPT, with the CPU as judge.

#include <algorithm>
#include <cstdint>

#include "gtest/gtest.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr Gpa kData{0x400000};
constexpr int kPages = 16;
constexpr uint64_t kCr4Pae = 1 << 5;

// Expects what the write programs leave behind: `first`, `first + step`, ... one a page.
void ExpectPages(Machine& machine, uint64_t first, uint64_t step) {
  for (int i = 0; i < kPages; ++i) {
    EXPECT_EQ(machine.At<uint32_t>(kData + i * kPageSize), first + i * step) << "page " << i;
  }
  CheckOk(machine.vm().CheckInvariants());
}

void StartWriting64(Machine& machine, bool large_guest_pages = true) {
  machine.Start64(WritePagesProgram(), large_guest_pages);
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = kPages;
  machine.registers().rax = 7;
  machine.registers().rsi = 3;
}

void StartWriting32(Machine& machine, absl::Span<const uint8_t> program) {
  machine.Start(program, GuestState::Flat32(Machine::kCode.raw(), Machine::kStack));
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = kPages;
  machine.registers().rax = 7;
}

TEST(GuestModes, A64BitGuestThatStartsWithAnEmptyEptFinishes) {
  Machine machine;
  StartWriting64(machine);
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  // The guest's three tables, its code, and its data each have one violation a page.
  EXPECT_EQ(machine.faults().size(), 4u + kPages);
  EXPECT_EQ(machine.vm().Stats().faults.fixed, 4u + kPages);
}

TEST(GuestModes, ARealModeGuestRunsOnUnmappedMemory) {
  Machine machine;
  machine.Start(RealModeProgram(), GuestState::RealMode(Machine::kCode.raw(), Machine::kStack));
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(machine.registers().rbx & 0xffff, 0x1234u);
  for (uint64_t gpa = 0x20000; gpa < 0x28000; gpa += 2) {
    ASSERT_EQ(machine.At<uint16_t>(Gpa(gpa)), 0x1234) << gpa;
  }
  EXPECT_EQ(machine.faults().size(), 1u + 8u);
}

TEST(GuestModes, A32BitGuestWithoutPagingRunsOnUnmappedMemory) {
  Machine machine;
  StartWriting32(machine, Flat32Program());
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  EXPECT_EQ(machine.faults().size(), 1u + kPages);
}

TEST(GuestModes, A32BitGuestTurnsTwoLevelPagingOnOverAnEmptyEpt) {
  Machine machine;
  StartWriting32(machine, Paged32Program());
  machine.registers().rbx = machine.IdentityMap32(MiB(8)).raw();
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  EXPECT_EQ(machine.FaultsAt(Machine::kTables), 1);
}

TEST(GuestModes, APaeGuestLoadsItsPdptesOverAnEmptyEpt) {
  Machine machine;
  StartWriting32(machine, Paged32Program());
  machine.registers().rbx = machine.IdentityMapPae(MiB(8)).raw();
  machine.registers().rdx = kCr4Pae;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  // MOV to CR0 reads the PDPTEs, which is a violation without a linear address.
  const auto pdptes = std::find_if(
      machine.faults().begin(), machine.faults().end(),
      [](const SeenFault& fault) { return Gfn::Of(fault.gpa) == Gfn::Of(Machine::kTables); });
  ASSERT_NE(pdptes, machine.faults().end());
  EXPECT_TRUE(pdptes->qualification.is_read());
  EXPECT_FALSE(pdptes->qualification.linear_address_valid());
}

TEST(GuestModes, ViolationsOfTheGuestsOwnPageWalkNameTheTableAndAreAnswered) {
  Machine machine;
  StartWriting64(machine, /*large_guest_pages=*/false);
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  // The walk for the first fetch meets the guest's root, then one table a level.
  ASSERT_GE(machine.faults().size(), 5u);
  for (int level = 0; level < 4; ++level) {
    const SeenFault& fault = machine.faults()[level];
    EXPECT_EQ(Gfn::Of(fault.gpa), Gfn::Of(Machine::kTables + level * kPageSize));
    EXPECT_TRUE(fault.qualification.linear_address_valid()) << level;
    EXPECT_FALSE(fault.qualification.final_address()) << level;
  }
  EXPECT_TRUE(machine.faults()[4].qualification.is_fetch());
  EXPECT_TRUE(machine.faults()[4].qualification.final_address());
}

TEST(GuestModes, AHostPageOf2MIsMappedByOneLeaf) {
  Machine machine({.max_order = 9});
  StartWriting64(machine);
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  const Translation found = ValueOrDie(machine.vm().Translate(kData));
  EXPECT_EQ(found.level, kLevel2M);
  EXPECT_EQ(machine.FaultsAt(kData), 1);
  EXPECT_EQ(machine.faults().size(), 2u);  // the low 2 MiB and the data's
}

TEST(GuestModes, AHostPageOf1GIsMappedByOneLeaf) {
  Machine machine({.max_order = 18});
  // A slot at gpa 1 GiB stands for the host's low gigabyte, all of it one piece.
  machine.backend().Pretend1G(Hpa(0));
  CheckOk(
      machine.vm().SetMemoryRegion({.slot = 1, .gpa = Gpa(GiB(1)), .size = GiB(1), .hva = Hva(0)}));
  StartWriting64(machine);
  // The guest's tables name the data by its place in the new slot, which is the same host memory.
  const uint64_t data = GiB(1) + machine.HvaOf(kData).raw();
  machine.At<uint64_t>(Machine::kTables + 0x2000 + kData.raw() / MiB(2) * 8) =
      (data & ~(MiB(2) - 1)) | 0x83;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  ExpectPages(machine, 7, 3);
  EXPECT_EQ(ValueOrDie(machine.vm().Translate(Gpa(data))).level, kLevel1G);
}

TEST(GuestModes, AWriteToAReadOnlySlotIsMmioAndTheGuestReadsOn) {
  Machine machine;
  const Hva rom = machine.HvaOf(kData);
  CheckOk(machine.vm().SetMemoryRegion(
      {.slot = 1, .flags = kSlotReadOnly, .gpa = Gpa(MiB(16)), .size = kPageSize, .hva = rom}));
  machine.At<uint64_t>(kData) = 0x600d;
  machine.Start64(ReadPagesProgram());
  uint64_t& entry = machine.At<uint64_t>(Machine::kTables + 0x2000 + 3 * 8);
  entry = MiB(16) | 0x83;  // gva 6 MiB
  machine.registers().rdi = MiB(6);
  machine.registers().rcx = 1;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(machine.registers().rax, 0x600du);

  machine.Start(WritePagesProgram(),
                GuestState::Long64(Machine::kCode.raw(), Machine::kStack, Machine::kTables.raw()));
  machine.registers().rdi = MiB(6);
  machine.registers().rcx = 1;
  const VmExit exit = machine.Run();
  ASSERT_EQ(exit.reason, ExitReason::kEptViolation);
  EXPECT_EQ(exit.gpa, Gpa(MiB(16)));
  EXPECT_EQ(exit.ept_qualification().access(), Access::Write());
  EXPECT_FALSE(exit.ept_qualification().allowed().can_write());
  EXPECT_TRUE(exit.ept_qualification().allowed().can_read());
  EXPECT_EQ(machine.faults().back().outcome, FaultOutcome::kMmio);
  EXPECT_EQ(machine.At<uint64_t>(kData), 0x600du);
}

TEST(GuestModes, AGuestThatFaultsWhileAnExceptionIsDeliveredStillGetsIt) {
  Machine machine;
  // The IDT has one gate, for #PF, whose handler is a HLT; neither it nor the stack is mapped yet.
  constexpr Gpa kIdt{0x10000}, kGdt{0x11000}, kHandler{0x12000};
  machine.Start64(WritePagesProgram());
  machine.Copy(HaltProgram(), kHandler);
  machine.At<uint64_t>(kGdt + 8) = 0x00af9b000000ffff;
  machine.At<uint64_t>(kIdt + 14 * 16) = (kHandler.raw() & 0xffff) | 0x08 << 16 |
                                         uint64_t{0x8e00} << 32 | (kHandler.raw() >> 16) << 48;
  GuestState state =
      GuestState::Long64(Machine::kCode.raw(), Machine::kStack, Machine::kTables.raw());
  state.idtr = {kIdt.raw(), 0xfff};
  state.gdtr = {kGdt.raw(), 0x1f};
  CheckOk(machine.vcpu().SetState(state));
  machine.registers().rdi = MiB(64);  // beyond the guest's own tables
  machine.registers().rcx = 1;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(ValueOrDie(machine.vcpu().Read(VmcsField::kGuestRip)), kHandler.raw());
  EXPECT_EQ(machine.registers().cr2, MiB(64));
  // The frame on the stack has the error code, then the address of the faulting instruction.
  EXPECT_EQ(machine.At<uint64_t>(Gpa(Machine::kStack - 48)), 2u);
  EXPECT_EQ(machine.At<uint64_t>(Gpa(Machine::kStack - 40)), Machine::kCode.raw());
  EXPECT_EQ(machine.FaultsAt(kIdt), 1);
  EXPECT_EQ(machine.FaultsAt(Gpa(Machine::kStack - 8)), 1);
}

// The guest has put an instruction that exits at the end of its address space.
TEST(GuestModes, TheInstructionBehindTheLastOf4GiBIsAt0OutsideOf64BitMode) {
  constexpr uint8_t kProgram[] = {0x0f, 0xa2, 0xf4};  // cpuid; hlt
  Machine machine;
  machine.Start(kProgram, GuestState::Flat32(Machine::kCode.raw(), Machine::kStack));
  VmExit exit = machine.Run();
  ASSERT_EQ(exit.reason, ExitReason::kCpuid);
  CheckOk(machine.vcpu().Write(VmcsField::kGuestRip, 0xfffffffe));
  CheckOk(machine.vcpu().SkipInstruction(exit));
  ASSERT_EQ(ValueOrDie(machine.vcpu().Read(VmcsField::kGuestRip)), 0u) << "no entry takes more";
  machine.Copy(HaltProgram(), Gpa(0));
  EXPECT_EQ(machine.Run().reason, ExitReason::kHlt);

  machine.Start64(kProgram);
  exit = machine.Run();
  ASSERT_EQ(exit.reason, ExitReason::kCpuid);
  CheckOk(machine.vcpu().Write(VmcsField::kGuestRip, 0xfffffffe));
  CheckOk(machine.vcpu().SkipInstruction(exit));
  EXPECT_EQ(ValueOrDie(machine.vcpu().Read(VmcsField::kGuestRip)), 0x100000000u);
}

TEST(GuestModes, VectorRegistersOfGuestAndHostAreApart) {
  Machine machine;
  machine.Start64(KeepVectorProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rax = 0x0123456789abcdef;
  volatile double sum = 1;  // the host computes while the guest is stopped
  while (machine.Step().reason != ExitReason::kHlt) sum = sum * 1.5 + 0.25;
  EXPECT_GT(machine.faults().size(), 4u);
  EXPECT_GT(sum, 5.0);
  EXPECT_EQ(machine.registers().rbx, 0x0123456789abcdefu);
}

}  // namespace
}  // namespace tdp::vtx
