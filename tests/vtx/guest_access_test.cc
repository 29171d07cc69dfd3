// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what a guest may do by itself, what it is told, and what of the CPU's state is
// its own.

#include <x86intrin.h>

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

using ::testing::HasSubstr;
using Program = std::vector<uint8_t>;

constexpr uint64_t kInterruptFlag = 1 << 9;
constexpr uint32_t kMsrLstar = 0xc0000082;
constexpr uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr Gpa kIdt{0x10000}, kGdt{0x11000}, kHandlers{0x20000};

// Is a 64-bit guest whose handler for each vector is a HLT of its own.
class Guest {
 public:
  Guest(const Program& program, const VtxVcpuOptions& options, uint64_t rflags = 2)
      : machine_({.vcpu = options}) {
    machine_.Start64(program);
    machine_.At<uint64_t>(kGdt + 8) = 0x00af9b000000ffff;
    machine_.At<uint64_t>(kGdt + 16) = 0x00cf93000000ffff;
    for (uint64_t vector = 0; vector < 256; ++vector) {
      const uint64_t handler = kHandlers.raw() + 16 * vector;
      machine_.At<uint8_t>(Gpa(handler)) = 0xf4;
      machine_.At<uint64_t>(kIdt + vector * 16) =
          (handler & 0xffff) | 0x08 << 16 | uint64_t{0x8e00} << 32 | (handler >> 16) << 48;
    }
    GuestState state =
        GuestState::Long64(Machine::kCode.raw(), Machine::kStack, Machine::kTables.raw());
    state.idtr = {kIdt.raw(), 0xfff};
    state.gdtr = {kGdt.raw(), 0x1f};
    state.rflags = rflags;
    CheckOk(machine_.vcpu().SetState(state));
  }

  VmExit Run() { return machine_.Run(); }
  VtxVcpu& vcpu() { return machine_.vcpu(); }
  GuestRegisters& registers() { return machine_.registers(); }
  Machine& machine() { return machine_; }
  // Runs until the guest halts, and returns in the handler of which vector, or -1.
  int HaltsIn() {
    const VmExit exit = machine_.Run();
    if (exit.reason != ExitReason::kHlt) return -1000 - static_cast<int>(exit.reason);
    const uint64_t rip = ValueOrDie(vcpu().Read(VmcsField::kGuestRip));
    return rip < kHandlers.raw() ? -1 : static_cast<int>((rip - kHandlers.raw()) / 16);
  }

 private:
  Machine machine_;
};

// --- I/O and MSRs --------------------------------------------------------------------------------

TEST(GuestAccess, OnlyThePortsThatAreNamedExit) {
  // in al, 0x92; out 0xed, al; in al, 0x93; hlt: a port that a delay loop writes to, and two
  // others.
  const Program program = {0xe4, 0x92, 0xe6, 0xed, 0xe4, 0x93, 0xf4};
  Guest guest(program, {.io_bitmaps = true});
  CheckOk(guest.vcpu().SetIoExits(0xed, 1, true));
  const VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kIo);
  const IoAccess access(exit.qualification);
  EXPECT_EQ(access.port, 0xed);
  EXPECT_EQ(access.bytes, 1);
  EXPECT_FALSE(access.is_read || access.is_string);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  EXPECT_EQ(guest.Run().reason, ExitReason::kHlt);
}

TEST(GuestAccess, WithoutBitmapsEveryPortAndMsrExits) {
  const Program program = {0xe4, 0x92, 0x0f, 0x32, 0xf4};  // in al, 0x92; rdmsr; hlt
  Guest guest(program, {});
  VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kIo);
  EXPECT_TRUE(IoAccess(exit.qualification).is_read);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  EXPECT_EQ(guest.Run().reason, ExitReason::kMsrRead);
}

TEST(GuestAccess, TheGuestsSystemCallMsrsAreItsOwnAndTheHostsItsOwn) {
  const Program program = {0x0f, 0x30, 0xf4, 0x0f, 0x32, 0xf4};  // wrmsr; hlt; rdmsr; hlt
  const uint64_t host = tdp_rdmsr(kMsrLstar);
  Guest guest(program, {.msr_bitmap = true});
  *guest.vcpu().SwitchedMsr(kMsrKernelGsBase) = 0x4444;
  guest.registers().rcx = kMsrLstar;
  guest.registers().rax = 0x1234;
  guest.registers().rdx = 0;
  VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kHlt);
  EXPECT_EQ(tdp_rdmsr(kMsrLstar), host);
  EXPECT_EQ(*guest.vcpu().SwitchedMsr(kMsrLstar), 0x1234u);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  guest.registers().rcx = kMsrKernelGsBase;
  ASSERT_EQ(guest.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(guest.registers().rax, 0x4444u);
  EXPECT_EQ(guest.vcpu().SwitchedMsr(0x10), nullptr);
}

