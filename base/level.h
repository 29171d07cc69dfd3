// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Levels of a paging structure and the geometry that follows from them.

#ifndef TDP_BASE_LEVEL_H_
#define TDP_BASE_LEVEL_H_

#include <compare>
#include <cstdint>

#include "tdp/base/address.h"

namespace tdp {

// A level of a table, 1 to 5. An entry of a level-1 table maps 4 KiB, of level 2 2 MiB (or points
// to a level-1 table), of level 3 1 GiB; levels 4 and 5 hold tables only. (SDM vol. 3C, 29.3.2.)
class Level {
 public:
  static constexpr int kIndexBits = 9;
  static constexpr int kEntries = 1 << kIndexBits;

  constexpr explicit Level(int level) : level_(level) {}

  constexpr int raw() const { return level_; }
  constexpr Level below() const { return Level(level_ - 1); }
  constexpr Level above() const { return Level(level_ + 1); }

  // Returns how many bits of an address lie below what an entry of this level maps: 12, 21, 30, 39,
  // 48.
  constexpr int shift() const { return kPageShift + kIndexBits * (level_ - 1); }
  constexpr ByteCount bytes() const { return ByteCount{1} << shift(); }
  constexpr PageCount pages() const { return PageCount(uint64_t{1} << (shift() - kPageShift)); }

  // Returns the index, 0 to 511, of the entry of a table of this level on the way to `gfn`.
  constexpr int IndexOf(Gfn gfn) const {
    return static_cast<int>(gfn.raw() >> (shift() - kPageShift)) & (kEntries - 1);
  }

  friend constexpr auto operator<=>(Level, Level) = default;

 private:
  int level_;
};

inline constexpr Level kLevel4K{1};
inline constexpr Level kLevel2M{2};
inline constexpr Level kLevel1G{3};
inline constexpr Level kLevel512G{4};
inline constexpr Level kLevel256T{5};

static_assert(kLevel4K.bytes() == KiB(4));
static_assert(kLevel2M.bytes() == MiB(2) && kLevel2M.pages() == PageCount(512));
static_assert(kLevel1G.bytes() == GiB(1));
static_assert(kLevel256T.bytes() == TiB(256));

}  // namespace tdp

#endif  // TDP_BASE_LEVEL_H_
