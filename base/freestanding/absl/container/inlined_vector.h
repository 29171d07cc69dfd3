// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_CONTAINER_INLINED_VECTOR_H_
#define TDP_BASE_FREESTANDING_ABSL_CONTAINER_INLINED_VECTOR_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace absl {
inline namespace tdp_stand_in {

// The first `kInlined` elements need no allocation.
template <typename T, size_t kInlined>
class InlinedVector {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using value_type = T;

  InlinedVector() = default;
  InlinedVector(const InlinedVector&) = delete;
  InlinedVector& operator=(const InlinedVector&) = delete;

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return heap_ != nullptr ? heap_.get() : inlined_; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  T& operator[](size_t i) { return data()[i]; }

  void push_back(const T& value) {
    const T copy = value;
    if (size_ == capacity_) Grow();
    data()[size_++] = copy;
  }

 private:
  void Grow() {
    auto larger = std::make_unique<T[]>(2 * capacity_);
    std::copy(begin(), end(), larger.get());
    heap_ = std::move(larger);
    capacity_ *= 2;
  }

  size_t size_ = 0;
  size_t capacity_ = kInlined;
  std::unique_ptr<T[]> heap_;
  T inlined_[kInlined];
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_CONTAINER_INLINED_VECTOR_H_
