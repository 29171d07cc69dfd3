// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This guest has the machine's CPU and serial port for its own; the tests ask what its host answers
// still.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/backends/vtx/pass_through_cpu.h"
#include "tdp/backends/vtx/serial_tap.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr uint8_t kHlt = 0xf4;
constexpr uint32_t kAbsentMsr = 0x1a0;  // the emulated CPU has none of this number
constexpr uint32_t kUnknownMsr = 0x1b0;

MachineOptions PassThrough() {
  MachineOptions options;
  options.vcpu = VtxVcpuOptions::PassThrough(Host::Get().cpu->msrs());
  options.vcpu.hlt_exiting = true;  // to come to an end
  return options;
}

PassThroughCpuOptions Told() {
  PassThroughCpuOptions told;
  told.tsc_hz = 100000000;
  told.absent_msrs = {kAbsentMsr};
  return told;
}

class PassThroughTest : public ::testing::Test {
 protected:
  PassThroughTest()
      : machine_(PassThrough()), cpu_(machine_.vcpu(), Told()), tap_(machine_.vcpu(), unfinished_) {
    CheckOk(cpu_.Arm());
    CheckOk(tap_.Arm());
    CheckOk(machine_.vcpu().SetMsrExits(kUnknownMsr, true, true));
  }

  // Runs `instruction` and a HLT behind it, which the guest reaches unless it gets an exception: it
  // has no handlers, so that is a triple fault.
  ExitReason RunOne(std::vector<uint8_t> instruction) {
    instruction.push_back(kHlt);
    machine_.Copy(instruction, Machine::kCode);
    for (;;) {
      const VmExit exit = machine_.Run();
      if (exit.reason == ExitReason::kHlt || exit.reason == ExitReason::kTripleFault) {
        return exit.reason;
      }
      EXPECT_TRUE(ValueOrDie(cpu_.Handle(exit))) << static_cast<int>(exit.reason);
    }
  }

  // Starts a guest anew, and returns its registers.
  GuestRegisters& Start() {
    machine_.Start64({&kHlt, 1});
    return machine_.registers();
  }

  Machine machine_;
  PassThroughCpu cpu_;
  std::string unfinished_;
  SerialTap tap_;
};

TEST_F(PassThroughTest, CpuidAnswersWithoutVmx) {
  Start().rax = 1;
  machine_.registers().rcx = 0;
  ASSERT_EQ(RunOne({0x0f, 0xa2}), ExitReason::kHlt);
  EXPECT_EQ(machine_.registers().rcx & 1u << 5, 0u);
  EXPECT_NE(machine_.registers().rcx & 1u << 31, 0u);
  Start().rax = 0x15;
  ASSERT_EQ(RunOne({0x0f, 0xa2}), ExitReason::kHlt);
  EXPECT_EQ(machine_.registers().rcx, 100000000u);
}

TEST_F(PassThroughTest, AnAbsentMsrReadsZeroAndWritesToItAreLost) {
  Start() = {.rax = 0x55, .rcx = kAbsentMsr, .rdx = 0x55};
  ASSERT_EQ(RunOne({0x0f, 0x32}), ExitReason::kHlt);
  EXPECT_EQ(machine_.registers().rax, 0u);
  EXPECT_EQ(machine_.registers().rdx, 0u);
  Start() = {.rax = 0x55, .rcx = kAbsentMsr, .rdx = 0};
  EXPECT_EQ(RunOne({0x0f, 0x30}), ExitReason::kHlt);
}

TEST_F(PassThroughTest, AnyOtherMsrThatExitsFaults) {
  Start().rcx = kUnknownMsr;
  EXPECT_EQ(RunOne({0x0f, 0x32}), ExitReason::kTripleFault);
  Start().rcx = kUnknownMsr;
  EXPECT_EQ(RunOne({0x0f, 0x30}), ExitReason::kTripleFault);
}

TEST_F(PassThroughTest, AGuestMaySetTheXcr0ThatIsKeptApartAndNoMore) {
  constexpr uint64_t kOsXsave = 1 << 18;
  const auto set = [&](uint64_t index, uint64_t value) {
    Start() = {.rax = value, .rcx = index, .rdx = 0};
    const uint64_t cr4 = ValueOrDie(machine_.vcpu().Read(VmcsField::kGuestCr4));
    CheckOk(machine_.vcpu().Write(VmcsField::kGuestCr4, cr4 | kOsXsave));
    return RunOne({0x0f, 0x01, 0xd1});
  };
  EXPECT_EQ(set(0, 3), ExitReason::kHlt);
  EXPECT_EQ(set(0, 7), ExitReason::kHlt);
  EXPECT_EQ(set(0, 7 | 1 << 9), ExitReason::kTripleFault) << "PKRU";
  EXPECT_EQ(set(0, 2), ExitReason::kTripleFault) << "without x87";
  EXPECT_EQ(set(1, 7), ExitReason::kTripleFault) << "no such register";
}

TEST_F(PassThroughTest, InvdPassesAndVmcallIsNoInstruction) {
  Start();
  EXPECT_EQ(RunOne({0x0f, 0x08}), ExitReason::kHlt);
  Start();
  EXPECT_EQ(RunOne({0x0f, 0x01, 0xc1}), ExitReason::kTripleFault);
}

TEST_F(PassThroughTest, OtherExitsAreLeftToTheHost) {
  Start();
  const VmExit exit = machine_.Run();
  ASSERT_EQ(exit.reason, ExitReason::kHlt);
  EXPECT_FALSE(ValueOrDie(cpu_.Handle(exit)));
}

TEST_F(PassThroughTest, TheTapHearsLinesAndKeepsWhatIsNotComplete) {
  // mov al, CHARACTER; out dx, al
  std::vector<uint8_t> program;
  for (const char character : {'h', 'i', '\r', '\n', 'y', 'o'}) {
    program.insert(program.end(), {0xb0, static_cast<uint8_t>(character), 0xee});
  }
  program.push_back(kHlt);
  machine_.Start64(program);
  machine_.registers().rdx = 0x3f8;
  std::vector<std::string> lines;
  for (VmExit exit = machine_.Run(); exit.reason == ExitReason::kIo; exit = machine_.Run()) {
    CheckOk(tap_.Handle(exit, [&](const std::string& line) { lines.push_back(line); }));
  }
  EXPECT_EQ(lines, std::vector<std::string>{"hi"});
  EXPECT_EQ(unfinished_, "yo");
}

TEST_F(PassThroughTest, TheTapRefusesWideAccessesByName) {
  constexpr uint8_t kOutWord[] = {0x66, 0xef, kHlt};  // out dx, ax
  machine_.Start64(kOutWord);
  machine_.registers().rdx = 0x3f8;
  const VmExit exit = machine_.Run();
  ASSERT_EQ(exit.reason, ExitReason::kIo);
  const absl::Status status = tap_.Handle(exit, [](const std::string&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("0x3f8, 2 bytes"), std::string::npos) << status;
}

}  // namespace
}  // namespace tdp::vtx
