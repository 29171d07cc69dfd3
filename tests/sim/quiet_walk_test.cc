// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The quiet walk (`EptWalker::TranslateQuietly`) must be a shortcut and nothing else: two machines
// over equal tables, one of which never takes it, give the same answers, set the same flags and
// count the same references.

#include "tdp/backends/sim/ept_walker.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGva = 0x40000000;
constexpr int kPages = 24;

struct Machine {
  const char* name;
  const char* caches;
  PagingMode mode;
  int ept_levels;
  bool accessed_dirty;
  bool mbec;
  CachePolicy policy;
};

constexpr auto kRealistic = CachePolicy::kRealistic;
constexpr auto kAdversarial = CachePolicy::kAdversarial;
constexpr Machine kMachines[] = {
    {"none", "none", PagingMode::k4Level, 4, false, false, kRealistic},
    {"none_flags", "none", PagingMode::k4Level, 4, true, false, kRealistic},
    {"none_5_5_mbec", "none", PagingMode::k5Level, 5, true, true, kRealistic},
    {"psc", "psc", PagingMode::k4Level, 4, false, false, kRealistic},
    {"psc_5_4_flags", "psc", PagingMode::k5Level, 4, true, false, kAdversarial},
    {"nested_flags", "nested", PagingMode::k4Level, 4, true, false, kAdversarial},
    {"tiny", "tiny", PagingMode::k4Level, 5, false, true, kAdversarial},
    {"tiny_flags", "tiny", PagingMode::k4Level, 4, true, false, kRealistic},
    {"pae", "tiny", PagingMode::kPae, 4, true, false, kRealistic},
    {"legacy", "tiny", PagingMode::k32Bit, 4, true, false, kRealistic},
    {"unpaged", "tiny", PagingMode::kNone, 4, true, false, kRealistic},
};

// Is one machine, driven by numbers that both twins draw alike.
class Twin {
 public:
  Twin(const Machine& machine, bool quiet)
      : machine_(machine), world_(ConfigOf(machine), machine.mode, machine.ept_levels) {
    // A cost model wants to hear of every reference, so that no walk is quiet.
    if (!quiet) world_.cpu().SetCostModel(*DataCachePreset("flat"));
    for (int i = 0; i < kPages; ++i) {
      const uint64_t gpa = MiB(64) + i * kPageSize;
      // An unpaged guest's addresses are the physical ones.
      ept_places_.push_back(world_.MapEpt(PagedAddress(i, gpa), MiB(512) + i * kPageSize));
      if (machine.mode == PagingMode::kNone) continue;
      guest_places_.push_back(world_.MapGuest(kGva + i * kPageSize, gpa));
    }
    world_.MapEpt(MiB(96), MiB(768), 2);
    if (machine.mode != PagingMode::kNone) world_.MapGuest(kGva + MiB(64), MiB(96), 2);
    for (int level = 2; level <= machine.ept_levels; ++level) {
      ept_places_.push_back(world_.EptEntryAt(PagedAddress(0, MiB(64)), level));
    }
    for (int level = 2; level <= GuestLevels(machine.mode); ++level) {
      guest_places_.push_back(world_.GuestEntryAt(kGva, level));
    }
    Controls controls;
    controls.mbec = machine.mbec;
    EXPECT_TRUE(world_.cpu().SetControls(controls).ok());
    world_.Enter(machine.accessed_dirty);
  }

  // Toggles some bits of an entry of either dimension.
  void Disturb(std::mt19937_64& random) {
    static constexpr int kBits[] = {0, 1, 2, 5, 6, 7, 8, 9, 10, 12, 40, 47, 63};
    const uint64_t mask = uint64_t{1} << kBits[random() % std::size(kBits)];
    const uint64_t which = random();
    const bool guest = which % 2 == 0 && !guest_places_.empty();
    const std::vector<uint64_t>& places = guest ? guest_places_ : ept_places_;
    const uint64_t place = places[which / 2 % places.size()];
    if (guest) {
      world_.StoreGuest(place, world_.LoadGuest(place) ^ mask);
    } else {
      world_.Store(place, world_.Load(place) ^ mask);
    }
    disturbed_.push_back({place, mask, guest});
  }
  // Takes the oldest disturbance back.
  void Calm() {
    if (disturbed_.empty()) return;
    const auto [place, mask, guest] = disturbed_.front();
    disturbed_.erase(disturbed_.begin());
    if (guest) {
      world_.StoreGuest(place, world_.LoadGuest(place) ^ mask);
    } else {
      world_.Store(place, world_.Load(place) ^ mask);
    }
  }
  void Flush() { world_.cpu().InveptAll(); }

