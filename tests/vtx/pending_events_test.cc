// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/pending_events.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "tdp/backends/vtx/vm_exit.h"

namespace tdp::vtx {
namespace {

using Type = PendingEvent::Type;

constexpr uint8_t kDivide = 0, kDebug = 1, kDoubleFault = 8, kSegment = 11, kProtection = 13,
                  kPage = 14, kVirtualization = 20, kControl = 21;

PendingEvent Kept(uint8_t vector) { return PendingEvent::Make(Type::kException, vector); }

TEST(PendingEvents, AnExceptionWithoutAnErrorCodeHasNone) {
  PendingEvents events;
  events.AddException(6, -1);
  EXPECT_EQ(events.now().information, 0x80000306u);
  events.Delivered();
  EXPECT_FALSE(events.now().is_valid());
  events.AddException(kPage, 0x15);
  EXPECT_EQ(events.now().information, 0x80000b0eu);
  EXPECT_EQ(events.now().error_code, 0x15u);
}

// The rows are those of SDM table 6-5.
TEST(PendingEvents, TwoExceptionsMakeWhatTheCpuMakesOfThem) {
  struct Row {
    uint8_t first, second;
    bool is_double;
  };
  for (const Row& row : {Row{kDebug, kProtection, false},
                         {kProtection, kDebug, false},
                         {kDivide, kSegment, true},
                         {kProtection, kProtection, true},
                         {kProtection, kPage, false},
                         {kPage, kPage, true},
                         {kPage, kProtection, true},
                         {kPage, kDebug, false},
                         {kControl, kProtection, true},
                         {kVirtualization, kPage, true},
                         {kVirtualization, kProtection, true},
                         {kVirtualization, kVirtualization, true},
                         {kVirtualization, kDebug, false},
                         {kPage, kVirtualization, true},
                         {kProtection, kVirtualization, false}}) {
    PendingEvents events;
    events.Keep(Kept(row.first));
    events.AddException(row.second, 0);
    if (row.is_double) {
      EXPECT_EQ(events.now().information, 0x80000b08u) << "with an error code, which is 0";
      EXPECT_EQ(events.now().error_code, 0u);
    }
    EXPECT_EQ(events.now().vector(), row.is_double ? kDoubleFault : row.second)
        << int{row.first} << " then " << int{row.second};
    EXPECT_FALSE(events.is_triple_fault());
  }
}

TEST(PendingEvents, AFaultOnTopOfADoubleFaultShutsTheGuestDown) {
  for (const uint8_t second : {kProtection, kPage, kVirtualization}) {
    PendingEvents events;
    events.Keep(Kept(kDoubleFault));
    events.AddException(second, 0);
    EXPECT_TRUE(events.is_triple_fault());
    EXPECT_FALSE(events.now().is_valid());
  }
  PendingEvents events;
  events.Keep(Kept(kDoubleFault));
  events.AddException(kDebug, -1);
  EXPECT_FALSE(events.is_triple_fault());
}

TEST(PendingEvents, AnInterruptThatAFaultStopsIsNotLost) {
  PendingEvents events;
  events.Keep(PendingEvent::Make(Type::kExternalInterrupt, 0x30));
  ASSERT_TRUE(events.AddInterrupt(0x31));
  events.AddException(kPage, 0);
  EXPECT_EQ(events.now().vector(), kPage);
  for (const uint8_t vector : {0x30, 0x31}) {
    events.Delivered();
    ASSERT_TRUE(events.interrupt_waits());
    events.Promote(true, true);
    EXPECT_EQ(events.now().vector(), vector);
  }
  EXPECT_FALSE(events.interrupt_waits());
}

TEST(PendingEvents, ASoftwareInterruptThatAFaultStopsIsRaisedByItsInstructionAgain) {
  PendingEvents events;
  events.Keep(PendingEvent::Make(Type::kSoftwareInterrupt, 0x80));
  events.AddException(kPage, 0);
  EXPECT_EQ(events.now().vector(), kPage);
  events.Delivered();
  events.Promote(true, true);
  EXPECT_FALSE(events.now().is_valid());
}

TEST(PendingEvents, OneInterruptWaitsAtATimeAndAnNmiGoesFirst) {
  PendingEvents events;
  EXPECT_TRUE(events.AddInterrupt(0x40));
  EXPECT_FALSE(events.AddInterrupt(0x41));
  EXPECT_TRUE(events.AddNmi());
  EXPECT_FALSE(events.AddNmi());
  events.Promote(false, false);
  EXPECT_FALSE(events.now().is_valid());
  events.Promote(true, true);
  EXPECT_EQ(events.now().information, 0x80000202u);
  events.Promote(true, true);
  EXPECT_EQ(events.now().vector(), 2) << "one at a time";
  events.Delivered();
  events.Promote(true, false);
  EXPECT_EQ(events.now().information, 0x80000040u);
}

// After STI an NMI may not be given yet, and a window for it may open at every entry.
TEST(PendingEvents, AfterStiAnNmiWaitsForTheWindowOfInterrupts) {
  using Windows = PendingEvents::Windows;
  PendingEvents events;
  EXPECT_EQ(events.windows(true), Windows());
  ASSERT_TRUE(events.AddNmi());
  EXPECT_EQ(events.windows(false), (Windows{.interrupt = false, .nmi = true}));
  EXPECT_EQ(events.windows(true), (Windows{.interrupt = true, .nmi = false}));
  ASSERT_TRUE(events.AddInterrupt(0x20));
  EXPECT_EQ(events.windows(false), (Windows{.interrupt = true, .nmi = true}));
}

TEST(VmExit, SaysOfWhichExitsAnIretHadUnblockedNmis) {
  constexpr uint64_t kUnblocked = 1 << 12;
  for (const ExitReason reason :
       {ExitReason::kEptViolation, ExitReason::kPmlFull, ExitReason::kSppEvent}) {
    EXPECT_TRUE((VmExit{.reason = reason, .qualification = kUnblocked | 2}.has_unblocked_nmis()));
    EXPECT_FALSE((VmExit{.reason = reason, .qualification = 2}.has_unblocked_nmis()));
  }
  EXPECT_FALSE(
      (VmExit{.reason = ExitReason::kIo, .qualification = kUnblocked}.has_unblocked_nmis()));
  const auto exception = [](uint32_t information) {
    return VmExit{.reason = ExitReason::kExceptionOrNmi, .interruption = information}
        .has_unblocked_nmis();
  };
  constexpr uint32_t kFault = 1u << 31 | 3 << 8 | kUnblocked;
  EXPECT_TRUE(exception(kFault | kPage));
  EXPECT_FALSE(exception((kFault & ~kUnblocked) | kPage));
  EXPECT_FALSE(exception(kFault | kDoubleFault)) << "it is undefined there";
  EXPECT_FALSE(exception(1u << 31 | 2 << 8 | kUnblocked | 2)) << "an NMI of the host's";
}

}  // namespace
}  // namespace tdp::vtx
