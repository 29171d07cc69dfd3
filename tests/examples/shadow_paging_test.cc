// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Guests in every paging mode run on a CPU whose EPT is off, with the CPU as judge.

#include "tdp/examples/linux/shadow_paging.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::linux_example {
namespace {

using vtx::CheckOk;
using vtx::ExitReason;
using vtx::GuestState;
using vtx::Machine;
using vtx::ValueOrDie;

constexpr Gpa kData{0x400000};
constexpr int kPages = 16;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kPresentWrite = 3;

vtx::MachineOptions Options() {
  vtx::MachineOptions options;
  options.vm.paging = Paging::kShadow;
  options.vcpu.msr_bitmap = true;
  options.vcpu.invpcid = true;
  options.vcpu = ShadowPaging::Options(options.vcpu);
  return options;
}

class Shadowed : public ::testing::Test {
 protected:
  Shadowed() : machine_(Options()) {
    const auto read = [this](Gpa gpa, absl::Span<uint8_t> to) {
      memcpy(to.data(), &machine_.At<uint8_t>(gpa), to.size());
      return true;
    };
    shadow_ = ValueOrDie(ShadowPaging::Create(machine_.backend().arena(),
                                              vtx::Host::Get().cpu->msrs(), machine_.vcpu(), read));
  }

  void Start(absl::Span<const uint8_t> program, const GuestState& state) {
    machine_.Copy(program, Machine::kCode);
    // The host wrote the tables, of which no shadow hears.
    ValueOrDie(machine_.vm().ZapAll()).Settle();
    CheckOk(shadow_->Start(state, machine_.mmu()));
  }
  void Start64(absl::Span<const uint8_t> program, bool large = false) {
    const Gpa root = machine_.IdentityMap64(MiB(8), large);
    Start(program, GuestState::Long64(Machine::kCode.raw(), Machine::kStack, root.raw()));
  }

  // Runs until an exit that is not the shadow's.
  ExitReason Run() {
    for (;;) {
      vtx::VmExit exit;
      {
        const GuestEntry entry = machine_.mmu().EnterGuest();
        CheckOk(shadow_->Enter());
        exit = ValueOrDie(machine_.vcpu().Run(entry.eptp()));
      }
      if (exit.is_kick()) continue;
      ++exits_;
      if (!ValueOrDie(shadow_->Handle(exit))) {
        CheckOk(machine_.vm().CheckInvariants());
        return exit.reason;
      }
    }
  }

  void WritePages(uint64_t step) {
    vtx::GuestRegisters& registers = machine_.registers();
    registers.rdi = kData.raw();
    registers.rcx = kPages;
    registers.rax = 7;
    registers.rsi = step;
  }
  void ExpectPages() {
    for (int i = 0; i < kPages; ++i) {
      EXPECT_EQ(machine_.At<uint32_t>(kData + i * kPageSize), 7u + 3u * i) << i;
    }
  }
  // Returns the entry that maps `gva` among 4 KiB pages of `Start64`.
  static uint64_t LeafOf(uint64_t gva) {
    return Machine::kTables.raw() + 0x3000 + gva / kPageSize * 8;
  }

