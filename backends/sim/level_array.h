// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Something for each level of paging structures, and what an entry of each covers.

#ifndef TDP_BACKENDS_SIM_LEVEL_ARRAY_H_
#define TDP_BACKENDS_SIM_LEVEL_ARRAY_H_

#include <array>
#include <cstddef>

namespace tdp::sim {

// The levels of tables are 1 to 5, and the page itself may count as 0.
inline constexpr size_t kLevelCount = 6;

// Returns the lowest bit of an address that chooses an entry at `level`, where tables have 512
// entries: an entry covers 2 to that many bytes.
constexpr int ShiftOf(int level) { return 12 + 9 * (level - 1); }

// A `std::array` whose index is a level, which is counted in `int` and is not negative.
template <typename T, size_t kSize = kLevelCount>
struct LevelArray {
  std::array<T, kSize> of;

  template <typename Integer>
  constexpr T& operator[](Integer level) {
    return of[static_cast<size_t>(level)];
  }
  template <typename Integer>
  constexpr const T& operator[](Integer level) const {
    return of[static_cast<size_t>(level)];
  }
  constexpr void fill(const T& value) { of.fill(value); }
  constexpr auto begin() { return of.begin(); }
  constexpr auto begin() const { return of.begin(); }
  constexpr auto end() { return of.end(); }
  constexpr auto end() const { return of.end(); }
  constexpr size_t size() const { return kSize; }
  constexpr T* data() { return of.data(); }
  constexpr const T* data() const { return of.data(); }
  friend bool operator==(const LevelArray&, const LevelArray&) = default;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_LEVEL_ARRAY_H_
