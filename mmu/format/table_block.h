// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The unit in which a backend hands out memory for tables.

#ifndef TDP_MMU_FORMAT_TABLE_BLOCK_H_
#define TDP_MMU_FORMAT_TABLE_BLOCK_H_

#include "tdp/base/address.h"

namespace tdp {

// Table memory is handed out in blocks of this size, aligned to it: room for 63 tables and, in the
// first page, their metadata.
inline constexpr ByteCount kTableBlockBytes = KiB(256);

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_TABLE_BLOCK_H_
