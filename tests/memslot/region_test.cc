// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/region.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/tests/memslot/region_machine.h"

namespace tdp {
namespace {

void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& words) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

TEST(RegionTree, RefusesBadRegionsByPathAndField) {
  RegionTree tree;
  ExpectError(tree.Create({.name = "", .size = 1}).status(), kInvalid, "no name");
  ExpectError(tree.Create({.name = "a", .size = 0}).status(), kInvalid, "/a: size = 0x0");
  ExpectError(tree.Create({.name = "a", .size = kWholeAddressSpace + 1}).status(), kInvalid,
              "/a: size");
  ExpectError(tree.Create({.name = "a", .kind = RegionKind::kAlias, .size = 1}).status(), kInvalid,
              "/a: alias_of");
  RegionSpec ram{.name = "a", .kind = RegionKind::kRam, .size = 0x1000};
  ram.host = Hva(0x10);
  ExpectError(tree.Create(ram).status(), kInvalid, "/a: host = 0x10");
  ram.host = Hva(~uint64_t{0xfff});
  ram.size = 0x2000;
  ExpectError(tree.Create(ram).status(), kInvalid, "/a: host");
  RegionSpec mmio{.name = "a", .kind = RegionKind::kMmio, .size = 1};
  mmio.log_dirty = true;
  ExpectError(tree.Create(mmio).status(), kInvalid, "/a: log_dirty");
}

TEST(RegionTree, RefusesWhatIsNoTree) {
  RegionTree tree;
  Region* const a = MustCreate(tree, {.name = "a", .size = 0x1000});
  Region* const b = MustCreate(tree, {.name = "b", .size = 0x1000});
  MustAttach(tree, a, b, 0);
  ExpectError(tree.Attach(a, b, 0x10), kPrecondition, "/a/b");
  ExpectError(tree.Attach(b, a, 0), kPrecondition, "contain itself");
  ExpectError(tree.Attach(a, a, 0), kPrecondition, "contain itself");
  Region* const alias =
      AddAlias(tree, b, "alias", MustCreate(tree, {.name = "t", .size = 1}), 0, 1, 0);
  ExpectError(tree.Attach(alias, MustCreate(tree, {.name = "x", .size = 1}), 0), kPrecondition,
              "/a/b/alias: an alias has no children");
  ExpectError(tree.Destroy(b), kPrecondition, "/a/b: cannot be destroyed");
}

TEST(RegionTree, RefusesACircleThroughAnAlias) {
  RegionTree tree;
  Region* const a = MustCreate(tree, {.name = "a", .size = 0x1000});
  Region* const b = MustCreate(tree, {.name = "b", .size = 0x1000});
  AddAlias(tree, b, "to-a", a, 0, 0x1000, 0);
  ExpectError(tree.Attach(a, b, 0), kPrecondition, "/b: cannot be attached to /a");
}

TEST(RegionTree, DestroysWhatNobodyUses) {
  RegionTree tree;
  Region* const a = MustCreate(tree, {.name = "a", .size = 0x1000});
  Region* const holder = MustCreate(tree, {.name = "holder", .size = 0x1000});
  Region* const alias = AddAlias(tree, holder, "alias", a, 0, 0x1000, 0);
  ExpectError(tree.Destroy(a), kPrecondition, "an alias shows it");
  EXPECT_TRUE(tree.Detach(alias).ok());
  ExpectError(tree.Detach(alias), kPrecondition, "no parent");
  EXPECT_TRUE(tree.Destroy(alias).ok());
  EXPECT_TRUE(tree.Destroy(a).ok());
}

class CountingListener : public RegionListener {
 public:
  absl::Status OnRegionsChanged() override {
    ++heard;
    return answer;
  }
  int heard = 0;
  absl::Status answer;
};

constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

// Makes a chain of `count` regions, each in the one before.
std::vector<Region*> Chain(RegionTree& tree, int count) {
  std::vector<Region*> chain;
  for (int i = 0; i < count; ++i) {
    chain.push_back(MustCreate(tree, {.name = "r", .size = 0x1000}));
    if (i > 0) MustAttach(tree, chain[chain.size() - 2], chain.back(), 0);
  }
  return chain;
}

TEST(RegionTree, RefusesADepthBeyondItsLimitHoweverItComesAbout) {
  RegionTree tree;
  const std::vector<Region*> chain = Chain(tree, kMaxRegionDepth);
  Region* const more = MustCreate(tree, {.name = "more", .size = 1});
  ExpectError(tree.Attach(chain.back(), more, 0), kExhausted, "/more: cannot be attached to /r/r");
  // The chain may become too deep from above.
  ExpectError(tree.Attach(more, chain.front(), 0), kExhausted, "deeper than 128");
  // An alias of it may be too deep, and one that is to show what becomes deeper.
  RegionSpec alias{.name = "alias", .kind = RegionKind::kAlias, .size = 1};
  alias.alias_of = chain.front();
  ExpectError(tree.Create(alias).status(), kExhausted, "/alias: ");
  alias.alias_of = MustCreate(tree, {.name = "target", .size = 1});
  Region* const shown = MustCreate(tree, alias);
  MustAttach(tree, chain[kMaxRegionDepth - 4], shown, 0);
  MustAttach(tree, alias.alias_of, MustCreate(tree, {.name = "leaf", .size = 1}), 0);
  ExpectError(tree.Attach(alias.alias_of->children()[0], more, 0), kExhausted, "deeper");
  // Regions that have gone do not count.
  ASSERT_TRUE(tree.Detach(chain.back()).ok());
  MustAttach(tree, chain[kMaxRegionDepth - 2], more, 0);
  ExpectError(tree.Attach(more, chain.back(), 0), kExhausted, "deeper");
  EXPECT_TRUE(Flatten(*chain.front()).empty());
}

TEST(RegionTree, WhatHasLostItsDeepestPartFitsBelowAnother) {
  RegionTree tree;
  const std::vector<Region*> chain = Chain(tree, kMaxRegionDepth);
  Region* const top = MustCreate(tree, {.name = "top", .size = 1});
  ExpectError(tree.Attach(top, chain.front(), 0), kExhausted, "deeper than 128");
  ASSERT_TRUE(tree.Detach(chain.back()).ok());
  EXPECT_TRUE(tree.Attach(top, chain.front(), 0).ok());
}

// Each level shows the one below twice.
TEST(RegionTree, RefusesAliasesOfAliasesThatShowTooMuch) {
  RegionTree tree;
  RegionSpec ram{.name = "ram", .kind = RegionKind::kMmio, .size = 1};
  Region* below = MustCreate(tree, ram);
  uint64_t shown = 1;
  absl::Status status;
  for (int level = 0; status.ok(); ++level) {
    ASSERT_LT(level, 40);
    Region* const container = MustCreate(tree, {.name = "level", .size = uint64_t{2} << level});
    for (uint64_t i = 0; i < 2 && status.ok(); ++i) {
      RegionSpec half{.name = "half", .kind = RegionKind::kAlias, .size = uint64_t{1} << level};
      half.alias_of = below;
      Region* const alias = MustCreate(tree, half);
      status = tree.Attach(container, alias, i << level);
      if (!status.ok()) {
        ExpectError(status, kExhausted, "/half: cannot be attached to /level: more than 262144");
      }
    }
    if (!status.ok()) break;
    shown = 1 + 2 * (1 + shown);
    below = container;
  }
  EXPECT_LE(shown, kMaxRegionsShown);
  EXPECT_GT(2 * (shown + 2), kMaxRegionsShown);
  EXPECT_EQ(Flatten(*below).size(), uint64_t{1} << 16);
}

// A target that grows after many aliases show it counts for each of them.
TEST(RegionTree, ATargetThatGrowsCountsForEachThatShowsIt) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = MiB(1)});
  Region* const target = MustCreate(tree, {.name = "target", .size = MiB(1)});
  constexpr int kAliases = 512;
  tree.Begin();
  for (int i = 0; i < kAliases; ++i) {
    AddAlias(tree, root, "alias", target, 0, 1, static_cast<uint64_t>(i));
  }
  uint64_t children = 0;
  absl::Status status;
  for (; status.ok(); ++children) {
    ASSERT_LT(children, kMaxRegionsShown / kAliases);
    status = tree.Attach(target, MustCreate(tree, {.name = "child", .size = 1}), 0);
  }
  ExpectError(status, kExhausted, "/child: cannot be attached to /target");
  EXPECT_EQ(children, (kMaxRegionsShown - 1 - 2 * kAliases) / kAliases + 1);
  // A region that goes makes room.
  ASSERT_TRUE(tree.Detach(root->children()[0]).ok());
  EXPECT_TRUE(tree.Attach(target, MustCreate(tree, {.name = "child", .size = 1}), 0).ok());
  ASSERT_TRUE(tree.Commit().ok());
}

