// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The CPU caches rights here: those of an upper entry are the AND from the root down to it, and a
// CPU may fault by them after the tables have given more.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/backends/sim/cpu.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGva = 0x40000000;
constexpr uint64_t kGpa = MiB(64);
constexpr uint64_t kHpa = MiB(512);
constexpr uint64_t kOther = kGva + kPageSize;  // in the same table

class TwoPages {
 public:
  explicit TwoPages(const CpuConfig& config) : world_(config) {
    for (const uint64_t page : {uint64_t{0}, kPageSize}) {
      world_.MapEpt(kGpa + page, kHpa + page);
      leaves_[page / kPageSize] = world_.MapGuest(kGva + page, kGpa + page);
    }
    world_.Enter();
  }

  World& world() { return world_; }
  uint64_t leaf(int page) const { return leaves_[page]; }
  AccessResult Touch(uint64_t gva, AccessKind kind = AccessKind::kLoad, bool user = false) {
    const Accessor accessor = user ? Accessor::kUser : Accessor::kSupervisor;
    return world_.cpu().Access({.gva = gva, .kind = kind, .accessor = accessor});
  }
  // Says in words what an access comes to.
  std::string Outcome(uint64_t gva, AccessKind kind, bool user) {
    const AccessResult result = Touch(gva, kind, user);
    const Exit& exit = world_.cpu().exit();
    switch (result.event) {
      case Event::kNone:
        return absl::StrFormat("memory 0x%x", result.hpa.raw());
      case Event::kPageFault:
        return absl::StrFormat("page fault %d", exit.error_code);
      case Event::kEptViolation:
        return absl::StrFormat("violation 0x%x", exit.qualification.raw());
      default:
        return "something else";
    }
  }

 private:
  World world_;
  uint64_t leaves_[2];
};

CpuConfig WithPolicy(CachePolicy policy) {
  CpuConfig config;
  config.policy = policy;
  return config;
}

// The parameters are the level of the entry whose rights a test turns, and how long the CPU keeps
// translations.
class UpperRights : public testing::TestWithParam<std::tuple<int, CachePolicy>> {};

TEST_P(UpperRights, OfTheGuestsEntriesCombineDownToTheCachedOne) {
  const auto [level, policy] = GetParam();
  for (const uint64_t bits : {kGuestWrite, kGuestUser, kGuestNoExecute}) {
    for (const auto kind : {AccessKind::kLoad, AccessKind::kStore, AccessKind::kFetch}) {
      for (const bool user : {false, true}) {
        TwoPages cached(WithPolicy(policy));
        TwoPages plain(NoCaches());
        for (TwoPages* pages : {&cached, &plain}) {
          World& world = pages->world();
          const uint64_t entry = world.GuestEntryAt(kGva, level);
          world.Store(entry, world.Load(entry) ^ bits);
          ASSERT_TRUE(pages->Touch(kGva).ok());
        }
        EXPECT_EQ(cached.Outcome(kOther, kind, user), plain.Outcome(kOther, kind, user))
            << "bits 0x" << std::hex << bits << " kind " << static_cast<int>(kind) << user;
        EXPECT_GT(cached.world().cpu().counters().guest_cache_hits, 0u);
      }
    }
  }
}

