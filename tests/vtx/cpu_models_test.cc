// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what a CPU with less does: they run on several models, see BUILD.bazel. Each
// expectation follows from what the CPU says of itself, and --model names the model so that this is
// not taken on trust.

#include <cstdint>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/mmu/vm.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

ABSL_FLAG(std::string, model, "", "the emulated CPU model");

namespace tdp::vtx {
namespace {

using ::testing::HasSubstr;

constexpr Gpa kData{0x400000};

const VmxMsrs& Msrs() { return Host::Get().cpu->msrs(); }
bool Has(uint32_t control) { return Msrs().Offers(ControlWord::kSecondary, control); }
Capabilities CapabilitiesHere() { return ValueOrDie(DecodeCapabilities(Msrs(), 0)); }

// Returns a machine that asks for nothing that this CPU may lack.
MachineOptions Modest() {
  MachineOptions options;
  options.vcpu.unrestricted_guest = Has(secondary::kUnrestrictedGuest);
  options.max_order = 18;
  return options;
}

TEST(CpuModel, IsTheOneThatTheTestIsFor) {
  struct Powers {
    const char* model;
    bool unrestricted_guest, accessed_dirty, pages_1g, pml;
  };
  const Powers known[] = {{"tigerlake", true, true, true, true},
                          {"corei7_haswell_4770", true, true, true, false},
                          {"corei7_ivy_bridge_3770k", true, false, false, false},
                          {"corei5_lynnfield_750", false, false, false, false}};
  const Capabilities here = CapabilitiesHere();
  for (const Powers& powers : known) {
    if (absl::GetFlag(FLAGS_model) != powers.model) continue;
    EXPECT_EQ(Has(secondary::kUnrestrictedGuest), powers.unrestricted_guest);
    EXPECT_EQ(here.ept.accessed_dirty(), powers.accessed_dirty);
    EXPECT_EQ(here.ept.pages_1g(), powers.pages_1g);
    EXPECT_EQ(here.pml, powers.pml);
    return;
  }
  FAIL() << "--model=" << absl::GetFlag(FLAGS_model) << " is not known here";
}

TEST(CpuModel, A64BitGuestRunsOnTheLargestPagesThatTheCpuHas) {
  Machine machine(Modest());
  machine.Start64(WritePagesProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = 4;
  machine.registers().rax = 9;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(machine.At<uint64_t>(kData + 3 * kPageSize), 9u);
  EXPECT_EQ(ValueOrDie(machine.vm().Translate(kData)).level,
            CapabilitiesHere().ept.pages_2m() ? kLevel2M : kLevel4K);
}

TEST(CpuModel, A1GPieceIsMappedByWhatTheCpuHas) {
  MachineOptions options = Modest();
  Machine machine(options);
  machine.backend().Pretend1G(Hpa(0));
  CheckOk(
      machine.vm().SetMemoryRegion({.slot = 1, .gpa = Gpa(GiB(1)), .size = GiB(1), .hva = Hva(0)}));
  machine.Start64(WritePagesProgram());
  const uint64_t data = GiB(1) + machine.HvaOf(kData).raw();
  machine.At<uint64_t>(Machine::kTables + 0x2000 + kData.raw() / MiB(2) * 8) =
      (data & ~(MiB(2) - 1)) | 0x83;
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = 1;
  machine.registers().rax = 9;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(machine.At<uint64_t>(kData), 9u);
  EXPECT_EQ(ValueOrDie(machine.vm().Translate(Gpa(data))).level,
            CapabilitiesHere().ept.pages_1g() ? kLevel1G : kLevel2M);
}

TEST(CpuModel, AccessedAndDirtyBitsAreUsedIfTheCpuHasThemAndRefusedByNameIfNot) {
  Machine machine(Modest());
  const bool offered = CapabilitiesHere().ept.accessed_dirty();
  EXPECT_EQ(machine.vm().eptp().accessed_dirty(), offered);
  const auto required = Vm::Create(machine.backend(), {.accessed_dirty = Use::kRequire});
  EXPECT_EQ(required.ok(), offered) << required.status();
  if (!offered) {
    EXPECT_THAT(std::string(required.status().message()), HasSubstr("accessed_dirty"));
  }
}

TEST(CpuModel, TheDirtyBitOfAWrittenLeafIsSetByTheCpuThatHasOne) {
  Machine machine(Modest());
  machine.Start64(WritePagesProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = 1;
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  const EptEntry leaf = ValueOrDie(machine.vm().Translate(kData)).entry;
  if (CapabilitiesHere().ept.accessed_dirty()) {
    EXPECT_TRUE(leaf.accessed() && leaf.dirty());
  }
}

TEST(CpuModel, ARealModeGuestRunsOrIsRefusedByName) {
  Machine machine(Modest());
  const GuestState state = GuestState::RealMode(Machine::kCode.raw(), Machine::kStack);
  if (Has(secondary::kUnrestrictedGuest)) {
    machine.Start(RealModeProgram(), state);
    EXPECT_EQ(machine.Run().reason, ExitReason::kHlt);
    return;
  }
  const absl::Status refused = machine.vcpu().SetState(state);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("unrestricted guest"));
}

// Each case is an option of a vCPU that rests on one control.
TEST(CpuModel, AVcpuIsRefusedByTheNameOfWhatTheCpuLacks) {
  struct Case {
    uint32_t control;
    VtxVcpuOptions options;
    const char* name;
  };
  const bool unrestricted = Has(secondary::kUnrestrictedGuest);
  const Case cases[] = {
      {secondary::kUnrestrictedGuest, {.unrestricted_guest = true}, "unrestricted guest"},
      {secondary::kPml, {.unrestricted_guest = unrestricted, .pml = true}, "enable PML"},
      {secondary::kMbec, {.unrestricted_guest = unrestricted, .mbec = true}, "mode-based execute"},
      {secondary::kSpp, {.unrestricted_guest = unrestricted, .spp = true}, "sub-page write"},
      {secondary::kEptViolationVe, {.unrestricted_guest = unrestricted, .ve = true}, "#VE"},
      {secondary::kVmFunctions,
       {.unrestricted_guest = unrestricted, .eptp_switching = true},
       "VM functions"},
  };
  for (const Case& c : cases) {
    const auto vcpu = VtxVcpu::Create(Host::Get().arena, Msrs(), c.options);
    EXPECT_EQ(vcpu.ok(), Has(c.control)) << c.name << ": " << vcpu.status();
    if (!vcpu.ok()) {
      EXPECT_THAT(std::string(vcpu.status().message()), HasSubstr(c.name));
    }
  }
}

}  // namespace
}  // namespace tdp::vtx

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  absl::ParseCommandLine(argc, argv);
  return RUN_ALL_TESTS();
}
