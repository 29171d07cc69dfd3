// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests execute the VMX instructions and meet their errors, and enter and exit a VM, without
// an engine.

#include "tdp/backends/vtx/vmx_instructions.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

using ::testing::HasSubstr;

TEST(VmxInstructions, WithoutACurrentVmcsAReadSaysThatThereIsNone) {
  Host::Get();
  EXPECT_THAT(VmRead(VmcsField::kGuestRip).status().message(), HasSubstr("no VMCS is current"));
}

TEST(VmxInstructions, AFailureNamesInstructionNumberAndReason) {
  Machine machine;  // so that a VMCS is current
  EXPECT_EQ(VmRead(static_cast<VmcsField>(0x6bfe)).status().message(),
            "VMREAD of field 0x6bfe failed with error 12: VMREAD or VMWRITE from or to unsupported "
            "VMCS component");
  EXPECT_EQ(VmPtrLoad(Hpa(0x123)).message(),
            "VMPTRLD failed with error 9: VMPTRLD with invalid physical address");
  EXPECT_EQ(VmClear(Hpa(0x123)).message(),
            "VMCLEAR failed with error 2: VMCLEAR with invalid physical address");
}

TEST(VmxInstructions, AVmcsOfAnotherRevisionIsRefused) {
  Machine machine;
  FrameArena& arena = Host::Get().arena;
  const Hpa page = ValueOrDie(arena.AllocateZeroed(kPageSize, kPageSize));
  *arena.PointerTo<uint32_t>(page) = Host::Get().cpu->msrs().revision() + 1;
  EXPECT_THAT(VmPtrLoad(page).message(), HasSubstr("error 11"));
  arena.Free(page, kPageSize);
}

TEST(VmxInstructions, VmxonInVmxOperationIsRefused) {
  Machine machine;
  EXPECT_THAT(VmxOn(Hpa(0x1000)).message(), HasSubstr("error 15: VMXON executed in VMX root"));
}

TEST(VmxInstructions, EveryOfferedTypeOfInveptAndInvvpidSucceeds) {
  Machine machine;
  const EptCapabilities ept = machine.backend().capabilities().ept;
  const Eptp eptp = machine.vm().eptp();
  if (ept.invept_single()) {
    EXPECT_TRUE(Invept(InveptType::kSingleContext, eptp).ok());
  }
  if (ept.invept_all()) {
    EXPECT_TRUE(Invept(InveptType::kAllContexts, Eptp()).ok());
  }
  for (int type = 0; type <= 3; ++type) {
    if (!ept.invvpid(type)) continue;
    EXPECT_TRUE(Invvpid(static_cast<InvvpidType>(type), 1, Gva(0x1000)).ok()) << type;
  }
  EXPECT_TRUE(ept.invept_single() && ept.invept_all() && ept.invvpid(0));
}

TEST(VmxInstructions, WrongOperandsOfInveptAndInvvpidAreRefused) {
  Machine machine;
  const char* why = "error 28: invalid operand to INVEPT or INVVPID";
  EXPECT_THAT(Invept(static_cast<InveptType>(0), Eptp()).message(), HasSubstr(why));
  EXPECT_THAT(Invept(static_cast<InveptType>(3), Eptp()).message(), HasSubstr(why));
  EXPECT_THAT(Invvpid(static_cast<InvvpidType>(4), 1, Gva(0)).message(), HasSubstr(why));
  EXPECT_THAT(Invvpid(InvvpidType::kSingleContext, 0, Gva(0)).message(), HasSubstr(why));
  EXPECT_THAT(Invvpid(InvvpidType::kAddress, 1, Gva(uint64_t{1} << 60)).message(), HasSubstr(why));
  EXPECT_TRUE(Invvpid(InvvpidType::kAllContexts, 0, Gva(0)).ok());
}

TEST(VmxEntry, AnEptpThatTheCpuRefusesFailsTheEntryByName) {
  Machine machine;
  machine.Start64(HaltProgram());
  const Eptp good = machine.vm().eptp();
  const Eptp bad(good.raw() | ept::kEptpReserved);
  EXPECT_FALSE(bad.Check(machine.backend().capabilities().ept, 46).ok());
  EXPECT_THAT(machine.vcpu().Run(bad).status().message(),
              HasSubstr("VMLAUNCH failed with error 7: VM entry with invalid control field"));
  EXPECT_EQ(machine.Run().reason, ExitReason::kHlt);  // and nothing is lost by it
}

