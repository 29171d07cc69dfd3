// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Another CPU does something at the worst moment, one moment a test: while the host is asked for a
// page, and while a flush waits for a CPU that is still in the guest.

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

constexpr uint64_t kAll = 0x67;

// The guest has two address spaces. The one of cr3 0x1000 has tables in frames 1 to 4, of which
// frame 4 maps gva 0x10000. The one of cr3 0x11000 has tables in frames 17 to 20 and maps frame 4
// at gva 0x4000.
class ShadowRace : public SimTest {
 protected:
  void SetUp() override {
    Start({.paging = Paging::kShadow}, 2);
    ASSERT_TRUE(world_->SetRam(MiB(4)).ok());
    for (uint64_t table : {1, 2, 3, 17, 18, 19}) Poke(table << 12, (table + 1) << 12 | kAll);
    Poke(kLeaf, 0x40000 | kAll);
    Poke(0x14000 + 4 * 8, 0x4000 | kAll);
    Poke(0x14000 + 16 * 8, 0x10000 | kAll);
    ASSERT_TRUE(vcpu(0).shadow()->SetPaging(Controls(), 0x1000).ok());
    ASSERT_TRUE(vcpu(1).shadow()->SetPaging(Controls(), 0x11000).ok());
  }
  static GuestControls Controls() { return FourLevelPaging(); }

  static constexpr uint64_t kLeaf = 0x4000 + 16 * 8;

  PagingOutcome Fault(VcpuId id, uint64_t gva, uint32_t error_code) {
    return vcpu(id).shadow()->HandlePageFault(Gva(gva), error_code).outcome;
  }
  // Returns the guest address of the frame that vCPU 0 has at gva 0x10000; 0 if it has none.
  uint64_t MappedGpa() {
    const auto found = vcpu(0).shadow()->impl().Look(Gva(0x10000));
    if (found.entry.kind(found.level) != EntryKind::kLeaf) return 0;
    for (uint64_t gpa = 0; gpa < MiB(4); gpa += kPageSize) {
      if (memory().Resolve(kRam + gpa, Access::Read())->hfn == found.entry.frame()) return gpa;
    }
    return 0;
  }
  bool IsWritable(VcpuId id, uint64_t gva) {
    const auto found = vcpu(id).shadow()->impl().Look(Gva(gva));
    return found.entry.kind(found.level) == EntryKind::kLeaf && found.entry.is_writable();
  }
};

TEST_F(ShadowRace, AnEntryThatIsWrittenWhileTheHostIsAskedIsWalkedAgain) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vm().InvalidateHostRange(kRam + 0x40000, kPageSize).ok());
  backend().resolve_at = kRam + 0x40000;
  backend().on_resolve = [this] {
    ASSERT_TRUE(vcpu(1)
                    .shadow()
                    ->EmulateWrite(Gpa(kLeaf), 8,
                                   [](std::byte* place) {
                                     const uint64_t entry = 0x50000 | kAll;
                                     std::memcpy(place, &entry, 8);
                                   })
                    .ok());
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x50000u);
}

// The host takes the memory of a table, one page.
TEST_F(ShadowRace, ATableWhoseMemoryGoesTakesItsLeavesWithIt) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vm().InvalidateHostRange(kRam + 0x4000, kPageSize).ok());
  EXPECT_EQ(MappedGpa(), 0u);
}

// The host has begun to take the page away, and not ended.
TEST_F(ShadowRace, APageThatIsBeingTakenAwayIsNotMapped) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vm().InvalidateHostRange(kRam + 0x40000, kPageSize).ok());
  backend().resolve_at = kRam + 0x40000;
  backend().on_resolve = [this] {
    ASSERT_TRUE(vm().BeginHostInvalidation(kRam + 0x40000, kPageSize).ok());
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kRetry);
  EXPECT_EQ(MappedGpa(), 0u);
  vm().EndHostInvalidation();
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x40000u);
}

