// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_MEMORY_MEMORY_H_
#define TDP_BASE_FREESTANDING_ABSL_MEMORY_MEMORY_H_

#include <memory>

namespace absl {
inline namespace tdp_stand_in {

template <typename T>
std::unique_ptr<T> WrapUnique(T* object) {
  return std::unique_ptr<T>(object);
}

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_MEMORY_MEMORY_H_
