// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Levels, bit numbers and places in a table are counted in `int`; arrays are indexed by `size_t`.

#ifndef TDP_BASE_INDEX_H_
#define TDP_BASE_INDEX_H_

#include <cstddef>

namespace tdp {

// Returns `i`, which is not negative, as an index. Callers that compile with -Wsign-conversion see
// no warning from our headers.
constexpr size_t AsIndex(int i) { return static_cast<size_t>(i); }

}  // namespace tdp

#endif  // TDP_BASE_INDEX_H_
