// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge's random numbers: the same seed gives the same numbers with every compiler.

#ifndef TDP_JUDGE_RANDOM_H_
#define TDP_JUDGE_RANDOM_H_

#include <cstdint>

namespace tdp::judge {

// splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  // Returns a number from 0 to `n` - 1; `n` is not 0.
  uint64_t Below(uint64_t n) { return Next() % n; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_RANDOM_H_
