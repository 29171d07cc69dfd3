// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Takes tables back where the quota has run out.

#ifndef TDP_MMU_TABLES_TABLE_RECYCLER_H_
#define TDP_MMU_TABLES_TABLE_RECYCLER_H_

#include <cstddef>

namespace tdp {

// Gives back tables of every kind. All come from one pool under one quota, so each kind has to give
// some back when another has none: a guest that fills the one must not starve the other.
class TableRecycler {
 public:
  virtual ~TableRecycler() = default;
  // Takes some tables back, about `wanted` where there are as many to be had, and waits for the
  // flush. Returns how many came back, or 0 if there is nothing left to take. Thread-safe; hold no
  // lock, outside every MMU section.
  virtual size_t RecycleTables(size_t wanted) = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_TABLE_RECYCLER_H_