TEST(RegionTree, AsMuchAsMayBeShownIsShown) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = MiB(1)});
  Region* const target = MustCreate(tree, {.name = "target", .size = MiB(1)});
  tree.Begin();
  // The root, 511 aliases, and for each of them the target with its children.
  constexpr uint64_t kAliases = 511;
  static_assert((kMaxRegionsShown - 1) % kAliases == 0);
  for (uint64_t i = 0; i < kAliases; ++i) AddAlias(tree, root, "alias", target, 0, 1, i);
  for (uint64_t i = 0; i < (kMaxRegionsShown - 1) / kAliases - 2; ++i) {
    MustAttach(tree, target, MustCreate(tree, {.name = "child", .size = 1}), 0);
  }
  Region* const one = MustCreate(tree, {.name = "one", .size = 1});
  ExpectError(tree.Attach(root, one, 0), kExhausted, "more than 262144");
  ASSERT_TRUE(tree.Detach(root->children()[0]).ok());
  EXPECT_TRUE(tree.Attach(root, one, 0).ok());
  ASSERT_TRUE(tree.Commit().ok());
}

TEST(RegionTree, ManySiblingsAreFlattenedAndOverlappedAtNoGreatCost) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  tree.Begin();
  constexpr uint64_t kCount = 10000;
  for (uint64_t i = 0; i < kCount; ++i) {
    MustAttach(tree, root, MustCreate(tree, {.name = "a", .kind = RegionKind::kMmio, .size = 1}),
               2 * i, 1);
  }
  for (uint64_t i = 0; i < kCount; ++i) {
    MustAttach(tree, root,
               MustCreate(tree, {.name = "b", .kind = RegionKind::kMmio, .size = 2 * kCount}), i);
  }
  ASSERT_TRUE(tree.Commit().ok());
  EXPECT_EQ(Flatten(*root).size(), 2 * kCount);
}