TEST(GuestAccess, AnMsrThatIsNamedExitsAsItWasSaid) {
  const Program program = {0x0f, 0x32, 0x0f, 0x30, 0xf4};  // rdmsr; wrmsr; hlt
  Guest guest(program, {.msr_bitmap = true});
  CheckOk(guest.vcpu().SetMsrExits(kMsrLstar, false, true));
  guest.registers().rcx = kMsrLstar;
  const VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kMsrWrite);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  EXPECT_EQ(guest.Run().reason, ExitReason::kHlt);
}

// --- State that changes hands --------------------------------------------------------------------

TEST(GuestAccess, DebugRegistersAreTheGuestsOwnIfItMovesThemItself) {
  // mov dr0, rax; mov dr7, rbx; hlt; mov rcx, dr0; mov rdx, dr7; hlt
  const Program program = {0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xfb, 0xf4,
                           0x0f, 0x21, 0xc1, 0x0f, 0x21, 0xfa, 0xf4};
  Guest guest(program, {.mov_dr_exiting = false});
  guest.registers().rax = 0x5000;
  guest.registers().rbx = 0x402;
  VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kHlt);
  const uint64_t others[5] = {0x9000, 0, 0, 0, 0xffff0ff0};
  tdp_load_debug_registers(others);  // what another guest of this CPU may do meanwhile
  CheckOk(guest.vcpu().SkipInstruction(exit));
  ASSERT_EQ(guest.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(guest.registers().rcx, 0x5000u);
  EXPECT_EQ(guest.registers().rdx & 0x3ff, 2u);
}

TEST(GuestAccess, WithoutThatMovDrExits) {
  Guest guest({0x0f, 0x23, 0xc0, 0xf4}, {});
  EXPECT_EQ(guest.Run().reason, ExitReason::kMovDr);
}

TEST(GuestAccess, TheGuestHasAnXcr0OfItsOwn) {
  // mov rax, cr4; or eax, 1 << 18; mov cr4, rax; xor ecx, ecx; xgetbv; hlt
  const Program program = {0x0f, 0x20, 0xe0, 0x0d, 0x00, 0x00, 0x04, 0x00, 0x0f,
                           0x22, 0xe0, 0x31, 0xc9, 0x0f, 0x01, 0xd0, 0xf4};
  const uint64_t host = tdp_read_xcr0();
  ASSERT_EQ(host, 7u);
  Guest guest(program, {});
  CheckOk(guest.vcpu().SetXcr0(3));
  ASSERT_EQ(guest.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(guest.registers().rax, 3u);
  EXPECT_EQ(tdp_read_xcr0(), host);
  for (const uint64_t bad : {0, 2, 5, 0xf, 0xe7}) {
    EXPECT_THAT(guest.vcpu().SetXcr0(bad).message(), HasSubstr("XCR0")) << bad;
  }
}

TEST(GuestAccess, RdtscpAndInvpcidAreThereOnlyIfTheyAreEnabled) {
  constexpr int kInvalidOpcode = 6;
  const Program rdtscp = {0x0f, 0x01, 0xf9, 0xf4};
  const Program invpcid = {0x66, 0x0f, 0x38, 0x82, 0x07, 0xf4};  // invpcid rax, [rdi]
  for (const bool on : {false, true}) {
    EXPECT_EQ(Guest(rdtscp, {.rdtscp = on}).HaltsIn(), on ? -1 : kInvalidOpcode);
    Guest guest(invpcid, {.invpcid = on});
    guest.registers().rdi = 0x5000;
    guest.registers().rax = 2;  // all contexts
    EXPECT_EQ(guest.HaltsIn(), on ? -1 : kInvalidOpcode);
  }
}

// --- Time ----------------------------------------------------------------------------------------

TEST(GuestAccess, ThePreemptionTimerEndsALoopAndCountsTheGuestsTimeAlone) {
  Machine machine({.vcpu = {.preemption_timer = true}});
  machine.Start64(CountForeverProgram());
  machine.registers().rdi = 0x400000;
  CheckOk(machine.vcpu().SetPreemptionTimer(50000));
  const uint64_t start = __rdtsc();
  ASSERT_EQ(machine.Run().reason, ExitReason::kPreemptionTimer);
  EXPECT_GE(__rdtsc() - start, 50000u);
  EXPECT_GT(machine.At<uint64_t>(Gpa(0x400000)), 10000u);
  EXPECT_EQ(machine.Run().reason, ExitReason::kPreemptionTimer) << "at once: it has run out";
}

// --- Events --------------------------------------------------------------------------------------

TEST(GuestEvents, ASkippedInstructionEndsTheShadowOfSti) {
  const Program program = {0xfb, 0x0f, 0xa2, 0xf4};  // sti; cpuid; hlt
  Guest guest(program, {});
  const VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kCpuid);
  ASSERT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestInterruptibility)) & 3, 1u);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestInterruptibility)) & 3, 0u);
  ASSERT_TRUE(guest.vcpu().InjectInterrupt(0x40));
  EXPECT_EQ(guest.HaltsIn(), 0x40) << "before the HLT";
}

