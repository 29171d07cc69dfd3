// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests look into the caches of the model: replacement, what each kind saves, and what a
// reference costs.

#include "tdp/backends/sim/assoc_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tdp/backends/sim/cache_presets.h"
#include "tdp/backends/sim/cost_model.h"
#include "tdp/backends/sim/memory_types.h"
#include "tdp/backends/sim/trace_record.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

// The model of each set is a list of tags, the newest first.
TEST(AssocCache, IsTrueLru) {
  for (const CacheGeometry geometry :
       {CacheGeometry{1, 1}, CacheGeometry{4, 3}, CacheGeometry{2, 12}, CacheGeometry{1, 16}}) {
    AssocCache<uint64_t, int> cache;
    cache.Configure(geometry);
    std::vector<std::list<uint64_t>> model(geometry.sets);
    std::mt19937_64 random(geometry.ways);
    for (int i = 0; i < 20000; ++i) {
      const uint64_t tag = 1 + random() % (3 * geometry.entries());
      std::list<uint64_t>& set = model[tag % geometry.sets];
      const bool expected = std::find(set.begin(), set.end(), tag) != set.end();
      const uint64_t* found = cache.Find(tag);
      ASSERT_EQ(found != nullptr, expected);
      set.remove(tag);
      if (random() % 16 == 0) {
        cache.Erase(tag);
        continue;
      }
      if (found == nullptr) found = cache.Insert(tag, tag * 3);
      ASSERT_EQ(*found, tag * 3);
      set.push_front(tag);
      if (set.size() > static_cast<size_t>(geometry.ways)) set.pop_back();
    }
    size_t live = 0;
    for (const auto& set : model) live += set.size();
    EXPECT_EQ(static_cast<size_t>(cache.live()), live);
    cache.Clear();
    EXPECT_EQ(cache.live(), 0);
  }
}

TEST(AssocCache, OfNoEntriesNeverHits) {
  AssocCache<uint64_t, int> cache;
  EXPECT_EQ(cache.Insert(5, 1), nullptr);
  EXPECT_EQ(cache.Find(5), nullptr);
}

TEST(CachePresets, AnUnknownNameListsTheKnownOnes) {
  const auto missing = CachePreset("haswell");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  for (const CacheConfig& preset : CachePresets()) {
    EXPECT_NE(missing.status().message().find(preset.name), std::string::npos);
    EXPECT_TRUE(CachePreset(preset.name).ok());
  }
}

// Counts the references of one walk of a page whose neighbours were walked before.
uint64_t WarmReferences(const char* preset) {
  CpuConfig config;
  config.caches = *CachePreset(preset);
  config.caches.tlb = {};
  World world(config);
  constexpr uint64_t kGva = 0x40000000;
  for (int page = 0; page < 8; ++page) {
    world.MapEpt(MiB(64) + page * kPageSize, MiB(512) + page * kPageSize);
    world.MapGuest(kGva + page * kPageSize, MiB(64) + page * kPageSize);
  }
  world.Enter();
  for (int page = 0; page < 7; ++page) {
    EXPECT_TRUE(world.cpu().Access(Gva(kGva + page * kPageSize), AccessKind::kLoad).ok());
  }
  world.cpu().ClearCounters();
  EXPECT_TRUE(world.cpu().Access(Gva(kGva + 7 * kPageSize), AccessKind::kLoad).ok());
  return world.cpu().counters().references.total();
}

TEST(CachePresets, EachSavesMoreThanTheOneBefore) {
  EXPECT_EQ(WarmReferences("none"), 24u);
  // The walk reads one guest entry from a known table, then one EPT entry below a known upper
  // entry.
  EXPECT_EQ(WarmReferences("psc"), 2u);
  EXPECT_EQ(WarmReferences("nested"), 2u) << "the final page itself was never seen";
}

TEST(CachePresets, ANestedTlbSavesTheEptWalkOfAKnownPage) {
  CpuConfig config;
  config.caches = *CachePreset("nested");
  config.caches.tlb = {};
  World world(config);
  world.MapEpt(MiB(64), MiB(512));
  world.MapGuest(0x40000000, MiB(64));
  world.Enter();
  world.cpu().Access(Gva(0x40000000), AccessKind::kLoad);
  world.cpu().ClearCounters();
  world.cpu().Access(Gva(0x40000000), AccessKind::kLoad);
  EXPECT_EQ(world.cpu().counters().references.total(), 1u);
  EXPECT_EQ(world.cpu().counters().nested_tlb_hits, 1u);
}

