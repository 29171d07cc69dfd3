// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/host_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

namespace tdp::sim {
namespace {

constexpr Hva kHva(0x40000000);

TEST(HostMemory, IsBackedAtTheFirstTouchAndReachableBothWays) {
  HostMemory memory({.size = GiB(1)});
  const PageCount before = memory.free_frames();
  ASSERT_TRUE(memory.Map(kHva, MiB(1)).ok());
  EXPECT_EQ(memory.free_frames(), before);
  const auto page = memory.Resolve(kHva + 0x3123, Access::Write());
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->order, 0);
  EXPECT_EQ(before - memory.free_frames(), PageCount(1));
  std::byte* byte = *memory.AtHva(kHva + 0x3123);
  *byte = std::byte{42};
  EXPECT_EQ(*memory.At(page->hfn.address() + 0x123), std::byte{42});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(byte),
            page->hfn.address().raw() + 0x123 + memory.direct_map_offset());
}

TEST(HostMemory, GivesLargePiecesWhereRangeAndMemoryAllow) {
  HostMemory memory({.size = GiB(4)});
  ASSERT_TRUE(memory.Map(Hva(GiB(1)), GiB(2), {.order = 18}).ok());
  ASSERT_TRUE(memory.Map(Hva(GiB(8) + MiB(1)), MiB(4), {.order = 9}).ok());
  EXPECT_EQ(memory.Resolve(Hva(GiB(1) + 5), Access::Read())->order, 18);
  EXPECT_EQ(memory.Resolve(Hva(GiB(8) + MiB(1)), Access::Read())->order, 0) << "before 2 MiB";
  const auto middle = memory.Resolve(Hva(GiB(8) + MiB(3)), Access::Read());
  EXPECT_EQ(middle->order, 9);
  EXPECT_EQ(middle->hfn.raw() % 512, 256u) << "aligned alike in both spaces";
}

// All kinds of calls take part, and both their frames and what these hold must be the same.
TEST(HostMemory, AfterAResetTheSameCallsFindTheSameFramesWithZerosInThem) {
  HostMemory memory({.size = GiB(1), .shuffled = true, .fragmentation = 0.3});
  const PageCount free = memory.free_frames();
  const auto use = [&] {
    std::vector<uint64_t> frames;
    EXPECT_TRUE(memory.Map(kHva, MiB(8), {.order = 9}).ok());
    EXPECT_TRUE(memory.Map(kHva + MiB(8), MiB(1)).ok());
    const Hpa block = *memory.AllocateTableBlock();
    frames.push_back(block.raw());
    std::memset(memory.At(block), 0xff, kTableBlockBytes);
    for (ByteCount at = 0; at < MiB(9); at += 3 * kPageSize) {
      const Hpa page = memory.Resolve(kHva + at, Access::Write())->hfn.address();
      frames.push_back(page.raw());
      EXPECT_EQ(*memory.At(page + 9), std::byte{0}) << "at 0x" << std::hex << at;
      std::memset(memory.At(page), 0xff, kPageSize);
    }
    EXPECT_TRUE(memory.Migrate(kHva + MiB(1), MiB(2)).ok());
    EXPECT_TRUE(memory.Discard(kHva + MiB(8), MiB(1)).ok());
    EXPECT_EQ(**memory.AtHva(kHva + MiB(8)), std::byte{0});
    memory.FreeTableBlock(block);
    memory.SetTableBlockBudget(0);
    return frames;
  };
  const std::vector<uint64_t> frames = use();
  for (int i = 0; i < 3; ++i) {
    memory.Reset();
    EXPECT_EQ(memory.free_frames(), free);
    EXPECT_FALSE(memory.Resolve(kHva, Access::Read()).ok());
    EXPECT_EQ(use(), frames);
  }
}

TEST(HostMemory, FragmentationLeavesNoLargePieces) {
  HostMemory memory({.size = GiB(1), .fragmentation = 1});
  ASSERT_TRUE(memory.Map(kHva, MiB(4), {.order = 9}).ok());
  EXPECT_EQ(memory.Resolve(kHva, Access::Read())->order, 0);
}