TEST(RegionTree, ListenersHearOfATransactionOnceAndOfNothingNever) {
  RegionTree tree;
  CountingListener listener;
  Region* const a = MustCreate(tree, {.name = "a", .size = 0x1000});
  tree.AddListener(&listener);
  tree.Begin();
  EXPECT_TRUE(tree.SetEnabled(a, false).ok());
  tree.Begin();
  EXPECT_TRUE(tree.SetSize(a, 0x2000).ok());
  EXPECT_TRUE(tree.Commit().ok());
  EXPECT_EQ(listener.heard, 0);
  EXPECT_TRUE(tree.Commit().ok());
  EXPECT_EQ(listener.heard, 1);
  EXPECT_TRUE(tree.SetEnabled(a, false).ok());
  EXPECT_EQ(listener.heard, 1);
  EXPECT_TRUE(tree.SetEnabled(a, true).ok());
  EXPECT_EQ(listener.heard, 2);
  listener.answer = absl::ResourceExhaustedError("no");
  EXPECT_FALSE(tree.SetEnabled(a, false).ok());
  listener.answer = absl::OkStatus();
  tree.Begin();
  EXPECT_TRUE(tree.Commit().ok());
  EXPECT_EQ(listener.heard, 4);
  tree.RemoveListener(&listener);
}

