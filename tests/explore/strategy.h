// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Strategies say who goes on: they are the ways to choose a schedule.

#ifndef TDP_TESTS_EXPLORE_STRATEGY_H_
#define TDP_TESTS_EXPLORE_STRATEGY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tdp/base/sync.h"
#include "tests/explore/schedule.h"

namespace tdp::explore {

inline constexpr int kMaxThreads = 8;

// Holds a set of threads, a bit each.
using ThreadSet = uint32_t;

// Describes where a decision is due.
struct Situation {
  uint64_t step = 0;   // counted over all threads
  int current = 0;     // the thread that has run up to here
  ThreadSet able = 0;  // the threads that can go on; never empty
  Step kind = Step::kLoad;

  bool current_is_able() const { return (able >> current & 1) != 0; }
};

// Returns the thread that goes on where no strategy says otherwise.
int DefaultThread(const Situation& situation);

// Makes a pseudo-random sequence, with a few instructions a number (xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 | 1) {}
  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }
  uint64_t Below(uint64_t end) { return (Next() >> 16) % end; }

 private:
  uint64_t state_;
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  // Returns the thread that goes on, one of `situation.able`.
  virtual int Choose(const Situation& situation) = 0;
  // Returns which of `values` values a load sees: 0 for the newest, 1 for the one before it, and so
  // on.
  virtual int ChooseAge(uint64_t /*step*/, int /*values*/) { return 0; }
};

// Follows a schedule, and the default way elsewhere.
class ReplayStrategy : public Strategy {
 public:
  explicit ReplayStrategy(const Schedule& schedule) : schedule_(schedule) {}
  int Choose(const Situation& situation) override;
  int ChooseAge(uint64_t step, int values) override;

 private:
  const Schedule& schedule_;
  size_t turn_ = 0;
  size_t read_ = 0;
};

// Counts the steps of each kind of a run.
using StepCounts = std::array<uint64_t, kStepKinds>;

// Lets another thread go on with the same probability at each step, so that a run of `steps` steps
// has about `switches` of them.
class RandomWalk : public Strategy {
 public:
  RandomWalk(uint64_t seed, uint64_t steps, uint64_t switches);
  int Choose(const Situation& situation) override;
  int ChooseAge(uint64_t step, int values) override;

 private:
  Random random_;
  uint64_t gap_;   // of which every step is the end with equal probability
  uint64_t next_;  // step of the next switch
};

// Is probabilistic concurrency testing (Burckhardt et al., 2010): the thread of the highest
// priority runs; at `changes` steps, chosen at random, it falls below all others. A bug that takes
// d ordered steps is found with a probability that depends on the steps and d alone. The change
// points are chosen by kind of step first, so that the few stores and locks get as many as the many
// loads.
class Pct : public Strategy {
 public:
  Pct(uint64_t seed, int threads, const StepCounts& expected, int changes);
  int Choose(const Situation& situation) override;
  int ChooseAge(uint64_t step, int values) override;

 private:
  struct ChangePoint {
    Step kind;
    uint64_t count;  // the how-manieth step of that kind
  };

  Random random_;
  std::array<int, kMaxThreads> priority_{};
  int lowest_ = 0;
  StepCounts seen_{};
  std::vector<ChangePoint> changes_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_STRATEGY_H_