TEST(GuestEvents, ASkippedInstructionTrapsIfTheGuestSingleSteps) {
  constexpr int kDebug = 1;
  // pushf; or dword [rsp], TF; popf; cpuid; nop; nop; hlt
  const Program program = {0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00,
                           0x00, 0x9d, 0x0f, 0xa2, 0x90, 0x90, 0xf4};
  Guest guest(program, {});
  const VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kCpuid);
  CheckOk(guest.vcpu().SkipInstruction(exit));
  ASSERT_EQ(guest.HaltsIn(), kDebug);
  EXPECT_EQ(guest.machine().At<uint64_t>(Gpa(Machine::kStack - 40)), Machine::kCode.raw() + 11)
      << "right behind the instruction that the host carried out";
}

TEST(GuestEvents, AnInterruptWaitsUntilTheGuestTakesIt) {
  const Program program = {0x90, 0x90, 0xfb, 0x90, 0x90, 0xf4};  // nop; nop; sti; nop; nop; hlt
  Guest guest(program, {});
  ASSERT_TRUE(guest.vcpu().InjectInterrupt(0x50));
  EXPECT_FALSE(guest.vcpu().InjectInterrupt(0x51)) << "one at a time";
  const VmExit exit = guest.Run();
  ASSERT_EQ(exit.reason, ExitReason::kInterruptWindow);
  EXPECT_TRUE(exit.is_window());
  EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestRip)), Machine::kCode.raw() + 4);
  EXPECT_EQ(guest.HaltsIn(), 0x50);
  EXPECT_TRUE(guest.vcpu().InjectInterrupt(0x51));
}

TEST(GuestEvents, AnInterruptGoesInAtOnceIfTheGuestTakesIt) {
  Guest guest({0x90, 0xf4}, {}, 2 | kInterruptFlag);
  ASSERT_TRUE(guest.vcpu().InjectInterrupt(0x60));
  EXPECT_EQ(guest.HaltsIn(), 0x60);
}

TEST(GuestEvents, AnNmiBlocksTheNextUntilItsHandlerReturns) {
  constexpr int kNmi = 2;
  Guest guest({0x90, 0xf4}, {.virtual_nmis = true});
  ASSERT_TRUE(guest.vcpu().InjectNmi());
  ASSERT_EQ(guest.HaltsIn(), kNmi);
  // The NMI's handler goes on with an IRET; until then a second one waits.
  const uint64_t handler = kHandlers.raw() + 16 * kNmi;
  guest.machine().At<uint8_t>(Gpa(handler + 1)) = 0x48;
  guest.machine().At<uint8_t>(Gpa(handler + 2)) = 0xcf;
  CheckOk(guest.vcpu().Write(VmcsField::kGuestRip, handler + 1));
  CheckOk(guest.vcpu().Write(VmcsField::kGuestActivity, 0));
  ASSERT_TRUE(guest.vcpu().InjectNmi());
  ASSERT_EQ(guest.Run().reason, ExitReason::kNmiWindow);
  EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestRip)), Machine::kCode.raw());
  EXPECT_EQ(guest.HaltsIn(), kNmi);
}

TEST(GuestEvents, AnEventSurvivesAKickBeforeTheEntry) {
  Guest guest({0x90, 0xf4}, {});
  guest.vcpu().InjectException(6);
  GuestEntry entry = guest.machine().mmu().EnterGuest();
  LocalApic().SendNmi(Host::Get().cpu->apic_id());
  EXPECT_TRUE(ValueOrDie(guest.vcpu().Run(entry.eptp())).is_kick());
  entry.Leave();
  EXPECT_EQ(guest.HaltsIn(), 6);
}