TEST(RegionTree, ListenersHearOfEveryKindOfChange) {
  RegionTree tree;
  RegionSpec ram{.name = "ram", .kind = RegionKind::kRam, .size = 0x2000};
  ram.host = Hva(0x100000000000);
  Region* const root = MustCreate(tree, {.name = "root", .size = MiB(1)});
  Region* const memory = MustCreate(tree, ram);
  ram.kind = RegionKind::kRomDevice;
  Region* const flash = MustCreate(tree, ram);
  Region* const alias = AddAlias(tree, root, "alias", memory, 0, 0x1000, 0);
  CountingListener listener;
  tree.AddListener(&listener);
  int heard = 0;
  const auto expect_heard = [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(listener.heard, ++heard);
  };
  expect_heard(tree.Attach(root, flash, 0x4000));
  expect_heard(tree.SetOffset(flash, 0x5000));
  expect_heard(tree.SetPriority(flash, 1));
  expect_heard(tree.SetRomMode(flash, false));
  expect_heard(tree.SetSize(flash, 0x1000));
  expect_heard(tree.SetReadOnly(flash, true));
  expect_heard(tree.SetEnabled(flash, false));
  expect_heard(tree.SetLogDirty(memory, true));
  expect_heard(tree.SetAliasOffset(alias, 0x1000));
  expect_heard(tree.Detach(flash));
  tree.RemoveListener(&listener);
}

TEST(RegionTree, MemoryThatGrowsStaysBelowTheEndOfTheHostsAddresses) {
  RegionTree tree;
  RegionSpec spec{.name = "ram", .kind = RegionKind::kRam, .size = 0x1000};
  spec.host = Hva(~uint64_t{0x1fff});
  Region* const ram = MustCreate(tree, spec);
  EXPECT_TRUE(tree.SetSize(ram, 0x2000).ok());
  ExpectError(tree.SetSize(ram, 0x2001), kInvalid, "/ram: host");
  EXPECT_EQ(ram->size(), 0x2000u);
}

TEST(FlatView, HolesShowWhatLiesBelow) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  Region* const low = MustCreate(tree, {.name = "low", .kind = RegionKind::kMmio, .size = 0x8000});
  Region* const window = MustCreate(tree, {.name = "window", .size = 0x4000});
  Region* const device =
      MustCreate(tree, {.name = "device", .kind = RegionKind::kMmio, .size = 0x1000});
  MustAttach(tree, root, low, 0);
  MustAttach(tree, root, window, 0x2000, 1);
  MustAttach(tree, window, device, 0x1000);
  const std::vector<FlatRange> want{{0, 0x3000, low, 0, false},
                                    {0x3000, 0x1000, device, 0, false},
                                    {0x4000, 0x4000, low, 0x4000, false}};
  EXPECT_EQ(Flatten(*root), want);
}

TEST(FlatView, TheLastOfEqualPriorityShows) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = 0x1000});
  Region* const a = MustCreate(tree, {.name = "a", .kind = RegionKind::kMmio, .size = 0x1000});
  Region* const b = MustCreate(tree, {.name = "b", .kind = RegionKind::kMmio, .size = 0x1000});
  MustAttach(tree, root, a, 0);
  MustAttach(tree, root, b, 0);
  EXPECT_EQ(Flatten(*root).front().region, b);
  EXPECT_TRUE(tree.SetPriority(a, 1).ok());
  EXPECT_EQ(Flatten(*root).front().region, a);
}

TEST(FlatView, SaysOfRomThatItCannotBeWritten) {
  RegionTree tree;
  Region* const rom = MustCreate(tree, {.name = "rom", .kind = RegionKind::kRom, .size = 0x1000});
  EXPECT_EQ(Flatten(*rom), (std::vector<FlatRange>{{0, 0x1000, rom, 0, true}}));
}

TEST(FlatView, CoversTwoToTheSixtyFour) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  Region* const all = MustCreate(
      tree, {.name = "all", .kind = RegionKind::kReservation, .size = kWholeAddressSpace});
  MustAttach(tree, root, all, 0);
  EXPECT_EQ(Flatten(*root), (std::vector<FlatRange>{{0, kWholeAddressSpace, all, 0, false}}));
  EXPECT_TRUE(tree.SetOffset(all, 0x1000).ok());
  EXPECT_EQ(Flatten(*root),
            (std::vector<FlatRange>{{0x1000, kWholeAddressSpace - 0x1000, all, 0, false}}));
}

