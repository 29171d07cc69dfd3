// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which process runs on which CPU, and for how long.

#ifndef TDP_TOOLS_REPLAY_PROCESS_SCHEDULE_H_
#define TDP_TOOLS_REPLAY_PROCESS_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <vector>

#include "absl/types/span.h"

namespace tdp::tools {

// A queue of processes that all CPUs take from: who was there first goes first, and comes back to
// its end after a time slice. The same numbers and seed give the same turns. Not thread-safe.
class ProcessSchedule {
 public:
  struct Options {
    size_t cpus = 1;
    size_t processes = 1;
    uint64_t timeslice = 1;  // accesses, on average
    uint64_t quantum = 1;    // accesses that one of several CPUs makes in a row, on average
    uint64_t seed = 1;
  };
  // One CPU's next accesses.
  struct Turn {
    size_t cpu = 0;
    size_t process = 0;
    bool switched = false;  // the CPU ran another process before, or none
    uint64_t accesses = 0;
  };

  explicit ProcessSchedule(const Options& options);

  // Process n has `accesses[n]` to make until the round ends.
  void BeginRound(absl::Span<const uint64_t> accesses);
  // Nothing if no process has any left.
  std::optional<Turn> Next();

 private:
  static constexpr size_t kNobody = ~size_t{0};
  struct CpuState {
    size_t process = kNobody;
    uint64_t slice = 0;  // accesses left of it
  };

  bool HasWork(size_t process) const { return process != kNobody && left_[process] != 0; }
  // Returns the first in the queue that has work, as its place there.
  std::deque<size_t>::iterator FirstWaiting();
  uint64_t Draw(uint64_t average) { return 1 + random_() % (2 * average - 1); }

  const Options options_;
  std::mt19937_64 random_;
  std::vector<CpuState> cpus_;
  std::vector<uint64_t> left_;  // by process
  std::deque<size_t> waiting_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PROCESS_SCHEDULE_H_