TEST(HostMemory, SequentialFramesAscendAndShuffledOnesDoNot) {
  for (const bool shuffled : {false, true}) {
    HostMemory memory({.size = GiB(1), .shuffled = shuffled});
    ASSERT_TRUE(memory.Map(kHva, MiB(1)).ok());
    int ascents = 0;
    Hfn last;
    std::set<uint64_t> frames;
    for (ByteCount offset = 0; offset < MiB(1); offset += kPageSize) {
      const Hfn frame = memory.Resolve(kHva + offset, Access::Read())->hfn;
      ascents += frame == last + PageCount(1) ? 1 : 0;
      last = frame;
      frames.insert(frame.raw());
    }
    EXPECT_EQ(frames.size(), 256u);
    if (shuffled) {
      EXPECT_LT(ascents, 16);
    } else {
      EXPECT_EQ(ascents, 255);
    }
  }
}

TEST(HostMemory, MigrateMovesTheContentAndDiscardLosesIt) {
  HostMemory memory({.size = GiB(1)});
  ASSERT_TRUE(memory.Map(kHva, MiB(4), {.order = 9}).ok());
  **memory.AtHva(kHva + 0x1000) = std::byte{7};
  const Hfn before = memory.Resolve(kHva + 0x1000, Access::Read())->hfn;
  ASSERT_TRUE(memory.Migrate(kHva + 0x1000, kPageSize).ok());
  const auto after = memory.Resolve(kHva + 0x1000, Access::Read());
  EXPECT_NE(after->hfn, before);
  EXPECT_EQ(after->order, 0);
  EXPECT_EQ(memory.Resolve(kHva, Access::Read())->order, 0) << "the large piece is broken up";
  EXPECT_EQ(**memory.AtHva(kHva + 0x1000), std::byte{7});
  ASSERT_TRUE(memory.Discard(kHva, MiB(4)).ok());
  EXPECT_EQ(**memory.AtHva(kHva + 0x1000), std::byte{0});
  EXPECT_EQ(memory.Resolve(kHva, Access::Read())->order, 9) << "whole again after the discard";
}

TEST(HostMemory, AMoveCostsNoFrame) {
  HostMemory memory({.size = GiB(1)});
  ASSERT_TRUE(memory.Map(kHva, MiB(1)).ok());
  for (ByteCount at = 0; at < MiB(1); at += kPageSize) {
    ASSERT_TRUE(memory.Resolve(kHva + at, Access::Write()).ok());
  }
  const PageCount free = memory.free_frames();
  ASSERT_TRUE(memory.Migrate(kHva, MiB(1)).ok());
  EXPECT_EQ(memory.free_frames(), free);
}

TEST(HostMemory, APieceThatIsDiscardedInPartIsSmallInTheRest) {
  HostMemory memory({.size = GiB(1)});
  ASSERT_TRUE(memory.Map(kHva, MiB(4), {.order = 9}).ok());
  ASSERT_EQ(memory.Resolve(kHva, Access::Write())->order, 9);
  ASSERT_EQ(memory.Resolve(kHva + MiB(2), Access::Write())->order, 9);
  ASSERT_TRUE(memory.Discard(kHva, MiB(2) + kPageSize).ok());
  EXPECT_EQ(memory.Resolve(kHva + MiB(3), Access::Write())->order, 0);
}

TEST(HostMemory, APageThatIsDiscardedComesBackAloneInItsPiece) {
  HostMemory memory({.size = GiB(1)});
  ASSERT_TRUE(memory.Map(kHva, MiB(2), {.order = 9}).ok());
  **memory.AtHva(kHva) = std::byte{1};
  **memory.AtHva(kHva + 7 * kPageSize) = std::byte{7};
  ASSERT_TRUE(memory.Discard(kHva + 5 * kPageSize, kPageSize).ok());
  EXPECT_EQ(memory.Resolve(kHva + 5 * kPageSize, Access::Write())->order, 0);
  EXPECT_EQ(**memory.AtHva(kHva), std::byte{1});
  EXPECT_EQ(**memory.AtHva(kHva + 7 * kPageSize), std::byte{7});
}

