// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tables are made entry by entry, to see that the CPU reads the formats of mmu/ as they are
// meant: execute-only pages, views switched by the guest itself (VMFUNC), #VE, and sub-page
// permissions.

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/hand_made_ept.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr Gpa kData{0x400000};

TEST(HandMadeTables, AnExecuteOnlyPageRunsAndCannotBeRead) {
  Machine machine;
  HandMadeEpt ept(machine, MiB(8));
  const uint8_t ret[] = {0xc3};
  machine.Copy(ret, kData);
  ept.Set(kData, ept.Get(kData).WithAccess(Access::Execute()));
  machine.Start64(CallProgram());
  machine.registers().rdi = kData.raw();
  ASSERT_EQ(ValueOrDie(machine.vcpu().Run(ept.eptp())).reason, ExitReason::kHlt);

  machine.Start64(ReadPagesProgram());
  machine.registers().rcx = 1;
  machine.registers().rdi = kData.raw();
  const VmExit exit = ValueOrDie(machine.vcpu().Run(ept.eptp()));
  ASSERT_EQ(exit.reason, ExitReason::kEptViolation);
  EXPECT_EQ(exit.gpa, kData);
  EXPECT_EQ(exit.ept_qualification().access(), Access::Read());
  EXPECT_EQ(exit.ept_qualification().allowed(), Access::Execute());
}

// The CPU must agree on every defect that `EptEntry::Check` names and this CPU judges.
TEST(HandMadeTables, TheCpuCallsTheSameEntriesMisconfiguredAsTheFormat) {
  Machine machine;
  HandMadeEpt ept(machine, MiB(8));
  const EptEntry good = ept.Get(kData);
  const EntryRules rules = {
      .capabilities = machine.backend().capabilities().ept,
      .physical_address_bits = machine.backend().capabilities().physical_address_bits};
  std::vector<EptEntry> entries = {good,
                                   good.WithoutWrite(),
                                   good.WithIgnorePat(),
                                   good.WithAccess(Access::Write()),
                                   good.WithAccess(Access::FromRaw(6)),
                                   EptEntry(good.raw() | ept::Bit(51)),
                                   EptEntry(good.raw() | ept::Bit(rules.physical_address_bits))};
  for (uint64_t type = 0; type < 8; ++type) {
    entries.push_back(good.WithMemoryType(static_cast<MemoryType>(type)));
  }
  for (const int software_bit : {11, 52, 53, 56, 59, 62}) {
    entries.push_back(EptEntry(good.raw() | ept::Bit(software_bit)));
  }
  for (const EptEntry entry : entries) {
    ept.Set(kData, entry);
    machine.Start64(ReadPagesProgram());
    machine.registers().rcx = 1;
    machine.registers().rdi = kData.raw();
    const VmExit exit = ValueOrDie(machine.vcpu().Run(ept.eptp()));
    const EntryDefect defect = entry.Check(kLevel4K, rules);
    EXPECT_EQ(exit.reason,
              defect == EntryDefect::kNone ? ExitReason::kHlt : ExitReason::kEptMisconfiguration)
        << entry.DebugString(kLevel4K) << ": " << EntryDefectName(defect);
  }
}