TEST(DataCacheModel, ChargesTheLevelThatHoldsTheLine) {
  DataCacheModel model({.levels = {{{2, 1}, 4}, {{4, 1}, 12}}, .memory_latency = 100});
  EXPECT_EQ(model.Access(0x1000), 100);
  EXPECT_EQ(model.Access(0x1038), 4) << "the same 64 bytes";
  EXPECT_EQ(model.Access(0x1080), 100) << "takes the nearest set's only way";
  EXPECT_EQ(model.Access(0x1000), 12) << "still in the second level";
  EXPECT_EQ(model.Access(0x1000), 4);
}

TEST(DataCacheModel, IsChargedForEveryReferenceOfAWalk) {
  World world(NoCaches());
  world.MapEpt(MiB(64), MiB(512));
  world.MapGuest(0x40000000, MiB(64));
  world.Enter();
  world.cpu().SetCostModel(*DataCachePreset("flat"));
  ASSERT_TRUE(world.cpu().Access(Gva(0x40000000), AccessKind::kLoad).ok());
  EXPECT_EQ(world.cpu().counters().walk_cycles, 24u);
  world.cpu().ClearCostModel();
  world.cpu().ClearCounters();
  ASSERT_TRUE(world.cpu().Access(Gva(0x40000000), AccessKind::kLoad).ok());
  EXPECT_EQ(world.cpu().counters().walk_cycles, 0u);
}

// This is the whole of SDM vol. 3A, table 13-7 ("Effective Page-Level Memory Types for Pentium III
// and More Recent Processor Families"), with the EPT's type in the MTRR's place.
TEST(MemoryTypes, CombineAsTheTableSays) {
  using enum MemoryType;
  constexpr auto UC = kUncacheable;
  constexpr auto WC = kWriteCombining;
  constexpr auto WT = kWriteThrough;
  constexpr auto WP = kWriteProtected;
  constexpr auto WB = kWriteBack;
  struct Row {
    MemoryType ept;
    std::array<MemoryType, 6> by_pat;
  };
  constexpr std::array<uint8_t, 6> kPats = {0, kPatUcMinus, 1, 4, 6, 5};
  //                      PAT: UC  UC- WC  WT  WB  WP
  for (const Row& row : {Row{UC, {UC, UC, WC, UC, UC, UC}}, Row{WC, {UC, WC, WC, UC, WC, UC}},
                         Row{WT, {UC, UC, WC, WT, WT, WP}}, Row{WB, {UC, UC, WC, WT, WB, WP}},
                         Row{WP, {UC, WC, WC, WT, WP, WP}}}) {
    for (size_t i = 0; i < kPats.size(); ++i) {
      EXPECT_EQ(CombineMemoryTypes(row.ept, false, kPats[i], false), row.by_pat[i])
          << static_cast<int>(row.ept) << " with PAT " << static_cast<int>(kPats[i]);
      EXPECT_EQ(CombineMemoryTypes(row.ept, true, kPats[i], false), row.ept) << "IPAT";
      EXPECT_EQ(CombineMemoryTypes(row.ept, false, kPats[i], true), UC) << "CR0.CD";
    }
  }
}

TEST(MemoryTypes, ReachTheResultOfAnAccess) {
  World world(NoCaches());
  world.MapEpt(MiB(64), MiB(512));
  // PWT chooses PAT entry 1: write-through after reset.
  world.MapGuest(0x40000000, MiB(64), 1, kGuestLeaf | 8);
  world.Enter();
  EXPECT_EQ(world.cpu().Access(Gva(0x40000000), AccessKind::kLoad).memory_type,
            MemoryType::kWriteThrough);
}

// A guest's large page over small EPT pages is cached in pieces (SDM vol. 3A, 5.10.4.1, on INVLPG).
TEST(Cpu, InvlpgOfALargePageDropsEveryPieceOfIt) {
  for (const PagingMode mode : {PagingMode::k32Bit, PagingMode::k4Level}) {
    World world({}, mode);
    const uint64_t large = mode == PagingMode::k32Bit ? MiB(4) : MiB(2);
    for (uint64_t gpa : {3 * large, 3 * large + 0x5000, 4 * large, 4 * large + 0x5000}) {
      world.MapEpt(gpa, World::kGuestMemory + gpa);
    }
    const uint64_t entry = world.MapGuest(large, 3 * large, 2);
    ASSERT_EQ(world.Enter(), Event::kNone);
    ASSERT_TRUE(world.cpu().Access(Gva(large), AccessKind::kLoad, 8).ok());
    ASSERT_TRUE(world.cpu().Access(Gva(large + 0x5000), AccessKind::kLoad, 8).ok());
    world.StoreGuest(entry, 4 * large | kGuestLeaf | kGuestLargePage);
    EXPECT_EQ(world.cpu().Access(Gva(large + 0x5000), AccessKind::kLoad, 8).hpa,
              Hpa(World::HpaOfGuest(3 * large + 0x5000)))
        << "it is kept";
    world.cpu().Invlpg(Gva(large));
    EXPECT_EQ(world.cpu().Access(Gva(large + 0x5000), AccessKind::kLoad, 8).hpa,
              Hpa(World::HpaOfGuest(4 * large + 0x5000)));
  }
}

