// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fuzz target's input becomes the numbers that it reads, one after the other.

#ifndef TDP_TESTS_FUZZ_INPUT_BYTES_H_
#define TDP_TESTS_FUZZ_INPUT_BYTES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tdp::fuzz {

class InputBytes {
 public:
  InputBytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  // Takes the next bytes, at most 8, the lowest first; zeros once they are used up.
  uint64_t Word(size_t bytes = 8) {
    uint64_t word = 0;
    const size_t taken = std::min(bytes, size_);
    std::memcpy(&word, data_, taken);
    data_ += taken;
    size_ -= taken;
    return word;
  }
  template <typename T>
  T Take() {
    return static_cast<T>(Word(sizeof(T)));
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace tdp::fuzz

#endif  // TDP_TESTS_FUZZ_INPUT_BYTES_H_
