// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest's CPU waits for its start-up IPI, and then runs from where that says.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/backends/vtx/local_apic.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr uint8_t kVector = 0x12;
constexpr Gpa kStart{uint64_t{kVector} << 12};

class StartUp : public ::testing::Test {
 protected:
  StartUp() : apic_(machine_.backend().arena().direct_map_offset()) {
    const std::vector<uint8_t> halt = {0xf4};
    machine_.Start64(halt);
  }

  // Waits on another CPU for the start-up IPI, which is sent until it is taken, and then runs
  // `program` from where it says. `then` goes on with the guest.
  template <typename Then>
  void StartOn(const std::vector<uint8_t>& program, Then then) {
    machine_.Copy(program, kStart);
    std::thread thread([&] {
      const std::unique_ptr<VmxCpu> cpu = ValueOrDie(VmxCpu::Enable(machine_.backend().arena()));
      apic_id_ = cpu->apic_id();
      GuestCpu guest(machine_.vm(), machine_.backend(), *cpu, machine_.vcpu_options());
      CheckOk(guest.vcpu().AwaitStartUp());
      is_ready_ = true;
      exit_ = guest.Step();
      has_started_ = true;
      CheckOk(guest.vcpu().SetState(GuestState::StartUp(kVector)));
      then(guest);
      is_done_ = true;
      while (!may_leave_) {
      }
    });
    while (!is_ready_) {
    }
    CommandHigh() = destination_;
    while (!has_started_) apic_.SendStartUp(apic_id_, kVector);
    for (int sent = 0; !is_done_;) {
      if (wanted_nmis_ == sent) continue;
      apic_.SendNmi(apic_id_);
      ++sent;
    }
    may_leave_ = true;
    thread.join();
    EXPECT_EQ(exit_.reason, ExitReason::kStartUpIpi);
    EXPECT_EQ(exit_.qualification, kVector);
  }
  void AskForNmi() { ++wanted_nmis_; }

  // Returns the word of this CPU's local APIC that says which CPU the next command is for.
  volatile uint32_t& CommandHigh() {
    return *reinterpret_cast<volatile uint32_t*>(machine_.backend().arena().direct_map_offset() +
                                                 0xfee00310);
  }

  Machine machine_;
  const LocalApic apic_;
  uint32_t destination_ = 0;

 private:
  std::atomic<ApicId> apic_id_ = 0;
  std::atomic<bool> is_ready_ = false, has_started_ = false, is_done_ = false, may_leave_ = false;
  std::atomic<int> wanted_nmis_ = 0;
  VmExit exit_;
};

TEST_F(StartUp, TheIpiIsAnExitWithItsPageAndTheGuestBeginsThereInRealMode) {
  StartOn({0x8c, 0xcb, 0xf4}, [&](GuestCpu& guest) {  // mov bx, cs; hlt
    EXPECT_EQ(guest.Run().reason, ExitReason::kHlt);
    EXPECT_EQ(guest.registers().rbx & 0xffff, kVector * 0x100u);
    EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestRip)), 2u);
  });
}

TEST_F(StartUp, AfterItTheCpuCanBeKickedAndEnteredAgain) {
  StartOn({0xeb, 0xfe}, [&](GuestCpu& guest) {  // jmp to itself
    for (int i = 0; i < 3; ++i) {
      AskForNmi();
      while (!guest.Step().is_kick()) {
      }
    }
    EXPECT_EQ(ValueOrDie(guest.vcpu().Read(VmcsField::kGuestRip)), 0u);
  });
}

// A guest that has the local APIC for its own was stopped here between its two writes.
TEST_F(StartUp, AnIpiOfTheHostLeavesTheDestinationThatAGuestHasWritten) {
  destination_ = 5u << 24;
  StartOn({0xeb, 0xfe}, [&](GuestCpu& guest) {
    AskForNmi();
    while (!guest.Step().is_kick()) {
    }
  });
  EXPECT_EQ(CommandHigh(), destination_);
}

}  // namespace
}  // namespace tdp::vtx