  std::string Access(std::mt19937_64& random) {
    const uint64_t which = random() % (kPages + 8);
    uint64_t gva = PagedAddress(which, kGva + which * kPageSize);
    if (which >= kPages) gva = PagedAddress(which, kGva + MiB(64) + random() % MiB(2));
    AccessRequest request;
    request.gva = gva + random() % 4000;
    request.kind = static_cast<AccessKind>(random() % 4);
    request.accessor = static_cast<Accessor>(random() % 3);
    request.size = 1u << random() % 4;
    const AccessResult result = world_.cpu().Access(request);
    if (result.ok()) {
      return absl::StrCat(result.hpa.raw(), " ", static_cast<int>(result.memory_type), " ",
                          result.ept_level, " ", result.guest_level);
    }
    return world_.cpu().exit().DebugString();
  }

  // Returns all counters but cycles, in one line.
  std::string Counters() const {
    const CpuCounters c = world_.cpu().counters();
    std::string text = absl::StrCat(c.tlb_hits, " ", c.walks, " ", c.nested_tlb_hits, " ",
                                    c.guest_cache_hits, " ", c.ept_cache_hits, " ", c.events, ":");
    for (int row = 0; row < ReferenceCounts::kLevels; ++row) {
      absl::StrAppend(&text, " ", c.references.guest[row], "/");
      for (const uint64_t n : c.references.ept[row]) absl::StrAppend(&text, n, ",");
    }
    return text;
  }

  std::string Tables() {
    std::string text;
    for (const uint64_t place : ept_places_) absl::StrAppend(&text, world_.Load(place), " ");
    for (const uint64_t place : guest_places_) absl::StrAppend(&text, world_.LoadGuest(place), " ");
    return text;
  }

 private:
  struct Disturbance {
    uint64_t place;
    uint64_t mask;
    bool guest;
  };
  static CpuConfig ConfigOf(const Machine& machine) {
    CpuConfig config;
    config.caches = *CachePreset(machine.caches);
    config.policy = machine.policy;
    return config;
  }
  uint64_t PagedAddress(uint64_t page, uint64_t paged) const {
    return machine_.mode == PagingMode::kNone ? MiB(64) + page * kPageSize : paged;
  }

  const Machine machine_;
  mutable World world_;
  std::vector<uint64_t> ept_places_;
  std::vector<uint64_t> guest_places_;
  std::vector<Disturbance> disturbed_;
};

class QuietWalk : public testing::TestWithParam<Machine> {};

TEST_P(QuietWalk, AnswersSetsAndCountsAsTheFullWalkDoes) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Twin quiet(GetParam(), true);
    Twin full(GetParam(), false);
    std::mt19937_64 random(seed);
    for (int step = 0; step < 3000; ++step) {
      std::mt19937_64 same = random;
      switch (random() % 32) {
        case 0:
          quiet.Disturb(random);
          same();
          full.Disturb(same);
          break;
        case 1:
        case 2:
          quiet.Calm();
          full.Calm();
          break;
        case 3:
          quiet.Flush();
          full.Flush();
          break;
        default:
          same();
          ASSERT_EQ(quiet.Access(random), full.Access(same))
              << "seed " << seed << ", step " << step;
      }
    }
    EXPECT_EQ(quiet.Counters(), full.Counters()) << "seed " << seed;
    EXPECT_EQ(quiet.Tables(), full.Tables()) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuietWalk, testing::ValuesIn(kMachines),
                         [](const auto& test) { return std::string(test.param.name); });

// Memory reaches beyond the CPU's addresses, so that nothing but the rules ends the walk there.
TEST(QuietWalkOfANarrowCpu, ATableBeyondItsAddressesIsAMisconfiguration) {
  CpuConfig config = NoCaches();
  config.features.physical_address_bits = 33;
  World world(config, PagingMode::kNone);
  constexpr uint64_t kPage = MiB(64);
  constexpr uint64_t kBeyond = GiB(9);
  const uint64_t leaf = world.MapEpt(kPage, MiB(512));
  const uint64_t link = world.EptEntryAt(kPage, 2);
  world.Store(kBeyond + leaf % kPageSize, world.Load(leaf));
  world.Enter();
  EXPECT_TRUE(world.cpu().Access({.gva = kPage}).ok());
  world.Store(link, kBeyond | world.Load(link) % kPageSize);
  EXPECT_EQ(world.cpu().Access({.gva = kPage}).event, Event::kEptMisconfiguration);
}

}  // namespace
}  // namespace tdp::sim
