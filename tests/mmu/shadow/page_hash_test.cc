// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/reverse_mapped/page_hash.h"

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr PageRole kLeaves = PageRole().WithLevel(kLevel4K);
constexpr PageRole kDirectory = PageRole().WithLevel(kLevel2M);

std::unique_ptr<ShadowPage> PageOf(uint64_t gfn, PageRole role, uint32_t generation = 1) {
  auto page = std::make_unique<ShadowPage>();
  page->gfn = Gfn(gfn);
  page->role = role;
  page->generation = generation;
  return page;
}

TEST(PageHash, TwoRolesOfOneFrameAreTwoPages) {
  PageHash hash(4);
  const auto leaves = PageOf(5, kLeaves);
  const auto directory = PageOf(5, kDirectory);
  hash.Insert(leaves.get());
  hash.Insert(directory.get());
  EXPECT_EQ(hash.Find(Gfn(5), kLeaves, 1), leaves.get());
  EXPECT_EQ(hash.Find(Gfn(5), kDirectory, 1), directory.get());
  EXPECT_EQ(hash.Find(Gfn(6), kLeaves, 1), nullptr);
}

TEST(PageHash, AnObsoletePageIsNotFoundButStillShadowsItsFrame) {
  PageHash hash(4);
  const auto old = PageOf(5, kLeaves, 1);
  hash.Insert(old.get());
  EXPECT_EQ(hash.Find(Gfn(5), kLeaves, 2), nullptr);
  int shadows = 0;
  hash.ForEachShadowOf(Gfn(5), [&shadows](ShadowPage*) { ++shadows; });
  EXPECT_EQ(shadows, 1);
}

TEST(PageHash, DirectPagesShadowNoTable) {
  PageHash hash(4);
  const auto direct = PageOf(5, kLeaves.WithDirect(true));
  hash.Insert(direct.get());
  hash.ForEachShadowOf(Gfn(5), [](ShadowPage*) { ADD_FAILURE(); });
}

TEST(PageHash, AVisitMayRemoveWhatItIsShown) {
  PageHash hash(1);
  std::vector<std::unique_ptr<ShadowPage>> pages;
  for (int level = 1; level <= 5; ++level) {
    pages.push_back(PageOf(5, PageRole().WithLevel(Level(level))));
    pages.push_back(PageOf(6, PageRole().WithLevel(Level(level))));
  }
  for (const auto& page : pages) hash.Insert(page.get());
  int seen = 0;
  hash.ForEachShadowOf(Gfn(5), [&](ShadowPage* page) {
    ++seen;
    hash.Remove(page);
  });
  EXPECT_EQ(seen, 5);
  hash.ForEachShadowOf(Gfn(5), [](ShadowPage*) { ADD_FAILURE(); });
  for (int level = 1; level <= 5; ++level) {
    EXPECT_NE(hash.Find(Gfn(6), PageRole().WithLevel(Level(level)), 1), nullptr);
  }
}

TEST(PageHash, HoldsWhatAMapWouldHold) {
  std::mt19937_64 random(1);
  PageHash hash(3);  // long buckets
  std::map<std::tuple<uint64_t, uint32_t>, std::unique_ptr<ShadowPage>> model;
  for (int i = 0; i < 5000; ++i) {
    const uint64_t gfn = random() % 40;
    const PageRole role = PageRole().WithLevel(Level(1 + static_cast<int>(random() % 4)));
    auto& page = model[{gfn, role.raw()}];
    ASSERT_EQ(hash.Find(Gfn(gfn), role, 1), page.get());
    if (page == nullptr) {
      page = PageOf(gfn, role);
      hash.Insert(page.get());
    } else if (random() % 2 == 0) {
      hash.Remove(page.get());
      page = nullptr;
    }
  }
}

}  // namespace
}  // namespace tdp
