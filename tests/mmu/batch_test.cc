// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests make several changes together, which are all made or none of them.

#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/mmu/logging_guest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr Hva kRam{TiB(1)};

MemoryRegion Slot(uint32_t slot, Gpa gpa, Hva hva, ByteCount size = MiB(2), uint32_t flags = 0) {
  return {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = hva};
}
Change Delete(uint32_t slot) { return Change::Region({.slot = slot, .size = 0}); }

class BatchTest : public HostTest {
 protected:
  FaultOutcome Touch(Gpa gpa, ExitQualification how = kReadFault) {
    return vcpu_->HandleEptViolation(gpa, how).outcome;
  }
  // Returns the host address behind `gpa`; 0 for none.
  Hva Behind(Gpa gpa) {
    const auto found = vm_->Translate(gpa);
    return found.ok() ? Hva(found->FrameOf(Gfn::Of(gpa)).address().raw()) : Hva(0);
  }
};

TEST_F(BatchTest, ASlotIsReplacedByOthersAtItsPlaceAndAllShow) {
  Start();
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam, MiB(4))).ok());
  EXPECT_EQ(Touch(Gpa(MiB(1))), FaultOutcome::kFixed);
  ASSERT_EQ(vm_->Apply({Delete(0), Change::Region(Slot(1, Gpa(0), kRam + GiB(1))),
                        Change::Region(Slot(0, Gpa(MiB(2)), kRam + GiB(2)))}),
            absl::OkStatus());
  EXPECT_EQ(Behind(Gpa(MiB(1))), Hva(0)) << "the old slot's mapping";
  EXPECT_EQ(Touch(Gpa(MiB(1))), FaultOutcome::kFixed);
  EXPECT_EQ(Behind(Gpa(MiB(1))), kRam + GiB(1) + MiB(1));
  EXPECT_EQ(Touch(Gpa(MiB(3))), FaultOutcome::kFixed);
  EXPECT_EQ(Behind(Gpa(MiB(3))), kRam + GiB(2) + MiB(1));
}

TEST_F(BatchTest, TwoSlotsChangePlaces) {
  Start();
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam)).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(1, Gpa(MiB(2)), kRam + GiB(1))).ok());
  for (const Gpa gpa : {Gpa(0), Gpa(MiB(2))}) EXPECT_EQ(Touch(gpa), FaultOutcome::kFixed);
  ASSERT_EQ(vm_->Apply({Change::Region(Slot(0, Gpa(MiB(64)), kRam)),
                        Change::Region(Slot(1, Gpa(0), kRam + GiB(1))),
                        Change::Region(Slot(0, Gpa(MiB(2)), kRam))}),
            absl::OkStatus());
  for (const Gpa gpa : {Gpa(0), Gpa(MiB(2))}) EXPECT_EQ(Touch(gpa), FaultOutcome::kFixed);
  EXPECT_EQ(Behind(Gpa(0)), kRam + GiB(1));
  EXPECT_EQ(Behind(Gpa(MiB(2))), kRam);
  EXPECT_EQ(Touch(Gpa(MiB(64))), FaultOutcome::kMmio) << "the place between was never there";
}

