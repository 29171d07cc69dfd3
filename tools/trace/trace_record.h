// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The records that every reader makes of its input.

#ifndef TDP_TOOLS_TRACE_TRACE_RECORD_H_
#define TDP_TOOLS_TRACE_TRACE_RECORD_H_

#include "tdp/backends/sim/guest_rights.h"
#include "tdp/backends/sim/trace_record.h"
#include "tdp/base/address.h"

namespace tdp::tools {

using sim::AccessKind;
using sim::TraceRecord;

// Bits of the lower canonical half, which is the user's: under 4-level paging, and under 5-level
// paging, whose addresses are all that a record can hold.
inline constexpr int kUserAddressBits = 47;
inline constexpr int kMostUserAddressBits = 56;
constexpr int UserAddressBits(int guest_levels) {
  return guest_levels == 5 ? kMostUserAddressBits : kUserAddressBits;
}

// Returns whether `address` is in the upper canonical half, for tables of up to five levels.
constexpr bool IsKernelAddress(uint64_t address) { return address >> 56 == 0xff; }

// Returns whether `record` follows the format and is an access that a user program with addresses
// of `address_bits` can make.
constexpr bool IsUserRecord(TraceRecord record, int address_bits = kUserAddressBits) {
  return record.IsValid() && (record.gva().raw() + record.size() - 1) >> address_bits == 0;
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TRACE_RECORD_H_