// INVPCID and INVVPID of one address do so, too. INVVPID may name a guest that pages in another way
// than the one that runs now.
TEST(Cpu, InvpcidAndInvvpidOfALargePageDropEveryPieceOfIt) {
  for (const PagingMode mode : {PagingMode::k32Bit, PagingMode::k4Level}) {
    for (const bool is_invpcid : {true, false}) {
      World world({}, mode);
      const uint64_t large = mode == PagingMode::k32Bit ? MiB(4) : MiB(2);
      const uint64_t last = large - kPageSize;
      for (uint64_t gpa : {3 * large, 3 * large + last, 4 * large, 4 * large + last}) {
        world.MapEpt(gpa, World::kGuestMemory + gpa);
      }
      const uint64_t entry = world.MapGuest(large, 3 * large, 2);
      ASSERT_EQ(world.Enter(), Event::kNone);
      ASSERT_TRUE(world.cpu().Access(Gva(large), AccessKind::kLoad, 8).ok());
      ASSERT_TRUE(world.cpu().Access(Gva(large + last), AccessKind::kLoad, 8).ok());
      world.StoreGuest(entry, 4 * large | kGuestLeaf | kGuestLargePage);
      if (is_invpcid) {
        ASSERT_EQ(world.cpu().Invpcid(0, 0, Gva(large)), Event::kNone);
      } else {
        const Registers guest = world.cpu().registers();
        Controls other;
        other.vpid = 2;
        ASSERT_TRUE(world.cpu().SetControls(other).ok());
        world.SetMode(mode == PagingMode::k32Bit ? PagingMode::k4Level : PagingMode::kNone);
        ASSERT_TRUE(world.cpu().Invvpid(0, 1, Gva(large)));
        world.cpu().SetRegisters(guest);
        ASSERT_TRUE(world.cpu().SetControls({}).ok());
      }
      EXPECT_EQ(world.cpu().Access(Gva(large + last), AccessKind::kLoad, 8).hpa,
                Hpa(World::HpaOfGuest(4 * large + last)))
          << is_invpcid;
    }
  }
}

// --- the caches below the TLB: upper entries, and guest-physical translations

// Two neighbouring tables have two pages each, and there is no TLB.
class UpperEntries : public testing::TestWithParam<const char*> {
 protected:
  UpperEntries() : world_(ConfigOf(GetParam())) {
    for (const uint64_t page : kPages) {
      world_.MapEpt(MiB(64) + page, MiB(512) + page);
      world_.MapGuest(kGva + page, MiB(64) + page);
    }
    world_.Enter();
  }
  static CpuConfig ConfigOf(const char* preset) {
    CpuConfig config;
    config.policy = CachePolicy::kAdversarial;
    config.caches = *CachePreset(preset);
    config.caches.tlb = {};
    return config;
  }
  Event Touch(uint64_t page, AccessKind kind) {
    return world_.cpu().Access(Gva(kGva + page), kind).event;
  }

  static constexpr uint64_t kGva = 0x40000000;
  static constexpr uint64_t kPages[] = {0, kPageSize, MiB(2), MiB(2) + kPageSize};
  World world_;
};

TEST_P(UpperEntries, OfTheEptKeepTheRightsOfAllAboveThem) {
  const uint64_t above = world_.EptEntryAt(MiB(64), 3);
  world_.Store(above, world_.Load(above) & ~ept::kWrite);
  for (const uint64_t page : kPages) {
    EXPECT_EQ(Touch(page, AccessKind::kLoad), Event::kNone) << page;
    EXPECT_EQ(Touch(page, AccessKind::kStore), Event::kEptViolation) << page;
    EXPECT_EQ(Touch(page, AccessKind::kLoad), Event::kNone) << page;
  }
  for (const uint64_t page : {MiB(2) + kPageSize, kPageSize}) {
    EXPECT_EQ(Touch(page ^ kPageSize, AccessKind::kLoad), Event::kNone) << page;
    EXPECT_EQ(Touch(page, AccessKind::kStore), Event::kEptViolation) << page;
  }
}