// The host has taken the memory of the guest's table, and gives other memory in its place.
TEST_F(ShadowRace, AnEntryIsNotLookedForInMemoryThatTheHostHasTakenAway) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vm().InvalidateHostRange(kRam + 0x40000, kPageSize).ok());
  backend().resolve_at = kRam + 0x40000;
  backend().on_resolve = [this] {
    ASSERT_TRUE(vm().BeginHostInvalidation(kRam + 0x4000, kPageSize).ok());
    ASSERT_TRUE(memory().Discard(kRam + 0x4000, kPageSize).ok());
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kRetry);
  EXPECT_EQ(backend().on_resolve, nullptr);
  EXPECT_EQ(MappedGpa(), 0u) << "by what stood in the memory of before";
  vm().EndHostInvalidation();
  Poke(kLeaf, 0x50000 | kAll);
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x50000u);
}

// The shadow of the table is as before, but the way to it is gone.
TEST_F(ShadowRace, ATableThatIsUnlinkedAndLinkedAgainIsReachedAgain) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  for (const uint64_t link : {uint64_t{0}, 0x4000 | kAll}) {
    Poke(0x3000, link);
    ASSERT_TRUE(vcpu(1).shadow()->OnWritten(Gpa(0x3000), 8).ok());
    ASSERT_EQ(MappedGpa(), 0u);
  }
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x40000u);
}

// The write came before the shadow of its table was told.
TEST_F(ShadowRace, AnUpperEntryThatIsBeingWrittenDoesNotLeadToTheOldTable) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  Poke(0x3000, 0x5000 | kAll);
  Poke(0x5000 + 16 * 8, 0x60000 | kAll);
  Poke(0x5000 + 17 * 8, 0x63000 | kAll);
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(Fault(0, 0x11000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x60000u);
  Poke(0x3000, 0x4000 | kAll);
  ASSERT_TRUE(vcpu(1).shadow()->OnWritten(Gpa(0x3000), 8).ok());
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x40000u);
  const auto other = vcpu(0).shadow()->impl().Look(Gva(0x11000));
  EXPECT_FALSE(other.entry.is_present()) << "of the other table";
}

// The entry above the one that is to be set is replaced, where nothing is linked that the write
// could drop. Everything that a fault has to prepare is there, so that the first try is the one
// that counts.
TEST_F(ShadowRace, ATableThatIsReplacedWhileTheHostIsAskedIsNotLinked) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vcpu(1).shadow()->OnWritten(Gpa(0x3000), 8).ok());
  ASSERT_EQ(MappedGpa(), 0u);
  Poke(0x5000 + 16 * 8, 0x60000 | kAll);
  backend().resolve_at = kRam + 0x40000;
  backend().on_resolve = [this] {
    ASSERT_TRUE(vcpu(1)
                    .shadow()
                    ->EmulateWrite(Gpa(0x3000), 8,
                                   [](std::byte* place) {
                                     const uint64_t entry = 0x5000 | kAll;
                                     std::memcpy(place, &entry, 8);
                                   })
                    .ok());
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(backend().on_resolve, nullptr);
  EXPECT_EQ(MappedGpa(), 0x60000u);
}