TEST(FlatView, JoinsNeighboursThatContinueEachOther) {
  RegionTree tree;
  Region* const root = MustCreate(tree, {.name = "root", .size = kWholeAddressSpace});
  Region* const device =
      MustCreate(tree, {.name = "device", .kind = RegionKind::kMmio, .size = 0x4000});
  AddAlias(tree, root, "first", device, 0, 0x2000, 0x1000);
  Region* const second = AddAlias(tree, root, "second", device, 0x2000, 0x2000, 0x3000);
  EXPECT_EQ(Flatten(*root).size(), 1u);
  EXPECT_TRUE(tree.SetAliasOffset(second, 0x1000).ok());
  EXPECT_EQ(Flatten(*root).size(), 2u);
  EXPECT_TRUE(tree.SetAliasOffset(second, 0x2000).ok());
  EXPECT_TRUE(tree.SetOffset(second, 0x8000).ok());
  EXPECT_EQ(Flatten(*root).size(), 2u) << "it goes on in the device, but elsewhere";
  EXPECT_TRUE(tree.SetOffset(second, 0x3000).ok());
  EXPECT_TRUE(tree.SetReadOnly(second, true).ok());
  EXPECT_EQ(Flatten(*root).size(), 2u);
}

// Says what stands at one address, by the definition alone: the first enabled child, by priority,
// that shows something there, else the region itself.
using Shown = std::tuple<const Region*, uint64_t, bool>;

std::optional<Shown> Look(const Region& region, absl::int128 at, bool read_only) {
  if (!region.enabled() || at < 0 || at >= static_cast<absl::int128>(region.size())) {
    return std::nullopt;
  }
  read_only |= region.read_only();
  if (region.is_alias()) {
    return Look(*region.alias_of(), at + absl::int128(region.alias_offset()), read_only);
  }
  for (const Region* child : region.children()) {
    if (auto shown = Look(*child, at - absl::int128(child->offset()), read_only)) return shown;
  }
  if (region.is_container()) return std::nullopt;
  return Shown{&region, static_cast<uint64_t>(at), read_only};
}

constexpr uint64_t kSpan = 64;

std::vector<Region*> RandomTree(RegionTree& tree, std::mt19937_64& random) {
  std::vector<Region*> regions{MustCreate(tree, {.name = "root", .size = kSpan})};
  for (int i = 0; i < 14; ++i) {
    Region* const target = regions[random() % regions.size()];
    RegionSpec spec{
        .name = "r", .kind = static_cast<RegionKind>(random() % 7), .size = 1 + random() % 40};
    spec.read_only = random() % 4 == 0;
    if (spec.kind == RegionKind::kAlias) {
      spec.alias_of = target;
      spec.alias_offset = random() % 20;
    }
    Region* const region = MustCreate(tree, std::move(spec));
    Region* const parent = regions[random() % regions.size()];
    // Circles and children of aliases are refused; such regions stay unattached.
    tree.Attach(parent, region, random() % 40, static_cast<int>(random() % 3) - 1).IgnoreError();
    regions.push_back(region);
  }
  return regions;
}

void ExpectFlatViewIsPointwise(const Region& root) {
  const std::vector<FlatRange> view = Flatten(root);
  size_t i = 0;
  for (uint64_t at = 0; at < kSpan + 8; ++at) {
    while (i < view.size() && view[i].end() <= at) ++i;
    const std::optional<Shown> shown = Look(root, absl::int128(at), false);
    const bool covered = i < view.size() && view[i].start <= at;
    ASSERT_EQ(shown.has_value(), covered) << at;
    if (!covered) continue;
    const FlatRange& range = view[i];
    ASSERT_EQ(*shown, (Shown{range.region, range.offset + (at - range.start), range.read_only}));
  }
}

TEST(FlatView, AgreesWithALookAtEveryAddressOfRandomTrees) {
  for (uint64_t seed = 0; seed < 800; ++seed) {
    std::mt19937_64 random(seed);
    RegionTree tree;
    const std::vector<Region*> regions = RandomTree(tree, random);
    ExpectFlatViewIsPointwise(*regions[0]);
    for (int i = 0; i < 10; ++i) {
      Region* const region = regions[1 + random() % (regions.size() - 1)];
      ASSERT_TRUE(tree.SetEnabled(region, random() % 3 != 0).ok());
      ASSERT_TRUE(tree.SetOffset(region, random() % 40).ok());
      ASSERT_TRUE(tree.SetSize(region, 1 + random() % 40).ok());
      ASSERT_TRUE(tree.SetPriority(region, static_cast<int>(random() % 3)).ok());
      ExpectFlatViewIsPointwise(*regions[0]);
      if (HasFatalFailure()) FAIL() << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace tdp
