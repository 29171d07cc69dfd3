// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run memslot/dirty_ring.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

#include "tdp/tests/relacy/relacy_sync.h"

#include "tdp/base/check.cc"
#include "tdp/memslot/dirty_ring.cc"

namespace tdp {
namespace {

constexpr int kIterations = 10'000;
constexpr uint32_t kSize = 1024;
constexpr uint32_t kPushes = 3;

// A vCPU pushes beside a collector, around the end of a ring that is nearly full.
struct Ring : rl::test_suite<Ring, 2> {
  // The memory of an entry is the ring's own; whoever may touch the entry may touch its twin here.
  relacy::Plain& TwinOf(uint32_t at) { return twins[at % kTwins]; }

  void before() {
    ring = *DirtyRing::Create(kSize);
    // All but one entry are in use, and of those only the first few are let go below.
    for (uint32_t i = 0; i + 1 < kSize; ++i) RL_ASSERT(ring->Push({0, 0, i}));
    std::array<DirtyRingEntry, kTwins> first;
    RL_ASSERT(ring->Harvest(absl::MakeSpan(first)) == kTwins);
    for (relacy::Plain& twin : twins) twin.Write();
    pushed = kSize - 1;
    harvested = kTwins;
  }
  void after() { ring.reset(); }

  void thread(unsigned index) {
    if (index == 0) {
      for (uint32_t i = 0; i < kPushes; ++i) Push();
    } else {
      Reset();
      Harvest();
      Harvest();
    }
  }

  // Pushes an entry; the one that follows on the ring's last has the place of the first.
  void Push() {
    const uint32_t place = pushed % kSize;
    if (!ring->Push({0, 0, pushed})) return;
    if (place < kTwins) TwinOf(place).Write();  // after it was let go
    ++pushed;
  }
  // Resets the first entries, with which the collector is done: it reads them for the last time.
  void Reset() {
    uint32_t protected_pages = 0;
    const uint32_t freed = ring->Reset([&](const DirtyRingEntry& first, uint64_t mask) {
      RL_ASSERT(first.index == 0);
      protected_pages += static_cast<uint32_t>(std::popcount(mask));
      for (relacy::Plain& twin : twins) twin.Read();
    });
    RL_ASSERT(freed == kTwins && protected_pages == kTwins);
  }
  void Harvest() {
    std::array<DirtyRingEntry, kSize> found;
    const uint32_t count = ring->Harvest(absl::MakeSpan(found));
    for (uint32_t i = 0; i < count; ++i) RL_ASSERT(found[i].index == harvested + i);
    harvested += count;
  }

  static constexpr uint32_t kTwins = 4;
  std::unique_ptr<DirtyRing> ring;
  std::array<relacy::Plain, kTwins> twins;
  uint32_t pushed = 0;
  uint32_t harvested = 0;
};

// The collector must find in a page what the vCPU has written there before it pushed the page.
struct Payload : rl::test_suite<Payload, 2> {
  void before() { ring = *DirtyRing::Create(kSize); }
  void after() { ring.reset(); }
  void thread(unsigned index) {
    if (index == 0) {
      for (uint32_t i = 0; i < kPushes; ++i) {
        pages[i].Write();
        RL_ASSERT(ring->Push({0, 0, i}));
      }
      return;
    }
    std::array<DirtyRingEntry, 2> found;
    for (int tries = 0; tries < 3; ++tries) {
      const uint32_t count = ring->Harvest(absl::MakeSpan(found));
      for (uint32_t i = 0; i < count; ++i) pages[found[i].index].Read();
    }
  }

  std::unique_ptr<DirtyRing> ring;
  std::array<relacy::Plain, kPushes> pages;
};

TEST(DirtyRingOrders, ACollectorFindsEachEntryWholeAndInOrder) {
  EXPECT_EQ("", relacy::Failure<Ring>(kIterations));
}

TEST(DirtyRingOrders, APageThatIsHarvestedWasWrittenBefore) {
  EXPECT_EQ("", relacy::Failure<Payload>(kIterations));
}

TEST(DirtyRingOrders, WithoutReleaseAnEntryIsReadOrReusedTooEarly) {
  EXPECT_NE("", relacy::Failure<Payload>(kIterations, Weakening::kReleaseToRelaxed));
  EXPECT_NE("", relacy::Failure<Ring>(kIterations, Weakening::kReleaseToRelaxed));
}

TEST(DirtyRingOrders, WithoutAcquireAnEntryIsReadOrReusedTooEarly) {
  EXPECT_NE("", relacy::Failure<Payload>(kIterations, Weakening::kAcquireToRelaxed));
  EXPECT_NE("", relacy::Failure<Ring>(kIterations, Weakening::kAcquireToRelaxed));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