// The batch has a change of each kind, and each case adds one that is wrong in its own way: nothing
// of what stands before it may be done.
TEST_F(BatchTest, ARefusedChangeIsNamedByItsIndexAndNothingHasChanged) {
  Start({.private_memory = true});
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam)).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(1, Gpa(MiB(4)), kRam + MiB(4))).ok());
  const ViewId view = *vm_->CreateView();
  for (const Gpa gpa : {Gpa(0), Gpa(MiB(4))}) EXPECT_EQ(Touch(gpa), FaultOutcome::kFixed);
  const uint64_t flushes = vm_->Stats().flush_generation;
  const std::vector<Change> good = {
      Delete(0),
      Change::Region(Slot(2, Gpa(0), kRam + GiB(1))),
      Change::Region(Slot(1, Gpa(MiB(4)), kRam + MiB(4), MiB(2), kSlotLogDirtyPages)),
      Change::ViewRights(kBaseView, Gfn(0x400), PageCount(1), Access::None()),
      Change::ViewFrames(kBaseView, Gfn(0x401), PageCount(1), Hfn(5)),
      Change::Attributes(Gpa(MiB(4)), MiB(2), kMemoryAttributePrivate),
      Change::Zap(Gfn(0x400), PageCount(512))};
  const struct {
    Change bad;
    const char* what;
  } kCases[] = {
      {Delete(9), "slot = 9"},
      {Change::Region(Slot(3, Gpa(MiB(5)), kRam)), "overlaps slot 1"},
      {Change::Region(Slot(3, Gpa(MiB(1)), kRam)), "overlaps slot 2"},
      {Change::Region(Slot(2, Gpa(0), kRam)), "hva"},
      {Change::Region(Slot(3, Gpa(0x800), kRam)), "gpa = 0x800"},
      {Change::ViewRights(7, Gfn(0), PageCount(1), Access::All()), "view 7"},
      {Change::ViewRights(view, Gfn(0), PageCount(0), Access::All()), "count 0x0"},
      {Change::ViewRights(view, Gfn(0), PageCount(1), Access::Write()), "-w--"},
      {Change::MemoryType(view, Gfn(0), PageCount(1), ViewMemoryType{MemoryType(7)}), "type 7"},
      {Change::ViewFrames(view, Gfn(0), PageCount(1), Hfn(uint64_t{1} << 40)), "MAXPHYADDR"},
      {Change::Attributes(Gpa(0), MiB(1), 4), "attributes 0x4"},
      {Change::Zap(Gfn(0), PageCount(1), 5), "address space 5"},
  };
  for (const auto& [bad, what] : kCases) {
    SCOPED_TRACE(what);
    std::vector<Change> changes = good;
    changes.push_back(bad);
    const absl::Status status = vm_->Apply(changes);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), StartsWith("change 7: "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  }
  EXPECT_EQ(vm_->Stats().flush_generation, flushes);
  EXPECT_EQ(Behind(Gpa(0)), kRam);
  EXPECT_EQ(Behind(Gpa(MiB(4))), kRam + MiB(4));
  EXPECT_TRUE(absl::IsNotFound(vm_->TakeDirtyLog(1, [](uint64_t, uint64_t) {})));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->SetMemoryRegion({.slot = 2, .size = 0})));
  EXPECT_EQ(Touch(Gpa(MiB(4) + 0x1000), kWriteFault), FaultOutcome::kFixed)
      << "shared, and the slot's";
  // Without the bad one the same changes are made.
  EXPECT_EQ(vm_->Apply(good), absl::OkStatus());
  EXPECT_EQ(Touch(Gpa(0)), FaultOutcome::kFixed);
  EXPECT_EQ(Behind(Gpa(0)), kRam + GiB(1));
  EXPECT_EQ(Touch(Gpa(MiB(4))), FaultOutcome::kMemoryFault);
  EXPECT_TRUE(vm_->TakeDirtyLog(1, [](uint64_t, uint64_t) {}).ok());
}

TEST_F(BatchTest, AllThatIsTakenAwayIsFlushedOnce) {
  Start();
  std::vector<Change> changes;
  for (uint32_t slot = 0; slot < 8; ++slot) {
    const Gpa gpa(MiB(4) * slot);
    ASSERT_TRUE(vm_->SetMemoryRegion(Slot(slot, gpa, kRam + MiB(4) * slot)).ok());
    EXPECT_EQ(Touch(gpa, kWriteFault), FaultOutcome::kFixed);
    changes.push_back(
        slot % 2 == 0 ? Delete(slot)
                      : Change::ViewRights(kBaseView, Gfn::Of(gpa), PageCount(1), Access::Read()));
  }
  const uint64_t before = vm_->Stats().flush_generation;
  const uint64_t zaps = vm_->Stats().zaps;
  ASSERT_EQ(vm_->Apply(changes), absl::OkStatus());
  EXPECT_EQ(vm_->Stats().flush_generation, before + 1);
  EXPECT_EQ(vm_->Stats().zaps, zaps + 1);
}

TEST_F(BatchTest, ARunningVcpuIsKickedOnceAndNotBeforeAllIsChecked) {
  Start();
  for (uint32_t slot = 0; slot < 4; ++slot) {
    ASSERT_TRUE(vm_->SetMemoryRegion(Slot(slot, Gpa(MiB(4) * slot), kRam + MiB(4) * slot)).ok());
    EXPECT_EQ(Touch(Gpa(MiB(4) * slot)), FaultOutcome::kFixed);
  }
  auto entry = std::make_unique<GuestEntry>(vcpu_->EnterGuest());
  host_.on_kick = [&] { entry.reset(); };
  EXPECT_FALSE(vm_->Apply({Delete(0), Delete(1), Delete(9)}).ok());
  EXPECT_EQ(host_.kicks, 0);
  EXPECT_TRUE(vm_->Apply({Delete(0), Delete(1), Delete(2)}).ok());
  EXPECT_EQ(host_.kicks, 1);
}

