// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run memslot/dirty_log.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

// A log has thousands of words.
#define TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE true
#include "tdp/tests/relacy/relacy_sync.h"

#include "tdp/base/check.cc"
#include "tdp/memslot/dirty_log.cc"

namespace tdp {
namespace {

constexpr int kIterations = 2'000;
// The pages lie in two words of a chunk, and in another chunk.
constexpr std::array<uint64_t, 3> kPages = {0, 1, DirtyLog::kPagesPerChunk};

struct Log {
  Log()
      : log(*DirtyLog::Create(PageCount(2 * DirtyLog::kPagesPerChunk), DirtyLog::Initial::kClean)) {
    for (const uint64_t page : kPages) {
      RL_ASSERT(log->Prepare(page).ok());
      log->Mark(page);
    }
    Take([](uint64_t) {});
  }

  template <typename Visit>
  void Take(Visit visit) {
    RL_ASSERT(log->Take([&visit](uint64_t base, uint64_t mask) {
                   for (; mask != 0; mask &= mask - 1) visit(base + std::countr_zero(mask));
                 })
                  .ok());
  }

  std::unique_ptr<DirtyLog> log;
};

// Two threads mark, one takes: nothing is lost, and who takes a page sees what made it dirty.
template <bool kSamePage>
struct MarkAndTake : rl::test_suite<MarkAndTake<kSamePage>, 3> {
  static constexpr uint64_t IndexOf(unsigned marker) { return kSamePage ? 0 : marker; }

  void before() { log.emplace(); }
  void after() {
    log->Take([this](uint64_t page) { taken[page] = true; });
    for (unsigned marker = 0; marker < 2; ++marker) {
      RL_ASSERT(taken[kPages[IndexOf(marker) == 0 ? 0 : 2]]);
    }
    log.reset();
  }
  void thread(unsigned index) {
    if (index < 2) {
      const uint64_t page = kPages[IndexOf(index) == 0 ? 0 : 2];
      contents[index].Write();
      log->log->Mark(page);
      return;
    }
    for (int i = 0; i < 2; ++i) {
      log->Take([this](uint64_t page) {
        taken[page] = true;
        // If two threads mark one page nobody knows whose mark this is.
        if (!kSamePage) contents[page == 0 ? 0 : 1].Read();
      });
    }
  }

  std::optional<Log> log;
  std::map<uint64_t, bool> taken;
  std::array<relacy::Plain, 2> contents;
};

// A page whose mark has returned is in the next take, though another thread marked it first and has
// not come to the summaries, and the take before may just have cleared them.
struct TakeAfterMark : rl::test_suite<TakeAfterMark, 3> {
  void before() {
    log.emplace();
    log->log->Mark(kPages[1]);  // so every summary is set, and no bit of the page itself
    done.load();
  }
  void after() {
    log->Take([](uint64_t) {});
    log.reset();
  }
  void thread(unsigned index) {
    if (index == 0) {
      log->log->Mark(kPages[0]);
    } else if (index == 1) {
      Take();
      done.store(1, std::memory_order_release);
    } else {
      log->log->Mark(kPages[0]);
      SpinUntil([this] { return done.load(std::memory_order_acquire) != 0; });
      Take();
      RL_ASSERT(found);
    }
  }
  void Take() {
    log->Take([this](uint64_t page) { found = found || page == kPages[0]; });
  }

  Atomic<int> done{0};
  std::optional<Log> log;
  bool found = false;
};

// `Clear` takes single pages beside a mark of their neighbours.
struct MarkAndClear : rl::test_suite<MarkAndClear, 2> {
  void before() { log.emplace(); }
  void after() {
    log->Take([this](uint64_t page) { taken[page] = true; });
    RL_ASSERT(taken[kPages[0]] && taken[kPages[1]]);
    log.reset();
  }
  void thread(unsigned index) {
    if (index == 0) {
      log->log->Mark(kPages[0]);
      log->log->Mark(kPages[1]);
      return;
    }
    const uint64_t first_page = 1;
    RL_ASSERT(log->log
                  ->Clear(0, 64, absl::MakeConstSpan(&first_page, 1),
                          [this](uint64_t base, uint64_t mask) {
                            RL_ASSERT(base == 0 && mask == 1);
                            taken[kPages[0]] = true;
                          })
                  .ok());
  }

  std::optional<Log> log;
  std::map<uint64_t, bool> taken;
};

TEST(DirtyLogOrders, AMarkBesideATakeIsInThisTakeOrInTheNext) {
  EXPECT_EQ("", relacy::Failure<MarkAndTake<false> >(kIterations));
  EXPECT_EQ("", relacy::Failure<MarkAndTake<true> >(kIterations));
}

TEST(DirtyLogOrders, AMarkThatHasReturnedIsInTheNextTake) {
  EXPECT_EQ("", relacy::Failure<TakeAfterMark>(kIterations));
}

TEST(DirtyLogOrders, AClearLeavesTheMarksOfNeighbours) {
  EXPECT_EQ("", relacy::Failure<MarkAndClear>(kIterations));
}

// Sequential consistency is more than the log needs: what its words hand over is enough.
TEST(DirtyLogOrders, AcquireAndReleaseSuffice) {
  EXPECT_EQ("", relacy::Failure<MarkAndTake<true> >(kIterations, Weakening::kSeqCstToAcqRel));
  EXPECT_EQ("", relacy::Failure<TakeAfterMark>(kIterations, Weakening::kSeqCstToAcqRel));
}

TEST(DirtyLogOrders, WithoutReleaseATakerDoesNotSeeWhatMadeThePageDirty) {
  EXPECT_NE("", relacy::Failure<MarkAndTake<false> >(kIterations, Weakening::kReleaseToRelaxed));
}

TEST(DirtyLogOrders, WithoutAcquireATakerDoesNotSeeWhatMadeThePageDirty) {
  EXPECT_NE("", relacy::Failure<MarkAndTake<false> >(kIterations, Weakening::kAcquireToRelaxed));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
