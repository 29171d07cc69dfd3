// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest talks to a byte-wide device in memory; the exit handler is the device.

#include <cstdint>
#include <string>

#include "gtest/gtest.h"
#include "tdp/backends/vtx/mmio_instruction.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr Gpa kDevice{0x10000000};
constexpr uint64_t kDeviceGva = MiB(6);
constexpr Gpa kText{0x3000};
constexpr uint8_t kStatus = 0x5a;

class Mmio : public ::testing::Test {
 protected:
  explicit Mmio(const MachineOptions& options = {}) : machine_(options) {
    machine_.Start64(PrintProgram());
    // The guest's own tables map the device's page where the program expects it.
    machine_.At<uint64_t>(Machine::kTables + 0x2000 + 3 * 8) = kDevice.raw() | 0x83;
    machine_.registers().rdi = kDeviceGva;
    machine_.registers().rsi = kText.raw();
  }

  void SetText(const std::string& text) {
    memcpy(&machine_.At<char>(kText), text.c_str(), text.size() + 1);
  }

  // Runs to the end, answering for the device.
  void RunWithDevice() {
    for (;;) {
      const VmExit exit = machine_.Run();
      if (exit.reason == ExitReason::kHlt) return;
      ASSERT_EQ(machine_.faults().back().outcome, FaultOutcome::kMmio);
      Emulate(exit);
    }
  }

  void Emulate(const VmExit& exit) {
    const uint64_t rip = ValueOrDie(machine_.vcpu().Read(VmcsField::kGuestRip));
    const MmioInstruction instruction = ValueOrDie(DecodeMmioInstruction(
        absl::MakeSpan(&machine_.At<uint8_t>(Gpa(rip)), 15), machine_.registers(), 0));
    if (instruction.is_write) {
      EXPECT_EQ(exit.gpa, kDevice);
      printed_ += static_cast<char>(instruction.value);
    } else {
      EXPECT_EQ(exit.gpa, kDevice + 1);
      CompleteRead(instruction, kStatus, machine_.registers());
    }
    CheckOk(machine_.vcpu().Write(VmcsField::kGuestRip,
                                  rip + static_cast<uint64_t>(instruction.length)));
  }

  // Returns how many exits at the device were for `reason`.
  int Exits(ExitReason reason) {
    int count = 0;
    for (const SeenFault& fault : machine_.faults()) {
      count += Gfn::Of(fault.gpa) == Gfn::Of(kDevice) && fault.reason == reason;
    }
    return count;
  }

  Machine machine_;
  std::string printed_;
};

TEST_F(Mmio, TheGuestPrintsThroughTheDeviceAndReadsItsStatus) {
  SetText("hello");
  RunWithDevice();
  EXPECT_EQ(printed_, "hello");
  EXPECT_EQ(machine_.registers().rbx, kStatus);
}

TEST_F(Mmio, AfterTheFirstAccessTheDevicesPageIsAMisconfigurationByDesign) {
  SetText("hello");
  RunWithDevice();
  EXPECT_EQ(Exits(ExitReason::kEptViolation), 1);
  EXPECT_EQ(Exits(ExitReason::kEptMisconfiguration), 5);
  EXPECT_EQ(machine_.vm().Stats().faults.mmio, 6u);
}

TEST_F(Mmio, MemoryThatReplacesTheDeviceIsFoundThroughTheStaleEntry) {
  SetText("ab");
  ASSERT_EQ(machine_.Run().reason, ExitReason::kEptViolation);  // the first byte
  CheckOk(machine_.vm().SetMemoryRegion(
      {.slot = 1, .gpa = kDevice, .size = kPageSize, .hva = machine_.HvaOf(Gpa(0x600000))}));
  RunWithDevice();
  EXPECT_EQ(printed_, "");
  EXPECT_EQ(machine_.At<uint8_t>(Gpa(0x600000)), 'b');
}

class MmioWithoutCaching : public Mmio {
 protected:
  MmioWithoutCaching() : Mmio({.vm = {.mmio_caching = false}}) {}
};

TEST_F(MmioWithoutCaching, EachAccessIsAViolation) {
  SetText("hello");
  RunWithDevice();
  EXPECT_EQ(printed_, "hello");
  EXPECT_EQ(Exits(ExitReason::kEptViolation), 6);
  EXPECT_EQ(Exits(ExitReason::kEptMisconfiguration), 0);
}

}  // namespace
}  // namespace tdp::vtx
