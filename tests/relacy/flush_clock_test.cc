// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run mmu/sync/flush_clock.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

#include "tdp/tests/relacy/relacy_sync.h"

#include "tdp/base/check.cc"
#include "tdp/mmu/backend.cc"
#include "tdp/mmu/sync/flush_clock.cc"

namespace tdp {
namespace {

constexpr int kIterations = 20'000;

// The clock needs a machine that kicks; the vCPUs of these tests leave by themselves.
class NoMachine : public Backend {
 public:
  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override { return absl::UnimplementedError(""); }
  void FreeTableBlock(Hpa) override {}
  absl::StatusOr<HostPage> Resolve(Hva, Access) override { return absl::UnimplementedError(""); }
  void Invalidate(VcpuId, Eptp) override {}
  void InvalidateAll(VcpuId) override {}
  void Kick(absl::Span<const VcpuId>) override {}

 private:
  Capabilities capabilities_;
};

// Is a mapping as a vCPU's TLB keeps it: read from the tables once, and used until a flush.
class CachedMapping {
 public:
  explicit CachedMapping(Atomic<int>& entry) : entry_(entry) {}
  void Flush() { cached_ = false; }
  // Hardware reads the entry in no order with anything else.
  bool Use() { return cached_ = cached_ || entry_.load(std::memory_order_relaxed) != 0; }

 private:
  Atomic<int>& entry_;
  bool cached_ = false;
};

struct World : TableReclaimer {
  // Makes the memory that the tables let vCPUs reach somebody else's.
  void Reclaim(TableList&& subtrees) override {
    while (subtrees.Pop() != nullptr) freed_table.Write();
  }

  NoMachine machine;
  Atomic<int> entry{1};       // maps `page`
  Atomic<int> link{1};        // leads to `freed_table`
  Atomic<int> other_root{1};  // maps `other_page`, below a root that only a flush of all drops
  relacy::Plain page, freed_table, other_page;
  TablePage table;
  FlushClock clock{machine, *this};
  std::array<std::optional<FlushClock::Member>, 2> members;
};

enum class Operation { kZapPage, kRetireTable, kReplaceRoot, kMergeTwo };

// Two vCPUs enter twice each while `kFirst`, and in another thread `kSecond`, take something away.
template <Operation kFirst, Operation kSecond>
struct Flushes : rl::test_suite<Flushes<kFirst, kSecond>, 3> {
  void before() {
    world.emplace();
    world->members[0].emplace(world->clock, 0);
    world->page.Write();
    world->freed_table.Write();
    world->other_page.Write();
  }
  void after() {
    world->clock.Reclaim();
    world->members[0].reset();
    world.reset();
  }

  void thread(unsigned index) {
    if (index == 0) return RunVcpu(*world->members[0]);
    Operate(index == 1 ? kFirst : kSecond);
  }

  void RunVcpu(FlushClock::Member& member) {
    CachedMapping page(world->entry);
    CachedMapping link(world->link);
    CachedMapping other(world->other_root);
    for (int i = 0; i < 2; ++i) {
      const FlushClock::Member::Owed owed = member.EnterGuest();
      if (owed != FlushClock::Member::Owed::kNothing) {
        page.Flush();
        link.Flush();
      }
      if (owed == FlushClock::Member::Owed::kAllRoots) other.Flush();
      if (page.Use()) world->page.Read();
      if (link.Use()) world->freed_table.Read();
      if (other.Use()) world->other_page.Read();
      member.LeaveGuest();
    }
  }

  void Operate(Operation operation) {
    switch (operation) {
      case Operation::kZapPage: {
        world->entry.store(0, std::memory_order_release);
        world->clock.Advance().Settle();
        world->page.Write();
        break;
      }
      case Operation::kRetireTable: {
        world->link.store(0, std::memory_order_release);
        PendingFlush flush = world->clock.Advance();
        TableList detached;
        detached.Push(&world->table);
        world->clock.Retire(std::move(detached), flush);
        flush.Settle();
        break;
      }
      case Operation::kReplaceRoot: {
        world->other_root.store(0, std::memory_order_release);
        world->clock.AdvanceAllRoots().Settle();
        world->other_page.Write();
        break;
      }
      case Operation::kMergeTwo: {
        world->entry.store(0, std::memory_order_release);
        PendingFlush flush = world->clock.Advance();
        world->other_root.store(0, std::memory_order_release);
        flush.Merge(world->clock.AdvanceAllRoots());
        flush.Settle();
        world->page.Write();
        world->other_page.Write();
        break;
      }
    }
  }

  std::optional<World> world;
};

using ZapAndRetire = Flushes<Operation::kZapPage, Operation::kRetireTable>;
using ZapAndReplace = Flushes<Operation::kZapPage, Operation::kReplaceRoot>;
using RetireAndReplace = Flushes<Operation::kRetireTable, Operation::kReplaceRoot>;
using RetireAndMerge = Flushes<Operation::kRetireTable, Operation::kMergeTwo>;

TEST(FlushClockOrders, NoVcpuReachesAPageAfterTheFlushOfItsZap) {
  EXPECT_EQ("", relacy::Failure<ZapAndRetire>(kIterations));
  EXPECT_EQ("", relacy::Failure<ZapAndReplace>(kIterations));
}

TEST(FlushClockOrders, NoVcpuWalksATableThatIsFreedBesideAnotherRoot) {
  EXPECT_EQ("", relacy::Failure<RetireAndReplace>(kIterations));
}

TEST(FlushClockOrders, MergedFlushesPayBothDebts) {
  EXPECT_EQ("", relacy::Failure<RetireAndMerge>(kIterations));
}

TEST(FlushClockOrders, WithoutStoreBeforeLoadAVcpuAndAFlushMissEachOther) {
  EXPECT_NE("", relacy::Failure<ZapAndRetire>(kIterations, Weakening::kSeqCstToAcqRel));
}

TEST(FlushClockOrders, WithoutReleaseAVcpuIsStillReadingWhenThePageIsReused) {
  EXPECT_NE("", relacy::Failure<ZapAndRetire>(kIterations, Weakening::kReleaseToRelaxed));
}

TEST(FlushClockOrders, WithoutAcquireAVcpuIsStillReadingWhenThePageIsReused) {
  EXPECT_NE("", relacy::Failure<ZapAndRetire>(kIterations, Weakening::kAcquireToRelaxed));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
