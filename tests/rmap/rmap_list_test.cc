// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/rmap/rmap_list.h"

#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

// Keeps entries and their places as two arrays of the same shape.
struct ArrayPlaces {
  RmapPlace& operator()(uint64_t* entry) const { return (*places)[entry - first]; }

  uint64_t* first;
  std::vector<RmapPlace>* places;
};

template <typename N>
class RmapListTest : public testing::Test {
 protected:
  using List = RmapList<ArrayPlaces, N::value>;
  static constexpr size_t kEntries = 200;

  void Add(int i) {
    ASSERT_TRUE(cache_.Refill(List::kDescriptorsPerAdd).ok());
    List::Add(head_, &entries_[static_cast<size_t>(i)], places(), cache_);
  }
  void Remove(int i) { List::Remove(head_, &entries_[static_cast<size_t>(i)], places(), cache_); }
  int IndexOf(const uint64_t* entry) const { return static_cast<int>(entry - entries_.data()); }
  std::vector<int> Contents() const {
    std::vector<int> found;
    List::ForEach(head_, [&](uint64_t* entry) { found.push_back(IndexOf(entry)); });
    return found;
  }
  ArrayPlaces places() { return {entries_.data(), &places_}; }

  std::vector<uint64_t> entries_ = std::vector<uint64_t>(kEntries);
  std::vector<RmapPlace> places_ = std::vector<RmapPlace>(kEntries);
  DescriptorPool pool_{sizeof(typename List::Descriptor)};
  DescriptorCache cache_{pool_};
  RmapHead head_;
};

template <int kN>
using Size = std::integral_constant<int, kN>;
using Sizes = testing::Types<Size<3>, Size<7>, Size<14>, Size<15>>;
TYPED_TEST_SUITE(RmapListTest, Sizes);

TYPED_TEST(RmapListTest, OneEntryNeedsNoDescriptorAndNoPlace) {
  this->Add(7);
  EXPECT_TRUE(this->head_.is_single());
  EXPECT_EQ(this->places_[7], nullptr);
  EXPECT_THAT(this->Contents(), ElementsAre(7));
  this->Remove(7);
  EXPECT_TRUE(this->head_.is_empty());
}

TYPED_TEST(RmapListTest, AChainDownToOneEntryIsASingleEntryAgain) {
  this->Add(1);
  const int before = this->cache_.size();
  this->Add(2);
  EXPECT_TRUE(this->head_.is_chain());
  EXPECT_EQ(this->cache_.size(), before - 1);
  this->Remove(1);
  EXPECT_TRUE(this->head_.is_single());
  EXPECT_EQ(this->cache_.size(), before);
  EXPECT_THAT(this->Contents(), ElementsAre(2));
  this->Remove(2);
}

TYPED_TEST(RmapListTest, AgreesWithASetUnderRandomAddsAndRemovals) {
  std::mt19937_64 random(6);
  std::set<int> model;
  for (int step = 0; step < 20000; ++step) {
    // The list drifts between empty and full.
    const bool grow = random() % 100 < (step / 2000 % 2 == 0 ? 60u : 40u);
    const int i = static_cast<int>(random() % this->kEntries);
    if (grow && model.insert(i).second) {
      this->Add(i);
    } else if (!grow && model.erase(i) != 0) {
      this->Remove(i);
    }
    ASSERT_EQ(TestFixture::List::Count(this->head_), model.size());
    ASSERT_TRUE(TestFixture::List::IsSound(this->head_, this->places()));
    if (step % 16 == 0) {
      ASSERT_THAT(this->Contents(), UnorderedElementsAreArray(model));
    }
  }
  for (const int i : model) this->Remove(i);
  EXPECT_TRUE(this->head_.is_empty());
}

TYPED_TEST(RmapListTest, EveryEntryIsVisitedOnceWhereTheVisitRemovesAnySubset) {
  std::mt19937_64 random(7);
  for (int size = 0; size < 70; ++size) {
    std::set<int> left;
    for (int i = 0; i < size; ++i) {
      this->Add(i);
      left.insert(i);
    }
    while (!left.empty()) {
      std::multiset<int> seen;
      const std::set<int> all = left;
      // Every third pass removes all.
      const uint64_t modulus = 1 + random() % 3;
      TestFixture::List::ForEach(this->head_, [&](uint64_t* entry) {
        const int i = this->IndexOf(entry);
        seen.insert(i);
        if (random() % modulus != 0) return;
        this->Remove(i);
        left.erase(i);
      });
      ASSERT_THAT(seen, UnorderedElementsAreArray(all)) << size;
    }
    ASSERT_TRUE(this->head_.is_empty());
  }
}

TYPED_TEST(RmapListTest, ClearShowsEveryEntryAndGivesEveryDescriptorBack) {
  for (int i = 0; i < 150; ++i) this->Add(i);
  std::set<int> seen;
  TestFixture::List::Clear(this->head_, this->cache_,
                           [&](uint64_t* entry) { seen.insert(this->IndexOf(entry)); });
  EXPECT_EQ(seen.size(), 150u);
  EXPECT_TRUE(this->head_.is_empty());
  EXPECT_EQ(this->pool_.taken(), static_cast<size_t>(this->cache_.size()));
}

TYPED_TEST(RmapListTest, EntriesAreShownLatestFirst) {
  for (int i = 0; i < 5; ++i) this->Add(i);
  EXPECT_THAT(this->Contents(), ElementsAre(4, 3, 2, 1, 0));
  for (int i = 0; i < 5; ++i) this->Remove(i);
}

TYPED_TEST(RmapListTest, RemovingAnEntryThatIsNotThereAborts) {
  this->Add(1);
  EXPECT_DEATH(this->Remove(2), "check failed");
  this->Remove(1);
}

}  // namespace
}  // namespace tdp