TEST(VmxEntry, ABadGuestStateFailsTheEntryWithItsReason) {
  Machine machine;
  machine.Start64(HaltProgram());
  CheckOk(machine.vcpu().Write(VmcsField::kGuestRflags, 0));  // bit 1 must be 1
  EXPECT_THAT(machine.vcpu().Run(machine.vm().eptp()).status().message(),
              HasSubstr("exit reason 33"));
}

TEST(VmxEntry, EveryRegisterGoesInAndComesOut) {
  Machine machine;
  machine.Start64(HaltProgram());
  GuestRegisters& r = machine.registers();
  r = {.rax = 1,
       .rcx = 2,
       .rdx = 3,
       .rbx = 4,
       .cr2 = 5,
       .rbp = 6,
       .rsi = 7,
       .rdi = 8,
       .r8 = 9,
       .r9 = 10,
       .r10 = 11,
       .r11 = 12,
       .r12 = 13,
       .r13 = 14,
       .r14 = 15,
       .r15 = 16};
  const GuestRegisters before = r;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(memcmp(&before, &r, sizeof(r)), 0);
}

TEST(VmxEntry, TheGuestGoesOnBehindASkippedInstruction) {
  Machine machine;
  const uint8_t program[] = {0x0f, 0xa2, 0xff, 0xc3, 0xf4};  // cpuid; inc ebx; hlt
  machine.Start64(program);
  const VmExit exit = machine.Run();
  ASSERT_EQ(exit.reason, ExitReason::kCpuid);
  EXPECT_EQ(exit.instruction_bytes, 2u);
  machine.registers().rbx = 41;
  CheckOk(machine.vcpu().SkipInstruction(exit));
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(machine.registers().rbx, 42u);
}

TEST(VmxEntry, AVcpuGoesOnAfterItWasUnloaded) {
  Machine machine;
  machine.Start64(WritePagesProgram());
  machine.registers().rdi = 0x400000;
  machine.registers().rcx = 5;
  for (int step = 0;; ++step) {
    const VmExit exit = machine.Step();
    if (exit.reason == ExitReason::kHlt) break;
    CheckOk(machine.vcpu().Unload());
    CheckOk(machine.vcpu().Load(*Host::Get().cpu));
    ASSERT_LT(step, 20);
  }
  EXPECT_EQ(machine.registers().rcx, 0u);
}

TEST(VmxEntry, TwoVcpusTakeTurnsOnOneCpu) {
  Machine first;
  CheckOk(first.vcpu().Unload());
  Machine second;
  CheckOk(second.vcpu().Unload());
  for (Machine* machine : {&first, &second, &first, &second}) {
    CheckOk(machine->vcpu().Load(*Host::Get().cpu));
    machine->Start64(WritePagesProgram());
    machine->registers().rdi = 0x400000;
    machine->registers().rcx = 2;
    machine->registers().rax = machine == &first ? 1 : 2;
    EXPECT_EQ(machine->Run().reason, ExitReason::kHlt);
    CheckOk(machine->vcpu().Unload());
  }
  EXPECT_EQ(first.At<uint64_t>(Gpa(0x400000)), 1u);
  EXPECT_EQ(second.At<uint64_t>(Gpa(0x400000)), 2u);
}

TEST(VmxEntry, AKickBeforeTheEntryIsNotLost) {
  Machine machine;
  machine.Start64(HaltProgram());
  // The CPU sends an NMI to itself between the engine's entry and its own.
  GuestEntry entry = machine.mmu().EnterGuest();
  LocalApic().SendNmi(Host::Get().cpu->apic_id());
  const VmExit exit = ValueOrDie(machine.vcpu().Run(entry.eptp()));
  EXPECT_TRUE(exit.is_kick());
  entry.Leave();
  EXPECT_EQ(machine.Run().reason, ExitReason::kHlt);
}

}  // namespace
}  // namespace tdp::vtx
