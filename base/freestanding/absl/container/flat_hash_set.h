// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_SET_H_
#define TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_SET_H_

#include <cstddef>

#include "absl/container/flat_hash_map.h"

namespace absl {
inline namespace tdp_stand_in {

template <typename T>
class flat_hash_set {
 public:
  size_t size() const { return map_.size(); }
  bool contains(const T& value) const { return map_.contains(value); }
  // The first member is only there to be ignored; `second` says whether the value is new.
  auto insert(const T& value) { return map_.try_emplace(value); }

 private:
  struct Nothing {};
  flat_hash_map<T, Nothing> map_;
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_CONTAINER_FLAT_HASH_SET_H_