TEST(HandMadeTables, AGuestSwitchesViewsItselfAndSeesTheOthersMemory) {
  Machine machine({.vcpu = {.eptp_switching = true}});
  HandMadeEpt first(machine, MiB(8));
  HandMadeEpt second(machine, MiB(8));
  machine.At<uint64_t>(kData) = 1;
  machine.At<uint64_t>(kData + kPageSize) = 2;
  second.Set(kData, second.Get(kData + kPageSize));
  CheckOk(machine.vcpu().SetEptpList({first.eptp(), second.eptp()}));
  machine.Start64(SwitchViewsProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = 1;
  ASSERT_EQ(ValueOrDie(machine.vcpu().Run(first.eptp())).reason, ExitReason::kHlt);
  EXPECT_EQ(machine.registers().rdx, 1u);
  EXPECT_EQ(machine.registers().rbx, 2u);
  // The CPU changed the VMCS: the next run must go back by itself.
  EXPECT_EQ(machine.vcpu().eptp(), second.eptp());
  machine.Start64(SwitchViewsProgram());
  machine.registers().rcx = 0;
  ASSERT_EQ(ValueOrDie(machine.vcpu().Run(first.eptp())).reason, ExitReason::kHlt);
  EXPECT_EQ(machine.registers().rdx, 1u);
  EXPECT_EQ(machine.registers().rbx, 1u);
}

TEST(HandMadeTables, AViewThatIsNotInTheListExits) {
  Machine machine({.vcpu = {.eptp_switching = true}});
  HandMadeEpt first(machine, MiB(8));
  CheckOk(machine.vcpu().SetEptpList({first.eptp()}));
  machine.Start64(SwitchViewsProgram());
  machine.registers().rdi = kData.raw();
  for (const uint64_t index : {1, 511, 512}) {
    machine.registers().rcx = index;
    machine.Start64(SwitchViewsProgram());
    EXPECT_EQ(ValueOrDie(machine.vcpu().Run(first.eptp())).reason, ExitReason::kVmFunction)
        << index;
  }
}

// This guest has a #VE handler, and its tables.
class VirtualizationException : public ::testing::Test {
 protected:
  static constexpr Gpa kIdt{0x10000}, kGdt{0x11000}, kHandler{0x12000}, kInformation{0x13000};

  VirtualizationException() : machine_({.vcpu = {.ve = true}}), ept_(machine_, MiB(8)) {
    machine_.Start64(WriteTwoProgram());
    machine_.Copy(VeHandlerProgram(), kHandler);
    machine_.At<uint64_t>(kGdt + 8) = 0x00af9b000000ffff;
    machine_.At<uint64_t>(kGdt + 16) = 0x00cf93000000ffff;
    machine_.At<uint64_t>(kIdt + 20 * 16) = (kHandler.raw() & 0xffff) | 0x08 << 16 |
                                            uint64_t{0x8e00} << 32 | (kHandler.raw() >> 16) << 48;
    GuestState state =
        GuestState::Long64(Machine::kCode.raw(), Machine::kStack, Machine::kTables.raw());
    state.idtr = {kIdt.raw(), 0xfff};
    state.gdtr = {kGdt.raw(), 0x1f};
    CheckOk(machine_.vcpu().SetState(state));
    // The guest finds the information page at an address of its own.
    ept_.Set(kInformation, EptEntry::Leaf(Hfn::Of(machine_.vcpu().ve_information()), kLevel4K,
                                          Access::All(), MemoryType::kWriteBack)
                               .WithSuppressVe());
    machine_.registers().rdi = kData.raw();
    machine_.registers().rsi = kData.raw() + kPageSize;
    machine_.registers().rdx = kInformation.raw();
  }

  Machine machine_;
  HandMadeEpt ept_;
};

TEST_F(VirtualizationException, AViolationThatIsNotSuppressedGoesToTheGuest) {
  ept_.Set(kData, ept_.Get(kData).WithoutWrite().WithoutSuppressVe());
  ept_.Set(kData + kPageSize, EptEntry::Empty(/*suppress_ve=*/false));
  ASSERT_EQ(ValueOrDie(machine_.vcpu().Run(ept_.eptp())).reason, ExitReason::kHlt);
  EXPECT_EQ(machine_.registers().rbx, 2u);
  const ExitQualification last(machine_.registers().r8);
  EXPECT_EQ(last.access(), Access::Write());
  EXPECT_TRUE(last.allowed().is_empty());
  EXPECT_EQ(machine_.registers().r9, kData.raw() + kPageSize);
}

TEST_F(VirtualizationException, ASuppressedViolationExits) {
  ept_.Set(kData, ept_.Get(kData).WithoutWrite());
  const VmExit exit = ValueOrDie(machine_.vcpu().Run(ept_.eptp()));
  EXPECT_EQ(exit.reason, ExitReason::kEptViolation);
  EXPECT_EQ(exit.gpa, kData);
  EXPECT_EQ(machine_.registers().rbx, 0u);
}

TEST_F(VirtualizationException, WhileTheInformationPageIsBusyAViolationExits) {
  ept_.Set(kData, ept_.Get(kData).WithoutWrite().WithoutSuppressVe());
  auto* information =
      machine_.backend().arena().PointerTo<VeInformation>(machine_.vcpu().ve_information());
  information->busy = ~0u;
  EXPECT_EQ(ValueOrDie(machine_.vcpu().Run(ept_.eptp())).reason, ExitReason::kEptViolation);
}

TEST_F(VirtualizationException, AMisconfigurationNeverGoesToTheGuest) {
  ept_.Set(kData, EptEntry::Mmio(Gfn::Of(kData), 0));
  EXPECT_EQ(ValueOrDie(machine_.vcpu().Run(ept_.eptp())).reason, ExitReason::kEptMisconfiguration);
}

// SPP has 32 sub-pages of 128 bytes: bit 2i of a 4-level table's lowest entry says that sub-page i
// may be written (SDM 29.3.4).
TEST(SubPagePermissions, OnlyTheSubPagesThatTheTableNamesCanBeWritten) {
  Machine machine({.vcpu = {.spp = true}});
  HandMadeEpt ept(machine, MiB(8));
  FrameArena& arena = machine.backend().arena();
  std::vector<Hpa> tables;
  for (int i = 0; i < 4; ++i)
    tables.push_back(ValueOrDie(arena.AllocateZeroed(kPageSize, kPageSize)));
  const int index[] = {0, 0, static_cast<int>(kData.raw() / MiB(2)), 0};
  for (int i = 0; i < 3; ++i) {
    arena.PointerTo<uint64_t>(tables[i])[index[i]] = tables[i + 1].raw() | 1;
  }
  arena.PointerTo<uint64_t>(tables[3])[index[3]] = uint64_t{1} << 2;  // sub-page 1
  CheckOk(machine.vcpu().SetSppTable(tables[0]));
  ept.Set(kData, EptEntry(ept.Get(kData).WithoutWrite().raw() | ept::kSubPageWrite));

  machine.Start64(WriteTwoProgram());
  machine.registers().rdi = machine.registers().rsi = kData.raw() + 128;
  ASSERT_EQ(ValueOrDie(machine.vcpu().Run(ept.eptp())).reason, ExitReason::kHlt);
  EXPECT_EQ(machine.At<uint64_t>(kData + 128), 2u);

  machine.Start64(WriteTwoProgram());
  machine.registers().rdi = kData.raw() + 256;
  const VmExit exit = ValueOrDie(machine.vcpu().Run(ept.eptp()));
  ASSERT_EQ(exit.reason, ExitReason::kEptViolation);
  EXPECT_EQ(Gfn::Of(exit.gpa), Gfn::Of(kData));
  EXPECT_EQ(exit.gva, Gva(kData.raw() + 256));
  EXPECT_EQ(exit.ept_qualification().access(), Access::Write());
  EXPECT_EQ(machine.At<uint64_t>(kData + 256), 0u);
  for (const Hpa table : tables) arena.Free(table, kPageSize);
}

}  // namespace
}  // namespace tdp::vtx