TEST_P(UpperRights, OfTheEptsEntriesCombineDownToTheCachedOne) {
  const auto [level, policy] = GetParam();
  for (const uint64_t bits : {ept::kWrite, ept::kExecute}) {
    for (const auto kind : {AccessKind::kLoad, AccessKind::kStore, AccessKind::kFetch}) {
      TwoPages cached(WithPolicy(policy));
      TwoPages plain(NoCaches());
      for (TwoPages* pages : {&cached, &plain}) {
        World& world = pages->world();
        const uint64_t entry = world.EptEntryAt(kGpa, level);
        world.Store(entry, world.Load(entry) & ~bits);
        ASSERT_TRUE(pages->Touch(kGva).ok());
      }
      EXPECT_EQ(cached.Outcome(kOther, kind, false), plain.Outcome(kOther, kind, false))
          << "bits 0x" << std::hex << bits << " kind " << static_cast<int>(kind);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, UpperRights,
                         testing::Combine(testing::Values(2, 3, 4),
                                          testing::Values(CachePolicy::kRealistic,
                                                          CachePolicy::kAdversarial)));

// The worst CPU faults once by what it has cached, and then sees what the tables say. Others look
// at the tables at once.
TEST(CachedRights, OfTheGuestAreFaultedByUnderTheAdversarialPolicyAlone) {
  struct Case {
    uint64_t before;
    AccessKind kind;
    bool user;
    uint32_t error_code;
  };
  for (const Case& c : {Case{kGuestLeaf & ~kGuestWrite, AccessKind::kStore, false, 3},
                        Case{kGuestLeaf & ~kGuestUser, AccessKind::kLoad, true, 5},
                        Case{kGuestLeaf | kGuestNoExecute, AccessKind::kFetch, false, 0x11}}) {
    for (const auto policy : {CachePolicy::kRealistic, CachePolicy::kAdversarial}) {
      TwoPages pages(WithPolicy(policy));
      pages.world().Store(pages.leaf(0), kGpa | c.before);
      ASSERT_TRUE(pages.Touch(kGva).ok());
      pages.world().Store(pages.leaf(0), kGpa | kGuestLeaf);
      if (policy == CachePolicy::kAdversarial) {
        ASSERT_EQ(pages.Touch(kGva, c.kind, c.user).event, Event::kPageFault);
        EXPECT_EQ(pages.world().cpu().exit().error_code, c.error_code);
      }
      EXPECT_TRUE(pages.Touch(kGva, c.kind, c.user).ok());
    }
  }
}

TEST(CachedRights, OfEverySizeAndOfGlobalPagesAreFaultedByOnce) {
  for (const int level : {1, 2, 3}) {
    for (const uint64_t global : {uint64_t{0}, kGuestGlobal}) {
      World world(WithPolicy(CachePolicy::kAdversarial));
      world.MapEpt(GiB(2), GiB(8), level);
      const uint64_t entry =
          world.MapGuest(GiB(3), GiB(2), level, (kGuestLeaf & ~kGuestWrite) | global);
      world.ChangeRegisters([](Registers& r) { r.cr4 |= kCr4Pge; });
      world.Enter();
      ASSERT_TRUE(world.cpu().Access(Gva(GiB(3)), AccessKind::kLoad).ok());
      world.Store(entry, world.Load(entry) | kGuestWrite);
      EXPECT_EQ(world.cpu().Access(Gva(GiB(3)), AccessKind::kStore).event, Event::kPageFault);
      EXPECT_TRUE(world.cpu().Access(Gva(GiB(3)), AccessKind::kStore).ok()) << level << global;
    }
  }
}

TEST(CachedRights, OfEverySizeInTheEptAreFaultedByOnce) {
  for (const int level : {1, 2, 3}) {
    World world(WithPolicy(CachePolicy::kAdversarial));
    const uint64_t leaf = world.MapEpt(GiB(2), GiB(8), level, ept::kRead | kWriteBack);
    world.Enter();
    ASSERT_TRUE(world.cpu().AccessGpa(Gpa(GiB(2)), AccessKind::kLoad).ok());
    world.Store(leaf, world.Load(leaf) | ept::kWrite);
    const auto store = [&] { return world.cpu().AccessGpa(Gpa(GiB(2)), AccessKind::kStore).event; };
    EXPECT_EQ(store(), Event::kEptViolation) << level;
    EXPECT_EQ(store(), Event::kNone) << level;
  }
}

// The hypervisor puts another table above the page beside one that was touched.
TEST(CachedRights, AnEndedWalkDropsTheUpperEntriesThatLedToIt) {
  for (const uint64_t old_leaf : {uint64_t{0}, kHpa | ept::kWrite}) {
    World world;
    world.MapEpt(kGpa, kHpa);
    world.Store(world.EptEntryAt(kGpa + kPageSize, 1), old_leaf);
    world.Enter();
    ASSERT_TRUE(world.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).ok());
    const uint64_t table = world.NewFrame();
    world.Store(table + 8, kHpa | kRwx | kWriteBack);
    world.Store(world.EptEntryAt(kGpa, 2), table | kRwx);
    const Gpa beside(kGpa + kPageSize);
    EXPECT_EQ(world.cpu().AccessGpa(beside, AccessKind::kLoad).event,
              old_leaf == 0 ? Event::kEptViolation : Event::kEptMisconfiguration);
    EXPECT_TRUE(world.cpu().AccessGpa(beside, AccessKind::kLoad).ok());
  }
}

TEST(CachedRights, OfTheEptAreFaultedByUnderTheAdversarialPolicyAlone) {
  for (const auto& [bits, kind] :
       {std::pair{ept::kWrite, AccessKind::kStore}, std::pair{ept::kExecute, AccessKind::kFetch}}) {
    for (const auto policy : {CachePolicy::kRealistic, CachePolicy::kAdversarial}) {
      TwoPages pages(WithPolicy(policy));
      World& world = pages.world();
      const uint64_t entry = world.EptEntryAt(kGpa, 1);
      const uint64_t all = world.Load(entry);
      world.Store(entry, all & ~bits);
      ASSERT_TRUE(pages.Touch(kGva).ok());
      world.Store(entry, all);
      if (policy == CachePolicy::kAdversarial) {
        EXPECT_EQ(pages.Touch(kGva, kind).event, Event::kEptViolation);
      }
      EXPECT_TRUE(pages.Touch(kGva, kind).ok());
    }
  }
}

}  // namespace
}  // namespace tdp::sim
