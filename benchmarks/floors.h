// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The floors: what the machine itself needs for the least that a path must do. Every binary of the
// table measures them in the same run and reports its own figures as multiples, since machines and
// their neighbours vary.

#ifndef TDP_BENCHMARKS_FLOORS_H_
#define TDP_BENCHMARKS_FLOORS_H_

#include <time.h>

#include <cstdint>

#include "benchmark/benchmark.h"

namespace tdp::bench {

enum class Floor {
  kWalkHot,            // four dependent loads, the same leaf again and again
  kWalkRandom,         // the same at random over 1 GiB of 4 KiB leaves
  kWalkCasSequential,  // and one compare-exchange of the leaf, in order over 1 GiB
  kWalkCasRandom,
  kStorePerEntry,  // a plain store into each entry of a whole table, per entry
  kClearPage,      // 4 KiB set to zero
  kLockedOp,       // one locked add to a line of one's own
};

// Nanoseconds of `floor`, measured when first asked for and kept for the run: the median of several
// short rounds.
double FloorNs(Floor floor);

// Times the measured parts of a benchmark by itself, so that the ratio to a floor can be a counter.
// By the CPU time of the calling thread, which a busy neighbour disturbs least; by the wall where
// several threads work.
class Stopwatch {
 public:
  enum class By { kThreadTime, kWall };
  explicit Stopwatch(By by = By::kThreadTime)
      : clock_(by == By::kThreadTime ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) {}

  void Start() { start_ = Now(); }
  void Stop() { total_ += Now() - start_; }
  // Adds what another one has measured.
  void Add(const Stopwatch& other) { total_ += other.total_; }
  double ns() const { return total_; }

 private:
  double Now() const {
    timespec now;
    clock_gettime(clock_, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  }

  const clockid_t clock_;
  double start_ = 0;
  double total_ = 0;
};

// Sets `ns_per_item` and `x_floor`, the time of an item as a multiple of `floor`.
void Report(benchmark::State& state, const Stopwatch& watch, uint64_t items, Floor floor);

}  // namespace tdp::bench

#endif  // TDP_BENCHMARKS_FLOORS_H_