  Machine machine_;
  std::unique_ptr<ShadowPaging> shadow_;
  int exits_ = 0;
};

TEST_F(Shadowed, A64BitGuestRunsOnItsOwnTablesOfEitherSize) {
  for (const bool large : {false, true}) {
    Start64(vtx::WritePagesProgram(), large);
    WritePages(3);
    ASSERT_EQ(Run(), ExitReason::kHlt);
    ExpectPages();
    memset(&machine_.At<uint8_t>(kData), 0, kPages * kPageSize);
  }
}

TEST_F(Shadowed, A32BitGuestWithoutPagingNeedsNoUnrestrictedGuest) {
  Start(vtx::Flat32Program(), GuestState::Flat32(Machine::kCode.raw(), Machine::kStack));
  WritePages(0);
  ASSERT_EQ(Run(), ExitReason::kHlt);
  ExpectPages();
}

TEST_F(Shadowed, A32BitGuestTurnsTwoLevelPagingOn) {
  Start(vtx::Paged32Program(), GuestState::Flat32(Machine::kCode.raw(), Machine::kStack));
  WritePages(0);
  machine_.registers().rbx = machine_.IdentityMap32(MiB(8)).raw();
  ASSERT_EQ(Run(), ExitReason::kHlt);
  ExpectPages();
}

TEST_F(Shadowed, A32BitGuestTurnsPaePagingOn) {
  Start(vtx::Paged32Program(), GuestState::Flat32(Machine::kCode.raw(), Machine::kStack));
  WritePages(0);
  machine_.registers().rbx = machine_.IdentityMapPae(MiB(8)).raw();
  machine_.registers().rdx = kCr4Pae;
  ASSERT_EQ(Run(), ExitReason::kHlt);
  ExpectPages();
}

TEST_F(Shadowed, AGuestReadsItsOwnRegistersAndNotTheHardwares) {
  constexpr uint8_t kProgram[] = {0x0f, 0x20, 0xde,              // mov rsi, cr3
                                  0x0f, 0x20, 0xe3,              // mov rbx, cr4
                                  0x0f, 0x20, 0xc7,              // mov rdi, cr0
                                  0xb9, 0x80, 0x00, 0x00, 0xc0,  // mov ecx, EFER
                                  0x0f, 0x32, 0xf4};             // rdmsr; hlt
  const Gpa root = machine_.IdentityMap64(MiB(8), false);
  GuestState state = GuestState::Long64(Machine::kCode.raw(), Machine::kStack, root.raw());
  constexpr uint64_t kWp = 1 << 16, kNxe = 1 << 11;
  state.cr0 &= ~kWp;  // the hardware's have both
  state.efer &= ~kNxe;
  Start(kProgram, state);
  ASSERT_EQ(Run(), ExitReason::kHlt);
  EXPECT_EQ(machine_.registers().rsi, root.raw());
  EXPECT_EQ(machine_.registers().rbx, state.cr4);
  EXPECT_EQ(machine_.registers().rdi, state.cr0);
  EXPECT_EQ(machine_.registers().rax, state.efer);
}

TEST_F(Shadowed, ALeafThatTheGuestChangesCountsFromItsFlushOn) {
  constexpr uint8_t kInvlpg[] = {0x48, 0x8b, 0x1e,                     // mov rbx, [rsi]
                                 0x48, 0x89, 0x07,                     // mov [rdi], rax
                                 0x0f, 0x01, 0x3e,                     // invlpg [rsi]
                                 0x48, 0x8b, 0x16,                     // mov rdx, [rsi]
                                 0xf4};                                // hlt
  constexpr uint8_t kInvpcid[] = {0x48, 0x8b, 0x1e,                    //
                                  0x48, 0x89, 0x07,                    //
                                  0x66, 0x41, 0x0f, 0x38, 0x82, 0x08,  // invpcid rcx, [r8]
                                  0x48, 0x8b, 0x16, 0xf4};
  constexpr uint8_t kCr3[] = {0x48, 0x8b, 0x1e, 0x48, 0x89,
                              0x07, 0x41, 0x0f, 0x20, 0xd9,  // mov r9, cr3
                              0x41, 0x0f, 0x22, 0xd9,        // mov cr3, r9
                              0x48, 0x8b, 0x16, 0xf4};
  const absl::Span<const uint8_t> programs[] = {kInvlpg, kInvpcid, kCr3};
  for (const absl::Span<const uint8_t> program : programs) {
    Start64(program);
    machine_.At<uint64_t>(kData) = 1;
    machine_.At<uint64_t>(kData + kPageSize) = 2;
    constexpr Gpa kDescriptor{0x9000};
    machine_.At<uint64_t>(kDescriptor + 8) = kData.raw();
    machine_.registers().rsi = kData.raw();
    machine_.registers().rdi = LeafOf(kData.raw());
    machine_.registers().rax = (kData + kPageSize).raw() | kPresentWrite;
    machine_.registers().rcx = 0;
    machine_.registers().r8 = kDescriptor.raw();
    ASSERT_EQ(Run(), ExitReason::kHlt);
    EXPECT_EQ(machine_.registers().rbx, 1u);
    EXPECT_EQ(machine_.registers().rdx, 2u);
  }
}

// The directory entry of `kData`'s 2 MiB is written with `write`, a write of rax to [rdi] or so.
TEST_F(Shadowed, WritesToAnUpperTableAreCarriedOutWhateverTheInstruction) {
  const std::vector<uint8_t> writes[] = {
      {0x48, 0x89, 0x07},        // mov [rdi], rax
      {0x48, 0x87, 0x07},        // xchg [rdi], rax
      {0x48, 0xab},              // stosq
      {0x48, 0x91, 0x48, 0xa5},  // xchg rax, rcx; movsq
  };
  for (const std::vector<uint8_t>& write : writes) {
    std::vector<uint8_t> program = {0x49, 0x8b, 0x18};  // mov rbx, [r8]
    program.insert(program.end(), write.begin(), write.end());
    const uint8_t rest[] = {0x41, 0x0f, 0x01, 0x38,   // invlpg [r8]
                            0x49, 0x8b, 0x10, 0xf4};  // mov rdx, [r8]; hlt
    program.insert(program.end(), std::begin(rest), std::end(rest));
    Start64(program);
    machine_.At<uint64_t>(kData) = 1;
    machine_.At<uint64_t>(Gpa(MiB(2))) = 2;
    const uint64_t entry = (Machine::kTables + 0x3000 + 1 * 0x1000).raw() | kPresentWrite;
    constexpr Gpa kSource{0x9000};
    machine_.At<uint64_t>(kSource) = entry;
    machine_.registers().r8 = kData.raw();
    machine_.registers().rdi = Machine::kTables.raw() + 0x2000 + kData.raw() / MiB(2) * 8;
    machine_.registers().rax = entry;
    machine_.registers().rsi = kSource.raw();
    ASSERT_EQ(Run(), ExitReason::kHlt);
    EXPECT_EQ(machine_.registers().rbx, 1u);
    EXPECT_EQ(machine_.registers().rdx, 2u) << int{write[1]};
  }
}

// This guest has gates for #PF and #GP, whose handler is a HLT.
class ShadowedWithGates : public Shadowed {
 protected:
  static constexpr Gpa kIdt{0x10000}, kGdt{0x11000}, kHandler{0x12000};