TEST(GuestEvents, AFaultOnTopOfADoubleFaultIsATripleFaultWithoutAnEntry) {
  constexpr uint8_t kDoubleFault = 8, kProtection = 13;
  Guest guest({0x90, 0xf4}, {});
  guest.vcpu().InjectException(kDoubleFault, 0);
  guest.vcpu().InjectException(kProtection, 0);
  EXPECT_EQ(guest.Run().reason, ExitReason::kTripleFault);
  EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestRip)), Machine::kCode.raw());
  EXPECT_EQ(guest.HaltsIn(), -1) << "and nothing is left of the two";
}

// --- What goes together --------------------------------------------------------------------------

TEST(GuestAccess, WithoutEptWhatNeedsItIsRefused) {
  Host& host = Host::Get();
  const auto refused = VtxVcpu::Create(host.arena, host.cpu->msrs(), {.ept = false});
  EXPECT_THAT(refused.status().message(), HasSubstr("unrestricted_guest"));
  EXPECT_TRUE(
      VtxVcpu::Create(host.arena, host.cpu->msrs(), {.ept = false, .unrestricted_guest = false})
          .ok());
}

TEST(GuestAccess, ADevicePageIsMappedUncacheableAndAlone) {
  Machine machine;
  constexpr Hpa kApic{0xfee00000};
  CheckOk(machine.backend().AddDevice(kApic, kPageSize));
  EXPECT_FALSE(machine.backend().AddDevice(kApic + 1, kPageSize).ok());
  MemoryRegion region;
  region.slot = 1;
  region.gpa = Gpa(MiB(12));
  region.size = kPageSize;
  region.hva = Hva(kApic.raw());
  CheckOk(machine.vm().SetMemoryRegion(region));
  machine.Start64(Program{0x8b, 0x07, 0xf4});  // mov eax, [rdi]; hlt
  machine.registers().rdi = MiB(12) + 0x30;    // the version register
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(static_cast<uint32_t>(machine.registers().rax),
            *reinterpret_cast<volatile uint32_t*>(kApic.raw() + 0x30));
  const Translation found = ValueOrDie(machine.vm().Translate(Gpa(MiB(12))));
  EXPECT_EQ(found.level, kLevel4K);
  EXPECT_EQ(found.entry.memory_type(), MemoryType::kUncacheable);
}

// The vector register is set before the store that faults, and read after it.
TEST(GuestAccess, AGuestGoesOnFromASavedStateAsOftenAsItIsRestored) {
  Machine machine;
  constexpr Gpa kPlace{0x400000};
  machine.Start64(KeepVectorProgram());
  machine.registers().rdi = kPlace.raw();
  machine.registers().rax = 0x0123456789abcdef;
  while (machine.FaultsAt(kPlace) == 0) ASSERT_EQ(machine.Step().reason, ExitReason::kEptViolation);
  const VtxVcpuState saved = ValueOrDie(machine.vcpu().Save());
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
    EXPECT_EQ(machine.registers().rbx, 0x0123456789abcdefu);
    EXPECT_EQ(machine.At<uint64_t>(kPlace), 0x0123456789abcdefu);
    const uint64_t rip = ValueOrDie(machine.vcpu().Read(VmcsField::kGuestRip));
    // Another program runs in between, with other registers.
    constexpr Gpa kOther{0x10000};
    machine.Copy(HaltProgram(), kOther);
    CheckOk(machine.vcpu().SetState(
        GuestState::Long64(kOther.raw(), Machine::kStack, Machine::kTables.raw())));
    machine.registers() = GuestRegisters();
    ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
    machine.At<uint64_t>(kPlace) = 0;
    CheckOk(machine.vcpu().Restore(saved));
    EXPECT_NE(ValueOrDie(machine.vcpu().Read(VmcsField::kGuestRip)), rip);
  }
}

TEST(GuestAccess, AStateOfAVcpuWithOtherOptionsIsRefused) {
  VtxVcpuState state;
  {
    Machine machine({.vcpu = {.msr_bitmap = true}});
    machine.Start64(HaltProgram());
    state = ValueOrDie(machine.vcpu().Save());
  }
  Machine machine;
  machine.Start64(HaltProgram());
  EXPECT_EQ(machine.vcpu().Restore(state).message(),
            "the state is that of a vCPU with other options");
  EXPECT_EQ(machine.Run().reason, ExitReason::kHlt);
}

}  // namespace
}  // namespace tdp::vtx
