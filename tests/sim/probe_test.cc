// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <set>

#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGpa = MiB(64);
constexpr uint64_t kHpa = MiB(512);

class FramesOf : public TableFrames {
 public:
  explicit FramesOf(std::set<uint64_t> frames) : frames_(std::move(frames)) {}
  bool IsTable(Hpa frame) const override { return frames_.contains(frame.raw()); }
  std::set<uint64_t> frames_;
};

TEST(Probe, SaysWhatTheTablesSayOfAnAddress) {
  World world;
  world.MapEpt(kGpa, kHpa, 2, kRwx & ~ept::kWrite);
  world.Enter();
  const ProbeResult found = world.cpu().Probe(Gpa(kGpa + 0x12345));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found.hpa, Hpa(kHpa + 0x12345));
  EXPECT_EQ(found.rights, kRightRead | kRightExecute);
  EXPECT_EQ(found.memory_type, MemoryType::kUncacheable);
  EXPECT_EQ(found.level, 2);
  EXPECT_EQ(found.path.count, 3);
  EXPECT_EQ(found.path.steps[2].address, world.EptEntryAt(kGpa, 2));
}

TEST(Probe, TellsTheUsersExecuteRightUnderMbecAlone) {
  World world;
  world.MapEpt(kGpa, kHpa, 1, kRwx | ept::kUserExecute);
  world.Enter();
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa)).rights, kRightRead | kRightWrite | kRightExecute);
  Controls controls;
  controls.mbec = true;
  ASSERT_TRUE(world.cpu().SetControls(controls).ok());
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa)).rights, 15u);
}

TEST(Probe, SaysWhereAWalkEndsAndWhy) {
  World world;
  const uint64_t leaf = world.MapEpt(kGpa, kHpa);
  world.Enter();
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa + kPageSize)).event, Event::kEptViolation);
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa + kPageSize)).level, 1);
  EXPECT_EQ(world.cpu().Probe(Gpa(uint64_t{1} << 48)).event, Event::kEptViolation);
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa | uint64_t{1} << 48)).event, Event::kEptViolation);
  world.Store(leaf, kHpa | ept::kWrite);
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa)).event, Event::kEptMisconfiguration);
}

TEST(Probe, SetsCountsAndKeepsNothing) {
  World world;
  const uint64_t leaf = world.MapEpt(kGpa, kHpa);
  world.Enter(true);
  const uint64_t before = world.Load(leaf);
  const CpuCounters counters = world.cpu().counters();
  EXPECT_TRUE(world.cpu().Probe(Gpa(kGpa)).ok());
  EXPECT_FALSE(world.cpu().Probe(Gpa(kGpa + kPageSize)).ok());
  EXPECT_EQ(world.Load(leaf), before) << "A is set";
  EXPECT_EQ(world.cpu().exit().event, Event::kNone);
  EXPECT_EQ(world.cpu().counters().events, counters.events);
  // Had the probe been kept, the change would not show.
  world.Store(leaf, 0);
  EXPECT_EQ(world.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).event, Event::kEptViolation);
}

TEST(Probe, IgnoresWhatTheCpuKeeps) {
  World world;
  const uint64_t leaf = world.MapEpt(kGpa, kHpa);
  world.Enter();
  EXPECT_TRUE(world.cpu().AccessIdentity(Gpa(kGpa), AccessKind::kLoad).ok());
  world.Store(leaf, 0);
  EXPECT_TRUE(world.cpu().AccessIdentity(Gpa(kGpa), AccessKind::kLoad).ok()) << "it was kept";
  EXPECT_FALSE(world.cpu().Probe(Gpa(kGpa)).ok());
}

TEST(Probe, WalksGuestTablesThatCr3PointsToWithoutEpt) {
  World world;
  world.Enter();
  world.MapGuest(0x400000, 0x600000, 2, kGuestLeaf | kGuestNoExecute);
  // Guest memory lies behind EPT in this world; without it CR3 is host-physical.
  Registers r = world.cpu().registers();
  r.cr3 = World::HpaOfGuest(r.cr3);
  Controls controls = world.cpu().controls();
  controls.ept = false;
  ASSERT_TRUE(world.cpu().SetControls(controls).ok());
  for (int level = 4; level > 2; --level) {
    const uint64_t place = world.GuestEntryAt(0x400000, level);
    world.Store(place, World::HpaOfGuest(world.Load(place) & ept::kAddressMask) | kGuestTable);
    if (level == 4) {
      // The next table is found through the changed entry from now on.
      const uint64_t next = (world.Load(place) & ept::kAddressMask);
      world.Store(next, World::HpaOfGuest(world.Load(next) & ept::kAddressMask) | kGuestTable);
      break;
    }
  }
  world.cpu().SetRegisters(r);
  const ProbeResult found = world.cpu().ProbeLinear(Gva(0x400123));
  ASSERT_TRUE(found.ok()) << EventName(found.event);
  EXPECT_EQ(found.hpa, Hpa(0x600123));
  EXPECT_EQ(found.rights, kRightRead | kRightWrite);
  EXPECT_TRUE(found.user);
  EXPECT_EQ(found.level, 2);
  EXPECT_EQ(world.cpu().ProbeLinear(Gva(0x8000000)).event, Event::kPageFault);
  EXPECT_EQ(world.cpu().ProbeLinear(Gva(uint64_t{1} << 50)).event, Event::kGeneralProtection);
}

