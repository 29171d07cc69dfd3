// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run memslot/large_page_permits.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

// A directory has hundreds of counts.
#define TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE true
#include "tdp/tests/relacy/relacy_sync.h"
//
#include "tdp/base/check.cc"
#include "tdp/memslot/large_page_permits.cc"

namespace tdp {
namespace {

constexpr int kIterations = 2'000;
constexpr Gfn kTable{0x123};

struct Permits {
  void Make() {
    permits.emplace(Gfn(0), kLevel1G.pages(), Hva(0));
    RL_ASSERT(permits->PrepareWriteTracking(kTable).ok());
  }

  std::optional<LargePagePermits> permits;
};

struct Added : rl::test_suite<Added, 2>, Permits {
  void before() { Make(); }
  void after() { permits.reset(); }
  void thread(unsigned index) {
    if (index == 0) {
      RL_ASSERT(permits->AddWriteTracking(kTable).ok());
    } else if (permits->IsWriteTracked(kTable)) {
      RL_ASSERT(permits->ReasonsAgainst(kTable, kLevel2M) != 0);
      RL_ASSERT(permits->ReasonsAgainst(kTable, kLevel1G) != 0);
    }
  }
};

template <int kLevel>
struct Removed : rl::test_suite<Removed<kLevel>, 2>, Permits {
  void before() {
    Make();
    RL_ASSERT(permits->AddWriteTracking(kTable).ok());
  }
  void after() { permits.reset(); }
  void thread(unsigned index) {
    if (index == 0) {
      permits->RemoveWriteTracking(kTable);
    } else if (permits->ReasonsAgainst(kTable, Level(kLevel)) == 0) {
      RL_ASSERT(!permits->IsWriteTracked(kTable));
    }
  }
};

TEST(LargePagePermitsOrders, APageThatIsSeenTrackedLiesInNoLargeLeaf) {
  EXPECT_EQ("", relacy::Failure<Added>(kIterations));
}

TEST(LargePagePermitsOrders, WhereALargeLeafIsSeenPermittedNoPageIsTrackedAnyMore) {
  EXPECT_EQ("", relacy::Failure<Removed<2> >(kIterations));
  EXPECT_EQ("", relacy::Failure<Removed<3> >(kIterations));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
