// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/memory_copy.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

bool Contains(std::string_view line, std::string_view words) {
  return line.find(words) != std::string_view::npos;
}

// The registers of the machine's own interrupt controller, timer and serial port that Linux takes
// to be as it left them.
class Devices {
 public:
  void Save() {
    using vtx::tdp_in8;
    masks_ = {tdp_in8(kMasterMask), tdp_in8(kSlaveMask)};
    vtx::tdp_out8(kTimerCommand, kReadStatus);
    timer_ = tdp_in8(kTimer);
    serial_interrupts_ = tdp_in8(kSerialInterrupts);
    serial_line_ = tdp_in8(kSerialLine);
    serial_modem_ = tdp_in8(kSerialModem);
  }
  // Restores it with a tick that comes soon, since the one that Linux waits for may be past.
  void Restore() const {
    using vtx::tdp_out8;
    for (const uint16_t controller : {kSlave, kMaster}) EndInterrupts(controller);
    tdp_out8(kMasterMask, masks_[0]);
    tdp_out8(kSlaveMask, masks_[1]);
    constexpr uint8_t kCounterAndBinary = 0x30, kModeBits = 0x0e, kTickLow = 0xa9, kTickHigh = 0x12;
    tdp_out8(kTimerCommand, kCounterAndBinary | (timer_ & kModeBits));
    tdp_out8(kTimer, kTickLow);
    tdp_out8(kTimer, kTickHigh);
    tdp_out8(kSerialLine, serial_line_);
    tdp_out8(kSerialModem, serial_modem_);
    tdp_out8(kSerialInterrupts, 0);  // switching them on makes the interrupt that may be missing
    tdp_out8(kSerialInterrupts, serial_interrupts_);
  }

 private:
  static constexpr uint16_t kMaster = 0x20, kMasterMask = 0x21, kSlave = 0xa0, kSlaveMask = 0xa1;
  static constexpr uint16_t kTimer = 0x40, kTimerCommand = 0x43;
  static constexpr uint16_t kSerialInterrupts = 0x3f9, kSerialLine = 0x3fb, kSerialModem = 0x3fc;
  static constexpr uint8_t kReadStatus = 0xe2;  // of counter 0

  static void EndInterrupts(uint16_t controller) {
    constexpr uint8_t kReadInService = 0x0b, kEnd = 0x20;
    constexpr int kLines = 8;
    for (int i = 0; i < kLines; ++i) {
      vtx::tdp_out8(controller, kReadInService);
      if (vtx::tdp_in8(controller) == 0) return;
      vtx::tdp_out8(controller, kEnd);
    }
  }

  std::array<uint8_t, 2> masks_ = {};
  uint8_t timer_ = 0;
  uint8_t serial_interrupts_ = 0;
  uint8_t serial_line_ = 0;
  uint8_t serial_modem_ = 0;
};

// Linux is stopped after its first pass, runs on, goes back to where it was stopped by the pages
// alone that the dirty log names, and does the same again.
class Snapshot : public Scenario {
 public:
  absl::Status OnStart(LinuxGuest& guest) override {
    TDP_ASSIGN_OR_RETURN(const Hva to, guest.host().Allocate(guest.options().ram));
    copy_ = std::make_unique<MemoryCopy>(guest, to);
    return absl::OkStatus();
  }

  void OnLine(const std::string& line) override {
    if (Contains(line, "INIT: pass 1 ")) has_passed_ = true;
    if (is_taken_ && Contains(line, "INIT:")) lines_.push_back(line);
  }

  absl::Status OnTimer(LinuxGuest& guest) override {
    constexpr int kPeriods = 16;
    if (!has_passed_) return absl::OkStatus();
    if (!is_taken_) return Take(guest);
    if (returns_ == kReturns || ++periods_ < kPeriods) return absl::OkStatus();
    periods_ = 0;
    return Return(guest);
  }

  absl::Status OnEnd(LinuxGuest& guest) override {
    guest.Say(absl::StrFormat("%d returns; %d lines came again", returns_, repeated_));
    if (returns_ != kReturns) {
      return absl::FailedPreconditionError("Linux ended before it had been sent back often enough");
    }
    TDP_RETURN_IF_ERROR(CheckLines());
    return repeated_ != 0 ? absl::OkStatus() : absl::FailedPreconditionError("no line came again");
  }

 private:
  static constexpr int kReturns = 3;

  absl::Status Take(LinuxGuest& guest) {
    TDP_ASSIGN_OR_RETURN(state_, guest.cpu().vcpu().Save());
    unfinished_line_ = guest.unfinished_line();
    devices_.Save();
    TDP_RETURN_IF_ERROR(StartCopy(guest, *copy_));
    is_taken_ = true;
    guest.Say("snapshot taken");
    return absl::OkStatus();
  }

  absl::Status Return(LinuxGuest& guest) {
    uint64_t pages = 0;
    TDP_RETURN_IF_ERROR(guest.vm().TakeDirtyLog(
        0, [&](uint64_t base, uint64_t mask) { pages += copy_->PutBack(base, mask); }));
    TDP_RETURN_IF_ERROR(copy_->Compare());
    TDP_RETURN_IF_ERROR(guest.cpu().vcpu().Restore(state_));
    guest.unfinished_line() = unfinished_line_;
    devices_.Restore();
    TDP_RETURN_IF_ERROR(CheckLines());
    guest.Say(
        absl::StrFormat("return %d: %d pages put back, all are as they were", ++returns_, pages));
    return absl::OkStatus();
  }

  // Checks that what came since the last return is the beginning of what came the longest time, or
  // goes on where that ended.
  absl::Status CheckLines() {
    const size_t common = std::min(lines_.size(), expected_.size());
    for (size_t i = 0; i < common; ++i) {
      if (lines_[i] != expected_[i]) {
        return absl::DataLossError(
            absl::StrCat("'", lines_[i], "' came where '", expected_[i], "' had come before"));
      }
    }
    repeated_ += common;
    if (lines_.size() > expected_.size()) expected_ = lines_;
    lines_.clear();
    return absl::OkStatus();
  }

  bool has_passed_ = false;
  bool is_taken_ = false;
  int periods_ = 0;
  int returns_ = 0;
  uint64_t repeated_ = 0;
  vtx::VtxVcpuState state_;
  std::string unfinished_line_;  // of the console
  Devices devices_;
  std::unique_ptr<MemoryCopy> copy_;
  std::vector<std::string> lines_;     // since the snapshot, or the last return to it
  std::vector<std::string> expected_;  // the most that has come so far
};

}  // namespace

std::unique_ptr<Scenario> MakeSnapshot() { return std::make_unique<Snapshot>(); }

}  // namespace tdp::linux_example
