// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The order in which the host does what it does to Linux: the same again from the same seed.

#ifndef TDP_EXAMPLES_LINUX_RANDOM_H_
#define TDP_EXAMPLES_LINUX_RANDOM_H_

#include <cstdint>

namespace tdp::linux_example {

// splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t operator()() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

 private:
  uint64_t state_;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_RANDOM_H_
