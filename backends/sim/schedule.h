// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A deterministic schedule: several actors (CPUs, and threads that change tables) on one thread, in
// an order that a seed decides, so that a failing interleaving replays.

#ifndef TDP_BACKENDS_SIM_SCHEDULE_H_
#define TDP_BACKENDS_SIM_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <utility>
#include <vector>

namespace tdp::sim {

// Makes a step of an actor, one access or one operation, and returns false when it has no more.
using Step = std::function<bool()>;

// Runs the actors' steps until each has answered false. The actor of each step is drawn anew, so
// that every interleaving of steps can come up; the same seed gives the same one. Returns the
// number of steps that were made.
inline size_t RunInterleaved(std::vector<Step> actors, uint64_t seed) {
  std::mt19937_64 random(seed);
  size_t steps = 0;
  while (!actors.empty()) {
    const size_t chosen = random() % actors.size();
    ++steps;
    if (actors[chosen]()) continue;
    std::swap(actors[chosen], actors.back());
    actors.pop_back();
  }
  return steps;
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_SCHEDULE_H_
