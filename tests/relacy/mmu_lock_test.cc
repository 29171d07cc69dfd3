// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run mmu/sync/mmu_lock.* under every order that the C++ memory model allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

#include "tdp/tests/relacy/relacy_sync.h"

#include "tdp/base/check.cc"
#include "tdp/mmu/sync/mmu_lock.cc"

namespace tdp {
namespace {

constexpr int kIterations = 20'000;

// Two writers and a reader, or the other way round, use memory that the lock alone protects.
template <int kWriters, int kReaders>
struct Sections : rl::test_suite<Sections<kWriters, kReaders>, kWriters + kReaders> {
  void before() {
    lock.emplace();
    for (auto& reader : readers) reader.emplace(*lock);
    tables.Write();
    for (relacy::Plain& leaf : leaves) leaf.Write();
  }
  void after() {
    for (auto& reader : readers) reader.reset();
    lock.reset();
  }

  void thread(unsigned index) {
    for (int i = 0; i < 2; ++i) {
      if (index < kWriters) {
        MmuWriteSection section(*lock);
        tables.Write();
        for (relacy::Plain& leaf : leaves) leaf.Write();
      } else {
        MmuReadSection section(*readers[index - kWriters]);
        tables.Read();
        leaves[index - kWriters].Write();  // what a reader stores, the next writer sees
      }
    }
  }

  std::optional<MmuLock> lock;
  std::array<std::optional<MmuLock::Reader>, kReaders> readers;
  relacy::Plain tables;
  std::array<relacy::Plain, kReaders> leaves;
};

TEST(MmuLockOrders, NoReaderIsInsideWithAWriter) {
  EXPECT_EQ("", (relacy::Failure<Sections<1, 2> >(kIterations)));
}

TEST(MmuLockOrders, AReaderThatMetAWriterDoesNotMeetTheNextInside) {
  EXPECT_EQ("", (relacy::Failure<Sections<2, 1> >(kIterations)));
}

TEST(MmuLockOrders, WithoutStoreBeforeLoadReaderAndWriterMeet) {
  EXPECT_NE("", (relacy::Failure<Sections<1, 1> >(kIterations, Weakening::kSeqCstToAcqRel)));
}

TEST(MmuLockOrders, WithoutReleaseASectionsStoresAreNotSeen) {
  EXPECT_NE("", (relacy::Failure<Sections<1, 1> >(kIterations, Weakening::kReleaseToRelaxed)));
}

TEST(MmuLockOrders, WithoutAcquireASectionsStoresAreNotSeen) {
  EXPECT_NE("", (relacy::Failure<Sections<1, 1> >(kIterations, Weakening::kAcquireToRelaxed)));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