TEST(FrameAllocator, HasAsManyFramesAsItSays) {
  FrameAllocator allocator({.frames = PageCount(4096), .fragmentation = 0.5});
  const PageCount said = allocator.free_frames();
  uint64_t given = 0;
  while (allocator.Allocate(0).has_value()) ++given;
  EXPECT_EQ(given, said.raw());
  EXPECT_EQ(allocator.free_frames(), PageCount(0));
}

TEST(HostMemory, ProtectAndUnmapDenyWhatTheySay) {
  HostMemory memory({.size = GiB(1)});
  ASSERT_TRUE(memory.Map(kHva, MiB(1)).ok());
  ASSERT_TRUE(memory.Protect(kHva + 0x2000, 0x1000, false).ok());
  EXPECT_EQ(memory.Resolve(kHva + 0x2000, Access::Write()).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_FALSE(memory.Resolve(kHva + 0x2000, Access::Read())->writable);
  EXPECT_TRUE(memory.Resolve(kHva + 0x3000, Access::Write()).ok());
  const PageCount free = memory.free_frames();
  ASSERT_TRUE(memory.Unmap(kHva + 0x2000, 0x1000).ok());
  EXPECT_EQ(memory.free_frames() - free, PageCount(1));
  EXPECT_EQ(memory.Resolve(kHva + 0x2000, Access::Read()).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(memory.Resolve(kHva + 0x1000, Access::Read()).ok());
  EXPECT_TRUE(memory.Map(kHva + 0x2000, 0x1000).ok());
}

TEST(HostMemory, BadRangesAreRefusedByFieldAndValue) {
  HostMemory memory({.size = GiB(1)});
  const absl::Status odd = memory.Map(kHva + 1, kPageSize);
  EXPECT_EQ(odd.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(odd.message().find("0x40000001"), std::string::npos);
  EXPECT_EQ(memory.Map(kHva, 100).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(memory.Map(kHva, kPageSize, {.order = 5}).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(memory.Map(kHva, MiB(1)).ok());
  EXPECT_EQ(memory.Map(kHva + kPageSize, kPageSize).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(memory.Protect(kHva, MiB(2), false).code(), absl::StatusCode::kNotFound);
}

TEST(HostMemory, TableBlocksFollowTheirBudget) {
  HostMemory memory({.size = GiB(1)});
  memory.SetTableBlockBudget(1);
  const auto block = memory.AllocateTableBlock();
  ASSERT_TRUE(block.ok());
  EXPECT_TRUE(block->is_aligned(kTableBlockBytes));
  EXPECT_EQ(memory.AllocateTableBlock().status().code(), absl::StatusCode::kResourceExhausted);
  memory.FreeTableBlock(*block);
  EXPECT_EQ(memory.table_blocks_in_use(), 0);
  memory.SetTableBlockBudget(std::nullopt);
  EXPECT_TRUE(memory.AllocateTableBlock().ok());
}

TEST(FrameAllocator, FreedFramesMergeBackIntoLargeBlocks) {
  FrameAllocator allocator({.frames = PageCount(4096), .reserved = PageCount(512)});
  std::vector<Hfn> frames;
  while (const auto frame = allocator.Allocate(0)) frames.push_back(*frame);
  EXPECT_EQ(frames.size(), 4096u - 512u);
  EXPECT_FALSE(allocator.Allocate(9).has_value());
  for (Hfn frame : frames) allocator.Free(frame, 0);
  int large = 0;
  while (allocator.Allocate(9).has_value()) ++large;
  EXPECT_EQ(large, 7);
}

}  // namespace
}  // namespace tdp::sim