TEST_P(UpperEntries, OfTheGuestKeepTheRightsOfAllAboveThem) {
  const uint64_t above = world_.GuestEntryAt(kGva, 3);
  world_.Store(above, world_.Load(above) & ~kGuestWrite);
  for (const uint64_t page : kPages) {
    EXPECT_EQ(Touch(page, AccessKind::kLoad), Event::kNone) << page;
    EXPECT_EQ(Touch(page, AccessKind::kStore), Event::kPageFault) << page;
    EXPECT_EQ(Touch(page, AccessKind::kLoad), Event::kNone) << page;
  }
  for (const uint64_t page : {MiB(2) + kPageSize, kPageSize}) {
    EXPECT_EQ(Touch(page ^ kPageSize, AccessKind::kLoad), Event::kNone) << page;
    EXPECT_EQ(Touch(page, AccessKind::kStore), Event::kPageFault) << page;
  }
}

TEST_P(UpperEntries, OfTheGuestGoWithAPageFaultBelowThem) {
  const uint64_t absent = 7 * kPageSize;
  ASSERT_EQ(Touch(0, AccessKind::kLoad), Event::kNone);
  ASSERT_EQ(Touch(absent, AccessKind::kLoad), Event::kPageFault);
  // The guest maps the page by another table now.
  const uint64_t table = world_.NewGuestFrame();
  world_.Store(World::HpaOfGuest(table) + 7 * 8, MiB(64) | kGuestLeaf);
  world_.Store(world_.GuestEntryAt(kGva, 2), table | kGuestTable);
  EXPECT_EQ(Touch(absent, AccessKind::kLoad), Event::kNone);
}

INSTANTIATE_TEST_SUITE_P(Presets, UpperEntries, testing::Values("psc", "nested"),
                         [](const auto& param) { return std::string(param.param); });

TEST(NestedTlb, IsFollowedUntilItsViolationOrAnInvept) {
  CpuConfig config;
  config.policy = CachePolicy::kAdversarial;
  config.caches = *CachePreset("nested");
  config.caches.tlb = {};
  World world(config);
  const uint64_t leaf = world.MapEpt(MiB(64), MiB(512), 1, ept::kRead | kWriteBack);
  world.MapGuest(0x40000000, MiB(64));
  world.Enter();
  const auto touch = [&](AccessKind kind) { return world.cpu().Access(Gva(0x40000000), kind); };
  ASSERT_TRUE(touch(AccessKind::kLoad).ok());
  world.Store(leaf, MiB(640) | kRwx | kWriteBack);
  EXPECT_EQ(touch(AccessKind::kLoad).hpa, Hpa(MiB(512)));
  EXPECT_EQ(touch(AccessKind::kStore).event, Event::kEptViolation) << "by the right it has kept";
  EXPECT_EQ(touch(AccessKind::kStore).hpa, Hpa(MiB(640))) << "the violation dropped it";
  world.Store(leaf, MiB(700) | kRwx | kWriteBack);
  EXPECT_EQ(touch(AccessKind::kLoad).hpa, Hpa(MiB(640)));
  ASSERT_TRUE(world.cpu().InveptSingle(world.eptp()));
  EXPECT_EQ(touch(AccessKind::kLoad).hpa, Hpa(MiB(700)));
}

// SDM vol. 3C, 29.3.5: with A and D flags in the EPT every access to a guest table counts as a
// write.
TEST(Cpu, WithFlagsInTheEptAGuestTableInAReadOnlyPageIsAViolation) {
  for (const bool flags : {false, true}) {
    World world(NoCaches());
    world.MapEpt(MiB(64), MiB(512));
    world.MapGuest(0x40000000, MiB(64));
    const uint64_t table = world.GuestEntryAt(0x40000000, 1) & ~uint64_t{kPageSize - 1};
    const uint64_t leaf = world.EptEntryAt(table - World::kGuestMemory, 1);
    world.Store(leaf, world.Load(leaf) & ~ept::kWrite);
    world.Enter(flags);
    EXPECT_EQ(world.cpu().Access(Gva(0x40000000), AccessKind::kLoad).event,
              flags ? Event::kEptViolation : Event::kNone);
  }
}

// Returns a program that mostly stays on a page of code and one of data; some accesses cross into
// the next.
std::vector<TraceRecord> StayingProgram(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::array<uint64_t, 2> pages = {0, 1};
  std::vector<TraceRecord> records;
  for (int i = 0; i < 4000; ++i) {
    const auto kind = static_cast<AccessKind>(random() % 4);
    uint64_t& page = pages[kind == AccessKind::kFetch ? 0 : 1];
    if (random() % 6 == 0) page = random() % 23;
    const uint64_t offset = random() % 50 == 0 ? kPageSize - 4 : random() % 500 * 8;
    records.push_back(TraceRecord::Make(Gva(MiB(4) + page * kPageSize + offset), kind, 3));
  }
  return records;
}

