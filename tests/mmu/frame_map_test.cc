// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/frame_map.h"

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tdp {
namespace {

TEST(FrameMap, AChangeTouchesItsRangeAndMergesWithEqualNeighbours) {
  const FrameMap<int> none(0);
  EXPECT_TRUE(none.IsAll(0));
  const auto one = [](int) { return 1; };
  const FrameMap<int> middle = none.With({Gfn(8), Gfn(16)}, one);
  EXPECT_EQ(middle.At(Gfn(7)), 0);
  EXPECT_EQ(middle.At(Gfn(8)), 1);
  EXPECT_EQ(middle.At(Gfn(15)), 1);
  EXPECT_EQ(middle.At(Gfn(16)), 0);
  EXPECT_EQ(middle.EndOfRun(Gfn(0)), Gfn(8));
  EXPECT_FALSE(middle.IsUniform(Gfn(3), kLevel2M));
  EXPECT_TRUE(middle.IsUniform(Gfn(600), kLevel2M));
  const FrameMap<int> wider = middle.With({Gfn(16), Gfn(20)}, one);
  EXPECT_EQ(wider.runs(), 3u);
  EXPECT_TRUE(wider.With({Gfn(8), Gfn(20)}, [](int) { return 0; }).IsAll(0));
}

// An array of values is the model, for every pair of ends.
TEST(FrameMap, AgreesWithAnArray) {
  constexpr uint64_t kFrames = 12;
  FrameMap<int> map(0);
  std::vector<int> array(kFrames + 4, 0);
  for (uint64_t first = 0; first < kFrames; ++first) {
    for (uint64_t end = first + 1; end <= kFrames; ++end) {
      const auto change = [&](int old) { return (old + static_cast<int>(first)) % 3; };
      map = map.With({Gfn(first), Gfn(end)}, change);
      for (uint64_t i = first; i < end; ++i) array[i] = change(array[i]);
      for (uint64_t i = 0; i < array.size(); ++i) ASSERT_EQ(map.At(Gfn(i)), array[i]) << i;
    }
  }
}

// Maps the first frames of runs to their values, as `FrameMap` should keep them.
class Model {
 public:
  Model() { runs_[0] = 0; }

  template <typename Change>
  void Apply(uint64_t first, uint64_t end, Change change) {
    SplitAt(first);
    SplitAt(end);
    for (auto at = runs_.find(first); at != runs_.end() && at->first < end; ++at) {
      at->second = change(at->second);
    }
    for (auto at = runs_.begin(); at != runs_.end();) {
      const auto next = std::next(at);
      if (next != runs_.end() && next->second == at->second) {
        runs_.erase(next);
      } else {
        at = next;
      }
    }
  }
  const std::map<uint64_t, int>& runs() const { return runs_; }

 private:
  void SplitAt(uint64_t frame) {
    runs_.emplace(frame, std::prev(runs_.upper_bound(frame))->second);
  }

  std::map<uint64_t, int> runs_;
};

struct IsTwo {
  bool operator()(int value) const { return value == 2; }
};
using Map = FrameMap<int, IsTwo>;

testing::AssertionResult Agrees(const Map& map, const Model& model) {
  if (map.runs() != model.runs().size()) {
    return testing::AssertionFailure() << map.runs() << " runs, not " << model.runs().size();
  }
  bool two = false;
  for (auto at = model.runs().begin(); at != model.runs().end(); ++at) {
    const auto next = std::next(at);
    const uint64_t end = next == model.runs().end() ? ~uint64_t{0} >> kPageShift : next->first;
    for (const uint64_t frame : {at->first, at->first + (end - at->first) / 2, end - 1}) {
      if (map.At(Gfn(frame)) != at->second || map.EndOfRun(Gfn(frame)) != Gfn(end)) {
        return testing::AssertionFailure()
               << "at " << frame << ": " << map.At(Gfn(frame)) << " up to "
               << map.EndOfRun(Gfn(frame)) << ", not " << at->second << " up to " << end;
      }
    }
    two = two || at->second == 2;
  }
  if (map.has_marked() != two) return testing::AssertionFailure() << "marked wrongly";
  return testing::AssertionSuccess();
}

// There are thousands of runs, so that nodes at several heights split and go, by changes of a few
// frames and of many.
TEST(FrameMap, AgreesWithAMapOfRunsAsItGrowsAndShrinks) {
  std::mt19937_64 random(1);
  Map map(0);
  Model model;
  for (int phase = 0; phase < 6; ++phase) {
    const bool grows = phase % 2 == 0;
    for (int i = 0; i < 3000; ++i) {
      const uint64_t frames = grows ? 1 + random() % 3 : 1 + random() % 4000;
      const uint64_t first = random() % 60000;
      const int value = static_cast<int>(random() % 3);
      const auto change = [value, grows](int old) {
        return grows ? (old + value) % 3 : value == 2 ? old : value;
      };
      map = map.With({Gfn(first), Gfn(first + frames)}, change);
      model.Apply(first, first + frames, change);
      if (i % 500 == 0) {
        ASSERT_TRUE(Agrees(map, model)) << "phase " << phase << ", change " << i;
      }
    }
    ASSERT_TRUE(Agrees(map, model)) << "phase " << phase;
  }
  map = map.With({Gfn(0), Gfn(~uint64_t{0} >> kPageShift)}, [](int) { return 7; });
  EXPECT_TRUE(map.IsAll(7));
}

TEST(FrameMap, AtItsFirstFrameAndItsLast) {
  constexpr Gfn kEnd(~uint64_t{0} >> kPageShift);
  const auto one = [](int) { return 1; };
  const FrameMap<int> low = FrameMap<int>(0).With({Gfn(0), Gfn(1)}, one);
  EXPECT_EQ(low.At(Gfn(0)), 1);
  EXPECT_EQ(low.EndOfRun(Gfn(0)), Gfn(1));
  const FrameMap<int> both = low.With({kEnd - PageCount(1), kEnd}, one);
  EXPECT_EQ(both.At(kEnd - PageCount(1)), 1);
  EXPECT_EQ(both.EndOfRun(Gfn(1)), kEnd - PageCount(1));
  EXPECT_EQ(both.EndOfRun(kEnd - PageCount(1)), kEnd);
  EXPECT_EQ(both.runs(), 3u);
}

// Versions of the map live and die in any order.
TEST(FrameMap, AMapThatOthersWereMadeFromStaysAsItIs) {
  std::mt19937_64 random(2);
  std::vector<std::optional<Map>> maps;
  std::vector<Model> models;
  maps.emplace_back(Map(0));
  models.emplace_back();
  for (int i = 0; i < 400; ++i) {
    const size_t from = random() % maps.size();
    if (!maps[from]) continue;
    const uint64_t first = random() % 2000;
    const uint64_t end = first + 1 + random() % 40;
    const int value = static_cast<int>(random() % 3);
    const auto change = [value](int) { return value; };
    maps.emplace_back(maps[from]->With({Gfn(first), Gfn(end)}, change));
    Model next = models[from];
    next.Apply(first, end, change);
    models.push_back(next);
    if (const size_t gone = random() % maps.size(); gone != 0 && random() % 4 == 0) {
      maps[gone].reset();
    }
  }
  for (size_t i = 0; i < maps.size(); ++i) {
    if (maps[i]) {
      ASSERT_TRUE(Agrees(*maps[i], models[i])) << i;
    }
  }
}

}  // namespace
}  // namespace tdp