  void StartWithGates(absl::Span<const uint8_t> program) {
    const Gpa root = machine_.IdentityMap64(MiB(8), false);
    machine_.Copy(vtx::HaltProgram(), kHandler);
    machine_.At<uint64_t>(kGdt + 8) = 0x00af9b000000ffff;
    for (const int vector : {13, 14}) {
      machine_.At<uint64_t>(kIdt + vector * 16) = (kHandler.raw() & 0xffff) | 0x08 << 16 |
                                                  uint64_t{0x8e00} << 32 |
                                                  (kHandler.raw() >> 16) << 48;
    }
    GuestState state = GuestState::Long64(Machine::kCode.raw(), Machine::kStack, root.raw());
    state.idtr = {kIdt.raw(), 0xfff};
    state.gdtr = {kGdt.raw(), 0x1f};
    Start(program, state);
  }
  uint64_t Rip() { return ValueOrDie(machine_.vcpu().Read(vtx::VmcsField::kGuestRip)); }
};

TEST_F(ShadowedWithGates, AFaultThatIsTheGuestsOwnIsDeliveredOverAnEmptyShadow) {
  StartWithGates(vtx::WritePagesProgram());
  machine_.registers().rdi = MiB(64);  // beyond its tables
  machine_.registers().rcx = 1;
  ASSERT_EQ(Run(), ExitReason::kHlt);
  EXPECT_EQ(Rip(), kHandler.raw());
  EXPECT_EQ(machine_.registers().cr2, MiB(64));
  EXPECT_EQ(machine_.At<uint64_t>(Gpa(Machine::kStack - 48)), 2u);  // the error code
}

TEST_F(ShadowedWithGates, WhatAControlRegisterRefusesIsAGeneralProtection) {
  const uint8_t kCr3[] = {0x0f, 0x22, 0xd8, 0xf4};  // mov cr3, rax
  const uint8_t kCr4[] = {0x0f, 0x22, 0xe0, 0xf4};  // mov cr4, rax
  const uint8_t kCr0[] = {0x0f, 0x22, 0xc0, 0xf4};  // mov cr0, rax
  const struct {
    absl::Span<const uint8_t> program;
    uint64_t value;
  } refused[] = {
      {kCr3, uint64_t{1} << 51},
      {kCr4, 0},                                // PAE cannot go in 64-bit mode
      {kCr4, kCr4Pae | 1 << 13},                // VMXE
      {kCr0, uint64_t{1} << 31},                // PG without PE
      {kCr0, uint64_t{1} << 31 | 1 << 29 | 1},  // NW without CD
  };
  for (const auto& [program, value] : refused) {
    StartWithGates(program);
    machine_.registers().rax = value;
    ASSERT_EQ(Run(), ExitReason::kHlt);
    EXPECT_EQ(Rip(), kHandler.raw()) << value;
  }
}

TEST_F(Shadowed, AGuestThatKeepsWritingATableInUseByUnknownInstructionsIsGivenUp) {
  // The program is movq [rdi], xmm0 on the root, which every try shadows again; then hlt.
  constexpr uint8_t kProgram[] = {0x66, 0x0f, 0xd6, 0x07, 0xf4};
  Start64(kProgram);
  machine_.registers().rdi = Machine::kTables.raw() + 511 * 8;
  absl::StatusOr<bool> handled = true;
  for (int i = 0; i < 1000 && handled.ok(); ++i) {
    vtx::VmExit exit;
    {
      const GuestEntry entry = machine_.mmu().EnterGuest();
      CheckOk(shadow_->Enter());
      exit = ValueOrDie(machine_.vcpu().Run(entry.eptp()));
    }
    handled = shadow_->Handle(exit);
    ASSERT_TRUE(!handled.ok() || *handled);
  }
  EXPECT_EQ(
      handled.status().message(),
      "a write to the page table at gpa 0x100ff8, which is in use: opcode 0xd6: no write that "
      "this decoder knows");
}

}  // namespace
}  // namespace tdp::linux_example