// vCPU 1 has frame 4 in its TLB as writable when vCPU 0 begins to shadow it as a table.
TEST_F(ShadowRace, AWriteThroughAStaleTranslationIsSeenBeforeTheTableIsTrusted) {
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_TRUE(IsWritable(1, 0x4000));
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  bool kicked = false;
  backend().on_kick = [&] {
    kicked = true;
    Poke(kLeaf, 0x50000 | kAll);
    in_guest.reset();
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_TRUE(kicked);
  EXPECT_EQ(MappedGpa(), 0x50000u);
  EXPECT_FALSE(IsWritable(1, 0x4000));
}

// An upper table must be trusted before anything is linked from it: vCPU 1 can write to frame 3.
TEST_F(ShadowRace, NothingIsLinkedFromATableBeforeItIsTrusted) {
  Poke(0x14000 + 5 * 8, 0x3000 | kAll);
  Poke(0x5000 + 16 * 8, 0x60000 | kAll);
  // Everything that has to be prepared is there now, and a write that fits no entry drops the page
  // of frame 3 again.
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_TRUE(vcpu(1).shadow()->OnWritten(Gpa(0x3006), 4).ok());
  ASSERT_EQ(Fault(1, 0x5000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_TRUE(IsWritable(1, 0x5000));
  EXPECT_TRUE(KicksVcpu1([this] { EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed); },
                         [this] { Poke(0x3000, 0x5000 | kAll); }));
  EXPECT_EQ(MappedGpa(), 0x60000u);
}

// Every flush so far is settled already. Only the next one makes the table trusted.
TEST_F(ShadowRace, AFlushThatWasSettledBeforeDoesNotMakeATableTrusted) {
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x10000, 0), PagingOutcome::kFixed);
  const uint64_t before = vm().Stats().flush_generation;
  ASSERT_TRUE(vcpu(1).shadow()->OnWritten(Gpa(0x14000 + 16 * 8), 8).ok());
  ASSERT_GT(vm().Stats().flush_generation, before);
  ASSERT_TRUE(IsWritable(1, 0x4000));
  EXPECT_TRUE(KicksVcpu1([this] { EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed); },
                         [this] { Poke(kLeaf, 0x50000 | kAll); }));
  EXPECT_EQ(MappedGpa(), 0x50000u);
}