TEST_F(BatchTest, ChangesOfOneViewAddUp) {
  Start();
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam)).ok());
  ASSERT_EQ(vm_->Apply({Change::ViewRights(kBaseView, Gfn(0), PageCount(8), Access::Read()),
                        Change::ViewRights(kBaseView, Gfn(4), PageCount(8), Access::All()),
                        Change::ViewFrames(kBaseView, Gfn(2), PageCount(4), Hfn(0x100)),
                        Change::ViewFrames(kBaseView, Gfn(3), PageCount(1), std::nullopt)}),
            absl::OkStatus());
  const auto frame = [&](uint64_t page) {
    EXPECT_EQ(Touch(Gpa(page * kPageSize)), FaultOutcome::kFixed);
    return Behind(Gpa(page * kPageSize)).raw();
  };
  EXPECT_EQ(frame(2), 0x100000u);
  EXPECT_EQ(frame(3), kRam.raw() + 0x3000);
  EXPECT_EQ(frame(5), 0x103000u);
  EXPECT_EQ(Touch(Gpa(0x3000), kWriteFault), FaultOutcome::kViewDenied);
  EXPECT_EQ(Touch(Gpa(0x5000), kWriteFault), FaultOutcome::kSpurious);
}

TEST_F(BatchTest, AZapTakesItsRangeInItsAddressSpace) {
  Start({.address_spaces = 2});
  for (AddressSpaceId space : {0, 1}) {
    MemoryRegion region = Slot(0, Gpa(0), kRam);
    region.address_space = space;
    ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
    ASSERT_TRUE(vcpu_->SetAddressSpace(space).ok());
    for (const uint64_t gpa : {0x2000, 0x3000}) EXPECT_EQ(Touch(Gpa(gpa)), FaultOutcome::kFixed);
  }
  ASSERT_EQ(vm_->Apply({Change::Zap(Gfn(3), PageCount(1), 1)}), absl::OkStatus());
  EXPECT_TRUE(vm_->Translate(Gpa(0x2000), 1).ok());
  EXPECT_FALSE(vm_->Translate(Gpa(0x3000), 1).ok());
  EXPECT_TRUE(vm_->Translate(Gpa(0x3000), 0).ok());
}

TEST_F(BatchTest, NoChangesAreNoErrorAndAskingForWhatIsThereChangesNothing) {
  Start();
  EXPECT_EQ(vm_->Apply({}), absl::OkStatus());
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam)).ok());
  EXPECT_EQ(Touch(Gpa(0)), FaultOutcome::kFixed);
  EXPECT_EQ(vm_->Apply({Change::Region(Slot(0, Gpa(0), kRam))}), absl::OkStatus());
  EXPECT_EQ(Behind(Gpa(0)), kRam);
}

TEST_F(BatchTest, SlotsThatAreMadeAndDeletedWithinABatchLeaveNothing) {
  Start();
  EXPECT_EQ(
      vm_->Apply({Change::Region(Slot(0, Gpa(0), kRam)), Change::Region(Slot(0, Gpa(MiB(8)), kRam)),
                  Delete(0), Change::Region(Slot(0, Gpa(MiB(4)), kRam)), Delete(0)}),
      absl::OkStatus());
  for (const uint64_t mib : {0, 4, 8}) EXPECT_EQ(Touch(Gpa(MiB(mib))), FaultOutcome::kMmio);
}

// A slot that is made anew at the place of one that goes, and changed again, is not the one that
// readers know: what they are shown until then has the old one's pages and the old one's log.
TEST_F(BatchTest, ASlotThatIsMadeAnewAndChangedLeavesTheOldOneItsLogWhileItGoes) {
  Start();
  constexpr ByteCount kSmall = 0x4000;
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam, MiB(2), kSlotLogDirtyPages)).ok());
  EXPECT_EQ(Touch(Gpa(0x9000), kWriteFault), FaultOutcome::kFixed);
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  int kicks = 0;
  host_.on_kick = [&] {
    ++kicks;
    // A device's thread, which knows nothing of the change, marks pages while it is being made.
    std::thread([&] {
      EXPECT_EQ(vm_->MarkDirty(Gpa(0x9000), 1), absl::OkStatus());
      EXPECT_EQ(vm_->MarkDirty(Gpa(0x1000), 1), absl::OkStatus());
    }).join();
    entry.reset();
  };
  ASSERT_EQ(
      vm_->Apply({Delete(0), Change::Region(Slot(0, Gpa(0), kRam + GiB(1), kSmall)),
                  Change::Region(Slot(0, Gpa(0), kRam + GiB(1), kSmall, kSlotLogDirtyPages))}),
      absl::OkStatus());
  EXPECT_EQ(kicks, 1);
  EXPECT_TRUE(vm_->TakeDirtyLog(0, [](uint64_t base, uint64_t) { ADD_FAILURE() << base; }).ok());
}