TEST(Cpu, ARunIsWhatTheSameAccessesAreOneByOne) {
  for (const CacheGeometry tlb :
       {CacheGeometry{16, 4}, CacheGeometry{64, 2}, CacheGeometry{2, 1}, CacheGeometry{1, 1},
        CacheGeometry{4, 2}, CacheGeometry{3, 2}, CacheGeometry{1, 32}, CacheGeometry{0, 1}}) {
    CpuConfig config;
    config.caches.tlb = {tlb, tlb, tlb, tlb};
    World in_runs(config);
    World one_by_one(config);
    for (World* world : {&in_runs, &one_by_one}) {
      // Some pages are read-only, some not dirty yet.
      for (uint64_t page = 0; page < 24; ++page) {
        const uint64_t bits = page % 7 == 3 ? kGuestLeaf & ~uint64_t{2} : page % 3 == 1 ? 7 : 0x67;
        world->MapGuest(MiB(4) + page * kPageSize, world->NewGuestFrame(), 1, bits);
      }
      ASSERT_EQ(world->Enter(/*accessed_dirty=*/true), Event::kNone);
    }
    const std::vector<TraceRecord> records = StayingProgram(static_cast<uint64_t>(tlb.sets));
    for (size_t at = 0; at < records.size();) {
      const auto rest = absl::MakeConstSpan(records).subspan(at, 700);
      const size_t done = in_runs.cpu().Run(rest);
      for (size_t i = 0; i < done; ++i) {
        ASSERT_TRUE(one_by_one.cpu().Access(rest[i].gva(), rest[i].kind(), rest[i].size()).ok());
      }
      at += done;
      if (done < rest.size()) {
        EXPECT_EQ(in_runs.cpu().exit().event, Event::kPageFault);
        EXPECT_FALSE(
            one_by_one.cpu().Access(rest[done].gva(), rest[done].kind(), rest[done].size()).ok());
        ++at;
      }
      const CpuCounters a = in_runs.cpu().counters();
      const CpuCounters b = one_by_one.cpu().counters();
      ASSERT_EQ(a.tlb_hits, b.tlb_hits) << tlb.sets << "x" << tlb.ways << " at " << at;
      ASSERT_EQ(a.walks, b.walks);
      ASSERT_EQ(a.assists, b.assists);
      ASSERT_EQ(a.events, b.events);
      ASSERT_EQ(a.references.total(), b.references.total());
    }
    EXPECT_EQ(one_by_one.cpu().counters().assists != 0, tlb.sets != 0);
  }
}

TEST(Cpu, AKickEndsARunBeforeTheNextAccess) {
  World world;
  world.MapGuest(MiB(4), world.NewGuestFrame());
  ASSERT_EQ(world.Enter(), Event::kNone);
  const std::vector<TraceRecord> records(9, TraceRecord::Make(Gva(MiB(4)), AccessKind::kLoad, 3));
  EXPECT_EQ(world.cpu().Run(records), 9u);
  world.cpu().Kick();
  EXPECT_EQ(world.cpu().Run(records), 0u);
  EXPECT_EQ(world.cpu().exit().event, Event::kKick);
  EXPECT_EQ(world.cpu().Run(records), 9u);
}

// The entries go so that the same access cannot fault again by what is cached (SDM vol. 3A,
// 5.10.4.1).
TEST(Cpu, AFaultByACachedRightDropsTheUpperEntriesOnTheWay) {
  World world({.policy = CachePolicy::kAdversarial});
  const uint64_t gpa = world.NewGuestFrame();
  const uint64_t leaf = world.MapGuest(0x400000, gpa, 1, kGuestLeaf & ~uint64_t{2});
  ASSERT_EQ(world.Enter(), Event::kNone);
  ASSERT_TRUE(world.cpu().Access(Gva(0x400000), AccessKind::kLoad, 8).ok());
  world.Store(leaf, gpa | kGuestLeaf);
  ASSERT_EQ(world.cpu().Access(Gva(0x400000), AccessKind::kStore, 8).event, Event::kPageFault);
  const uint64_t upper = world.GuestEntryAt(0x400000, 2);
  world.Store(upper, world.Load(upper) & ~kGuestAccessed);
  EXPECT_TRUE(world.cpu().Access(Gva(0x400000), AccessKind::kStore, 8).ok());
  EXPECT_NE(world.Load(upper) & kGuestAccessed, 0u) << "the walk did not come by";
}

}  // namespace
}  // namespace tdp::sim
