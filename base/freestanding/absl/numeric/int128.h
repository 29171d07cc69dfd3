// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_NUMERIC_INT128_H_
#define TDP_BASE_FREESTANDING_ABSL_NUMERIC_INT128_H_

#include <cstdint>

namespace absl {
inline namespace tdp_stand_in {

__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

constexpr uint64_t Uint128Low64(uint128 value) { return static_cast<uint64_t>(value); }
constexpr uint64_t Uint128High64(uint128 value) { return static_cast<uint64_t>(value >> 64); }

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_NUMERIC_INT128_H_