// Batches of all lengths that go and come a thousand times use no more memory than a few.
TEST_F(BatchTest, RefusedAndMadeBatchesKeepNothing) {
  Start();
  const auto round = [&](uint32_t i) {
    std::vector<Change> changes;
    for (uint32_t slot = 0; slot < i % 40; ++slot) {
      changes.push_back(Change::Region(Slot(slot, Gpa(MiB(2) * slot), kRam + MiB(2) * slot)));
    }
    const bool fails = i % 3 == 0;
    if (fails) changes.push_back(Delete(999));
    EXPECT_EQ(vm_->Apply(changes).ok(), !fails);
    if (fails) return;
    changes.clear();
    for (uint32_t slot = 0; slot < i % 40; ++slot) changes.push_back(Delete(slot));
    EXPECT_EQ(vm_->Apply(changes), absl::OkStatus());
  };
  for (uint32_t i = 0; i < 1000; ++i) round(i);
  EXPECT_EQ(Touch(Gpa(0)), FaultOutcome::kMmio);
}

TEST_F(BatchTest, WithAReverseMapSlotsThatComeAreMappedToo) {
  Start({.reverse_map = true});
  ASSERT_TRUE(vm_->SetMemoryRegion(Slot(0, Gpa(0), kRam)).ok());
  EXPECT_EQ(Touch(Gpa(0)), FaultOutcome::kFixed);
  ASSERT_EQ(vm_->Apply({Delete(0), Change::Region(Slot(1, Gpa(0), kRam + GiB(1)))}),
            absl::OkStatus());
  EXPECT_EQ(Touch(Gpa(0)), FaultOutcome::kFixed);
  EXPECT_EQ(Behind(Gpa(0)), kRam + GiB(1));
}

// --- Logs

class BatchesOfLoggingSlots : public testing::TestWithParam<DirtyTracking> {};

TEST_P(BatchesOfLoggingSlots, SeveralBeginToLogAtOnceAndEachWriteIsShown) {
  LoggingGuest guest({.tracking = GetParam()});
  std::vector<Change> on;
  for (uint32_t slot = 0; slot < 3; ++slot) {
    const Gpa gpa(MiB(4) * slot);
    guest.AddSlot(slot, gpa, MiB(2), 9);
    guest.Write(0, gpa + 0x3000);
    on.push_back(Change::Region(
        Slot(slot, gpa, LoggingGuest::kRam + gpa.raw(), MiB(2), kSlotLogDirtyPages)));
  }
  const uint64_t before = guest.vm().Stats().flush_generation;
  ASSERT_EQ(guest.vm().Apply(on), absl::OkStatus());
  EXPECT_EQ(guest.vm().Stats().flush_generation, before + 1);
  for (uint32_t slot = 0; slot < 3; ++slot) {
    EXPECT_THAT(guest.Take(slot), IsEmpty());
    guest.Write(0, Gpa(MiB(4) * slot + 0x3000));
    EXPECT_THAT(guest.Take(slot), ElementsAre(3));
  }
}

TEST_P(BatchesOfLoggingSlots, ALogThatMovesWithItsSlotHasEveryWrite) {
  LoggingGuest guest({.tracking = GetParam()});
  guest.AddSlot(0, Gpa(0), MiB(2), 9);
  guest.SetLogging(0, true);
  guest.Write(0, Gpa(0x5000));
  guest.Write(1, Gpa(0x7000));
  ASSERT_EQ(guest.vm().Apply({Change::Region(Slot(0, Gpa(MiB(64)), LoggingGuest::kRam, MiB(2),
                                                  kSlotLogDirtyPages)),
                              Change::Zap(Gfn(0), PageCount(512))}),
            absl::OkStatus());
  EXPECT_THAT(TakenPages(guest.vm()), ElementsAre(5, 7));
}

INSTANTIATE_TEST_SUITE_P(Tracking, BatchesOfLoggingSlots, EachTracking(), NameOfTracking);

}  // namespace
}  // namespace tdp