// Without CR0.WP a supervisor's write gives the leaf W and takes U; a user's access turns it round.
TEST_F(ShadowRace, ALeafThatLosesWInPlaceIsFlushed) {
  GuestControls guest = Controls();
  guest.cr0 &= ~guest::kCr0WriteProtect;
  Poke(kLeaf, 0x40000 | (kAll & ~guest::kWrite));
  for (const int i : {0, 1}) {
    ASSERT_TRUE(vcpu(i).shadow()->SetPaging(guest, 0x1000).ok());
  }
  ASSERT_EQ(Fault(1, 0x10000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_TRUE(IsWritable(0, 0x10000));
  EXPECT_TRUE(KicksVcpu1(
      [this] { EXPECT_EQ(Fault(0, 0x10000, guest::kFaultUser), PagingOutcome::kFixed); }, [] {}));
  EXPECT_FALSE(IsWritable(0, 0x10000));
}

// The guest takes W from an entry, and the shadow follows in place.
TEST_F(ShadowRace, ALeafThatASyncNarrowsIsFlushed) {
  ASSERT_EQ(Fault(0, 0x10000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_TRUE(IsWritable(0, 0x10000));
  Poke(kLeaf, 0x40000 | (kAll & ~guest::kWrite));
  EXPECT_TRUE(
      KicksVcpu1([this] { EXPECT_TRUE(vcpu(0).shadow()->Invlpg(Gva(0x10000)).ok()); }, [] {}));
  EXPECT_EQ(MappedGpa(), 0x40000u) << "it stayed";
  EXPECT_FALSE(IsWritable(0, 0x10000));
}

// A take of the dirty log has taken W from the table's frame, and waits for vCPU 1 just now.
TEST_F(ShadowRace, ATableWhoseWriteRightALogIsTakingIsNotTrustedEither) {
  ASSERT_TRUE(
      vm().SetMemoryRegion({.flags = kSlotLogDirtyPages, .size = MiB(4), .hva = kRam}).ok());
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  bool kicked = false;
  backend().on_kick = [&] {
    ASSERT_FALSE(IsWritable(1, 0x4000)) << "it is the take's";
    backend().on_kick = [&] {
      kicked = true;
      Poke(kLeaf, 0x50000 | kAll);
      in_guest.reset();
    };
    EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
    in_guest.reset();
  };
  ASSERT_TRUE(vm().TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok());
  EXPECT_TRUE(kicked);
  EXPECT_EQ(MappedGpa(), 0x50000u);
}

// vCPU 0 flushes while vCPU 1 still writes the table that is out of sync.
TEST_F(ShadowRace, AResyncReadsTheTableWhenNobodyCanWriteItAnyMore) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  ASSERT_EQ(vm().Stats().shadow.mmu_unsync, 1u);
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  backend().on_kick = [&] {
    Poke(kLeaf, 0x50000 | kAll);
    in_guest.reset();
  };
  ASSERT_TRUE(vcpu(0).shadow()->WriteCr3(0x1000).ok());
  EXPECT_FALSE(in_guest.has_value());
  EXPECT_EQ(vm().Stats().shadow.mmu_unsync, 0u);
  EXPECT_EQ(MappedGpa(), 0u);
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_EQ(MappedGpa(), 0x50000u);
}

// Between the two halves of vCPU 0's flush vCPU 1 writes the table again, with a fault.
TEST_F(ShadowRace, ATableThatIsWrittenDuringAResyncStaysUnsync) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  backend().on_kick = [&] {
    Poke(kLeaf, 0x50000 | kAll);
    in_guest.reset();
    ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  };
  ASSERT_TRUE(vcpu(0).shadow()->WriteCr3(0x1000).ok());
  EXPECT_EQ(vm().Stats().shadow.mmu_unsync, 1u);
  EXPECT_TRUE(IsWritable(1, 0x4000));
  EXPECT_EQ(MappedGpa(), 0u) << "what was written before the flush counts";
}

// Between the two halves of vCPU 0's flush vCPU 1 reads the table.
TEST_F(ShadowRace, ATableThatIsReadDuringAResyncGetsNoW) {
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  backend().on_kick = [&] {
    in_guest.reset();
    EXPECT_LE(Fault(1, 0x4000, 0), PagingOutcome::kSpurious);
    EXPECT_FALSE(IsWritable(1, 0x4000));
  };
  ASSERT_TRUE(vcpu(0).shadow()->WriteCr3(0x1000).ok());
  EXPECT_EQ(vm().Stats().shadow.mmu_unsync, 0u);
  EXPECT_FALSE(IsWritable(1, 0x4000));
}

// vCPU 0 has taken W and waits for vCPU 1, which writes the table yet, when a third vCPU flushes.
TEST_F(ShadowRace, AResyncBesideAnotherWaitsForThoseThatTheOtherWaitsFor) {
  const std::unique_ptr<Vcpu> third = *vm().CreateVcpu();
  ASSERT_TRUE(third->shadow()->SetPaging(Controls(), 0x1000).ok());
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  ASSERT_EQ(Fault(1, 0x4000, guest::kFaultWrite), PagingOutcome::kFixed);
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  bool waited = false;
  backend().on_kick = [&] {
    backend().on_kick = [&] {
      waited = true;
      Poke(kLeaf, 0x50000 | kAll);
      in_guest.reset();
    };
    ASSERT_TRUE(third->shadow()->WriteCr3(0x1000).ok());
    in_guest.reset();
  };
  ASSERT_TRUE(vcpu(0).shadow()->WriteCr3(0x1000).ok());
  EXPECT_TRUE(waited);
  EXPECT_EQ(MappedGpa(), 0u) << "by what stood there before the write";
}

// vCPU 0 has dropped an entry, and vCPU 1 still has it: a write of the same bytes must wait for
// that one though nothing is left to be dropped. The first write drops the entry, or the whole
// page.
TEST_F(ShadowRace, AWriteBesideAnUnsettledOneOfTheSameBytesWaitsToo) {
  const std::unique_ptr<Vcpu> third = *vm().CreateVcpu();
  for (const bool zaps : {false, true}) {
    SCOPED_TRACE(zaps);
    const Gpa at(0x14000 + 16 * 8 + (zaps ? 6 : 0));
    const ByteCount size = zaps ? 4 : 8;
    ASSERT_EQ(Fault(1, 0x10000, 0), PagingOutcome::kFixed);
    std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
    bool waited = false;
    backend().on_kick = [&] {
      backend().on_kick = [&] {
        waited = true;
        in_guest.reset();
      };
      EXPECT_TRUE(third->shadow()->OnWritten(at, size).ok());
      in_guest.reset();
    };
    ASSERT_TRUE(vcpu(0).shadow()->OnWritten(at, size).ok());
    EXPECT_TRUE(waited);
    backend().on_kick = nullptr;
  }
}

// The slot behind the page is being moved, and the move waits for vCPU 1.
TEST_F(ShadowRace, AnAccessToASlotThatIsMovingIsTriedAgain) {
  ASSERT_TRUE(memory().Map(Hva(0x7e0000000000), MiB(2)).ok());
  MemoryRegion region = {.slot = 1, .gpa = Gpa(MiB(8)), .size = MiB(2), .hva = Hva(0x7e0000000000)};
  ASSERT_TRUE(vm().SetMemoryRegion(region).ok());
  Poke(kLeaf, MiB(8) | kAll);
  ASSERT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  region.gpa = Gpa(MiB(16));
  PagingOutcome outcome = PagingOutcome::kError;
  EXPECT_TRUE(KicksVcpu1([&] { EXPECT_TRUE(vm().SetMemoryRegion(region).ok()); },
                         [&] { outcome = Fault(0, 0x10000, 0); }));
  EXPECT_EQ(outcome, PagingOutcome::kRetry);
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kMmio);
}

// Both address spaces show the table. vCPU 1 runs on it in the second.
TEST(ShadowSpacesRace, WhatIsWrittenIsFollowedInEveryAddressSpace) {
  SimWorld world({.vm = {.paging = Paging::kShadow, .address_spaces = 2}, .vcpus = 2});
  ASSERT_TRUE(world.SetRam(MiB(4)).ok());
  ASSERT_TRUE(
      world.vm().SetMemoryRegion({.address_space = 1, .size = MiB(4), .hva = SimWorld::kRam}).ok());
  for (uint64_t table : {1, 2, 3}) world.Poke(Gpa(table << 12), (table + 1) << 12 | kAll);
  world.Poke(Gpa(0x4000 + 16 * 8), 0x40000 | kAll);
  ASSERT_TRUE(world.vcpu(1).SetAddressSpace(1).ok());
  ShadowVcpu& shadow = *world.vcpu(1).shadow();
  ASSERT_TRUE(shadow.SetPaging(FourLevelPaging(), 0x1000).ok());
  ASSERT_EQ(shadow.HandlePageFault(Gva(0x10000), 0).outcome, PagingOutcome::kFixed);
  ASSERT_TRUE(world.vcpu(0).shadow()->OnWritten(Gpa(0x4000 + 16 * 8), 8).ok());
  EXPECT_FALSE(shadow.impl().Look(Gva(0x10000)).entry.is_present());
}

// A fault has dropped an entry, and a CPU still has it: an invalidation of its page must wait for
// that CPU though no entry shows the page any more.
TEST_F(ShadowRace, AnInvalidationBesideAnUnsettledDropFlushesToo) {
  ASSERT_EQ(Fault(1, 0x10000, 0), PagingOutcome::kFixed);  // frame 16
  std::optional<GuestEntry> in_guest = vcpu(1).EnterGuest();
  std::atomic<bool> dropped{false};
  backend().on_kick = [&dropped] { dropped.store(true); };
  std::thread write(
      [this] { EXPECT_TRUE(vcpu(0).shadow()->OnWritten(Gpa(0x14000 + 16 * 8), 8).ok()); });
  while (!dropped.load()) std::this_thread::yield();  // it waits for vCPU 1
  std::atomic<bool> waits{false};
  backend().on_kick = [&waits] { waits.store(true); };
  std::atomic<bool> done{false};
  std::thread invalidation([&] {
    EXPECT_TRUE(vm().InvalidateHostRange(kRam + 0x10000, kPageSize).ok());
    done.store(true);
  });
  while (!waits.load() && !done.load()) std::this_thread::yield();
  EXPECT_FALSE(done.load());
  in_guest.reset();
  write.join();
  invalidation.join();
}

// A fault can neither use nor zap tables that another thread has zapped and not settled: they are
// on their way back.
TEST_F(ShadowRace, AFaultAtTheQuotaTakesTheTablesThatAnotherThreadHasNotSettled) {
  ASSERT_TRUE(vm().SetTableQuota(64).ok());
  std::vector<PendingFlush> unsettled;
  for (int i = 0; i < 100; ++i) {
    const PagingFaultResult result = vcpu(0).shadow()->HandlePageFault(Gva(0x10000), 0);
    ASSERT_EQ(result.outcome, PagingOutcome::kFixed) << i << ": " << result.status;
    unsettled.push_back(*vm().ZapAll());
  }
  for (PendingFlush& flush : unsettled) flush.Settle();
}

// The host begins to take another page of the same large one away while it is asked for this one.
// The leaf that is installed must leave that one out: its invalidation has looked already.
class ShadowOrder : public SimTest, public testing::WithParamInterface<bool> {
 protected:
  // The guest maps the host's page of 2 MiB by 4 KiB pages, or by a large one.
  bool is_large() const { return GetParam(); }
};

TEST_P(ShadowOrder, APageThatIsBeingTakenAwayIsNotMappedWithItsNeighbour) {
  constexpr Hva kPages = kRam + MiB(2);
  Start({.paging = Paging::kShadow});
  ASSERT_TRUE(world_->SetRam(MiB(4), 9).ok());
  Poke(0x1000, 0x2000 | kAll);
  Poke(0x2000, 0x3000 | kAll);
  Poke(0x3000, is_large() ? MiB(2) | kAll | guest::kLargePage : 0x4000 | kAll);
  for (uint64_t i = 0; i < 8; ++i) Poke(0x4000 + i * 8, (MiB(2) + i * kPageSize) | kAll);
  ASSERT_TRUE(vcpu().shadow()->SetPaging(FourLevelPaging(), 0x1000).ok());
  backend().resolve_at = kPages;
  backend().on_resolve = [&] {
    ASSERT_TRUE(vm().BeginHostInvalidation(kPages + kPageSize, kPageSize).ok());
  };
  const PagingFaultResult result = vcpu().shadow()->HandlePageFault(Gva(0), 0);
  EXPECT_EQ(result.outcome, PagingOutcome::kFixed);
  EXPECT_EQ(result.level, kLevel4K);
  EXPECT_TRUE(vcpu().shadow()->impl().Look(Gva(0)).entry.is_present());
  EXPECT_FALSE(vcpu().shadow()->impl().Look(Gva(kPageSize)).entry.is_present());
  vm().EndHostInvalidation();
}
INSTANTIATE_TEST_SUITE_P(Of, ShadowOrder, testing::Bool());

// A neighbour of 4 KiB, which the host was asked for by itself, is left out in the same way.
TEST_F(ShadowRace, ANeighbourThatIsBeingTakenAwayIsNotMappedWithItsPage) {
  for (uint64_t i = 0; i < 8; ++i) Poke(kLeaf + i * 8, (0x40000 + i * kPageSize) | kAll);
  Poke(0x4000 + 64 * 8, 0x80000 | kAll);
  ASSERT_EQ(Fault(0, 0x40000, 0), PagingOutcome::kFixed);  // makes the page of the table
  backend().resolve_at = kRam + 0x40000;
  backend().on_resolve = [&] {
    ASSERT_TRUE(vm().BeginHostInvalidation(kRam + 0x41000, kPageSize).ok());
  };
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_TRUE(vcpu(0).shadow()->impl().Look(Gva(0x10000)).entry.is_present());
  EXPECT_FALSE(vcpu(0).shadow()->impl().Look(Gva(0x11000)).entry.is_present());
  vm().EndHostInvalidation();
  ASSERT_TRUE(vm().InvalidateHostRange(kRam + 0x40000, kPageSize).ok());
  backend().on_resolve = nullptr;
  EXPECT_EQ(Fault(0, 0x10000, 0), PagingOutcome::kFixed);
  EXPECT_TRUE(vcpu(0).shadow()->impl().Look(Gva(0x11000)).entry.is_present());
}

}  // namespace
}  // namespace tdp
