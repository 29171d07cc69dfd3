// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run rmap/slot_rmap.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

#include "tdp/tests/relacy/relacy_sync.h"
//
#include "tdp/base/check.cc"
#include "tdp/rmap/slot_rmap.cc"

namespace tdp {
namespace {

constexpr int kIterations = 5'000;
constexpr Gfn kGfn{0x123};

// Two vCPUs make room for one frame; a third asks whether there is room.
struct PrepareTwice : rl::test_suite<PrepareTwice, 3> {
  void before() { rmap = *SlotRmap::Create(Gfn(0), kLevel2M.pages()); }
  void after() {
    for (RmapHead* head : heads) RL_ASSERT(head == rmap->Find(kGfn, kLevel4K));
    rmap.reset();
  }
  void thread(unsigned index) {
    if (index < 2) {
      RL_ASSERT(rmap->Prepare(kGfn).ok());
      heads[index] = rmap->Find(kGfn, kLevel4K);
      return;
    }
    if (!rmap->IsPrepared(kGfn)) return;
    for (const Level level : {kLevel4K, kLevel2M, kLevel1G}) {
      RL_ASSERT(rmap->Find(kGfn, level) != nullptr);
    }
  }

  std::unique_ptr<SlotRmap> rmap;
  std::array<RmapHead*, 2> heads{};
};

// Two vCPUs fill heads of one chunk, while a third makes room for it.
struct HoldTwice : rl::test_suite<HoldTwice, 3> {
  void before() {
    rmap = *SlotRmap::Create(Gfn(0), kLevel2M.pages());
    RL_ASSERT(rmap->Prepare(kGfn).ok());
    filled($) = 0;
  }
  void after() {
    RL_ASSERT(filled($) == 2);
    rmap.reset();
  }
  void thread(unsigned index) {
    if (index == 2) {
      RL_ASSERT(rmap->Prepare(kGfn).ok());
      return;
    }
    const SlotRmap::Hold hold(*rmap, kGfn, kLevel4K);
    RL_ASSERT(hold.is_there());
    filled($) = filled($) + 1;
  }

  std::unique_ptr<SlotRmap> rmap;
  rl::var<int> filled;
};

TEST(SlotRmapOrders, WhoeverHoldsAHeadSeesWhatTheLastHolderDid) {
  EXPECT_EQ("", relacy::Failure<HoldTwice>(kIterations));
}

TEST(SlotRmapOrders, WhoeverFindsTheSmallestHeadFindsThemAllAndBothFindTheSame) {
  EXPECT_EQ("", relacy::Failure<PrepareTwice>(kIterations));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
