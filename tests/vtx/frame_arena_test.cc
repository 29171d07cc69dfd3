// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/frame_arena.h"

#include <cstdlib>
#include <map>
#include <memory>
#include <random>

#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

constexpr ByteCount kBytes = MiB(4);

class FrameArenaTest : public ::testing::Test {
 protected:
  std::unique_ptr<void, void (*)(void*)> memory_{std::aligned_alloc(MiB(2), kBytes), std::free};
  FrameArena arena_{memory_.get(), kBytes};
};

TEST_F(FrameArenaTest, PiecesAreAlignedAndInside) {
  const Hpa page = *arena_.Allocate(kPageSize, kPageSize);
  const Hpa block = *arena_.Allocate(KiB(256), KiB(256));
  EXPECT_EQ(page, arena_.start());
  EXPECT_TRUE(block.is_aligned(KiB(256)));
  EXPECT_LE(block + KiB(256), arena_.end());
}

TEST_F(FrameArenaTest, BadNumbersAreNamed) {
  EXPECT_EQ(arena_.Allocate(100, kPageSize).status().message(), "size 0x64: not whole pages");
  EXPECT_EQ(arena_.Allocate(0, kPageSize).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(arena_.Allocate(kPageSize, 0x3000).status().message(),
            "alignment 0x3000: not a power of two of at least a page");
}

TEST_F(FrameArenaTest, WhatIsFreedCanBeHadAgainWhole) {
  const Hpa all = *arena_.Allocate(kBytes, kPageSize);
  EXPECT_EQ(arena_.Allocate(kPageSize, kPageSize).status().code(),
            absl::StatusCode::kResourceExhausted);
  arena_.Free(all + kPageSize, kPageSize);
  arena_.Free(all + 2 * kPageSize, kBytes - 2 * kPageSize);
  arena_.Free(all, kPageSize);
  EXPECT_EQ(*arena_.Allocate(kBytes, kPageSize), all);
}

TEST_F(FrameArenaTest, FreeingTwiceAborts) {
  const Hpa pages = *arena_.Allocate(3 * kPageSize, kPageSize);
  arena_.Free(pages, 2 * kPageSize);
  EXPECT_DEATH(arena_.Free(pages, kPageSize), "check failed");
  EXPECT_DEATH(arena_.Free(pages + kPageSize, 2 * kPageSize), "check failed") << "the first of two";
}

TEST_F(FrameArenaTest, FreeingWhatIsNotItsOwnAborts) {
  const Hpa all = *arena_.Allocate(kBytes, kPageSize);
  EXPECT_DEATH(arena_.Free(all + kBytes, kPageSize), "check failed") << "behind its end";
  EXPECT_DEATH(arena_.Free(all - kPageSize, kPageSize), "check failed") << "before its begin";
}

TEST_F(FrameArenaTest, WhatIsAskedForInZerosIsZero) {
  const Hpa page = *arena_.Allocate(kPageSize, kPageSize);
  auto* const words = arena_.PointerTo<uint64_t>(page);
  words[0] = words[511] = 0x1234;
  arena_.Free(page, kPageSize);
  ASSERT_EQ(*arena_.AllocateZeroed(kPageSize, kPageSize), page);
  EXPECT_EQ(words[0] | words[511], 0u);
}

TEST_F(FrameArenaTest, RandomPiecesNeverOverlapAndNothingIsLost) {
  std::mt19937_64 random(1);
  std::map<Hpa, ByteCount> pieces;
  ByteCount used = 0;
  for (int step = 0; step < 5000; ++step) {
    if (random() % 2 == 0 && !pieces.empty()) {
      auto victim = pieces.lower_bound(Hpa(arena_.start().raw() + random() % kBytes));
      if (victim == pieces.end()) victim = pieces.begin();
      arena_.Free(victim->first, victim->second);
      used -= victim->second;
      pieces.erase(victim);
    } else {
      const ByteCount bytes = (1 + random() % 64) * kPageSize;
      const auto piece = arena_.Allocate(bytes, kPageSize << random() % 6);
      if (!piece.ok()) continue;
      const auto next = pieces.lower_bound(*piece);
      ASSERT_TRUE(next == pieces.end() || *piece + bytes <= next->first);
      ASSERT_TRUE(next == pieces.begin() ||
                  std::prev(next)->first + std::prev(next)->second <= *piece);
      pieces[*piece] = bytes;
      used += bytes;
    }
    ASSERT_EQ(arena_.free_bytes(), kBytes - used);
  }
}

}  // namespace
}  // namespace tdp::vtx