TEST(TableFramesRule, AWalkOfWhatIsNoTableIsAnEventOfItsOwn) {
  World world;
  world.MapEpt(kGpa, kHpa);
  FramesOf frames({world.eptp().root().raw()});
  for (int level = 4; level > 2; --level) {
    frames.frames_.insert(world.Load(world.EptEntryAt(kGpa, level)) & ept::kAddressMask);
  }
  world.cpu().SetTableFrames(&frames);
  world.Enter();
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa)).event, Event::kWalkedNoTable);
  EXPECT_EQ(world.cpu().Probe(Gpa(kGpa)).level, 1);
  EXPECT_EQ(world.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).event, Event::kWalkedNoTable);
  EXPECT_EQ(world.cpu().exit().gpa, Gpa(kGpa));
  frames.frames_.insert(world.Load(world.EptEntryAt(kGpa, 2)) & ept::kAddressMask);
  EXPECT_TRUE(world.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).ok());
}

TEST(PhysicalMemoryWindow, MayBeginAtAnyAddress) {
  alignas(4096) static std::byte bytes[2 * kPageSize];
  const PhysicalMemory memory(bytes, sizeof bytes, nullptr, Hpa(GiB(300)));
  memory.Store<uint64_t>(GiB(300) + 8, 42);
  EXPECT_EQ(memory.Load(GiB(300) + 8), 42u);
  EXPECT_EQ(bytes[8], std::byte{42});
  EXPECT_TRUE(memory.IsInside(GiB(300) + sizeof bytes - 1));
  EXPECT_FALSE(memory.IsInside(GiB(300) + sizeof bytes));
  EXPECT_FALSE(memory.IsInside(GiB(300) - 1));
  EXPECT_EQ(memory.Load(8), ~uint64_t{0}) << "below the window";
  EXPECT_EQ(memory.Load(GiB(301)), ~uint64_t{0});
}

// --- the built-in guest ---

TEST(IdentityGuest, KeepsCombinedMappingsThatEitherInstructionDrops) {
  for (const bool by_invvpid : {false, true}) {
    World world;
    const uint64_t leaf = world.MapEpt(GiB(600), kHpa);
    world.Enter();
    const auto touch = [&] {
      return world.cpu().AccessIdentity(Gpa(GiB(600) + 8), AccessKind::kStore, 8);
    };
    ASSERT_TRUE(touch().ok());
    EXPECT_EQ(touch().hpa, Hpa(kHpa + 8));
    world.Store(leaf, 0);
    EXPECT_TRUE(touch().ok());
    if (by_invvpid) {
      // It drops combined mappings, but not the guest-physical ones behind them.
      EXPECT_TRUE(world.cpu().Invvpid(1, world.cpu().controls().vpid));
      EXPECT_TRUE(touch().ok());
    }
    EXPECT_TRUE(world.cpu().InveptSingle(world.eptp()));
    EXPECT_EQ(touch().event, Event::kEptViolation);
  }
}

// --- instructions ---

TEST(Invept, FailsWithItsReason) {
  World world;
  const uint64_t eptp = world.eptp().raw();
  EXPECT_EQ(world.cpu().Invept(1, eptp), VmFail::kOk);
  EXPECT_EQ(world.cpu().Invept(2, 0), VmFail::kOk);
  EXPECT_EQ(world.cpu().Invept(0, eptp), VmFail::kType);
  EXPECT_EQ(world.cpu().Invept(3, eptp), VmFail::kType);
  EXPECT_EQ(world.cpu().Invept(1, eptp & ~uint64_t{0xfff}), VmFail::kEptp);
  EXPECT_EQ(world.cpu().Invept(1, eptp, 1), VmFail::kReserved);
  EXPECT_EQ(world.cpu().Invept(2, 0, 1), VmFail::kReserved);
  CpuFeatures without = world.cpu().features();
  without.ept = without.ept.Without(ept::kCapInveptSingle);
  world.cpu().SetFeatures(without);
  EXPECT_EQ(world.cpu().Invept(1, eptp), VmFail::kType);
}

TEST(Invept, OfAllContextsDropsGuestPhysicalTranslations) {
  World world({.caches = *CachePreset("nested")});
  const uint64_t leaf = world.MapEpt(kGpa, kHpa);
  world.Enter();
  const auto touch = [&] { return world.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).hpa; };
  ASSERT_EQ(touch(), Hpa(kHpa));
  world.Store(leaf, (kHpa + kPageSize) | kRwx | kWriteBack);
  EXPECT_EQ(touch(), Hpa(kHpa)) << "it is kept";
  ASSERT_TRUE(world.cpu().InveptAll());
  EXPECT_EQ(touch(), Hpa(kHpa + kPageSize));
}

TEST(Reset, DropsTranslationsCountersTheEventAndTheEptp) {
  World world({.caches = *CachePreset("judge")});
  const uint64_t leaf = world.MapEpt(kGpa, kHpa);
  world.Enter();
  EXPECT_TRUE(world.cpu().AccessIdentity(Gpa(kGpa), AccessKind::kLoad).ok());
  EXPECT_FALSE(world.cpu().AccessIdentity(Gpa(0), AccessKind::kLoad).ok());
  world.cpu().Kick();
  world.Store(leaf, (kHpa + kPageSize) | kRwx | kWriteBack);
  world.cpu().Reset();
  EXPECT_EQ(world.cpu().exit().event, Event::kNone);
  EXPECT_EQ(world.cpu().counters().walks, 0u);
  EXPECT_EQ(world.cpu().eptp(), Eptp());
  ASSERT_EQ(world.Enter(), Event::kNone) << "the kick is forgotten";
  EXPECT_EQ(world.cpu().AccessIdentity(Gpa(kGpa), AccessKind::kLoad).hpa, Hpa(kHpa + kPageSize));
}

}  // namespace
}  // namespace tdp::sim
