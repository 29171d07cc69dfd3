// SPDX-License-Identifier: Apache-2.0
//
// One memory access of a recorded program, packed into the word that trace files store.

#ifndef TDP_TOOLS_TRACE_TRACE_RECORD_H_
#define TDP_TOOLS_TRACE_TRACE_RECORD_H_

#include <cstdint>

#include "tdp/base/address.h"

namespace tdp::tools {

// A modify is a load and a store of the same bytes by one instruction.
enum class AccessKind : uint8_t { kFetch = 0, kLoad = 1, kStore = 2, kModify = 3 };

// Bits 63:60 are the kind, 59:56 the binary logarithm of the size in bytes, 55:0 the address. A
// word is only as good as its source: readers hand out records that are `valid()`.
class TraceRecord {
 public:
  // Of one access. Bounded by a page, so that an access touches two pages at most.
  static constexpr int kMaxSizeLog2 = kPageShift;
  // User addresses under 4-level paging: the lower canonical half.
  static constexpr int kAddressBits = 47;

  constexpr TraceRecord() = default;
  constexpr explicit TraceRecord(uint64_t raw) : raw_(raw) {}
  constexpr TraceRecord(AccessKind kind, int size_log2, Gva address)
      : raw_(static_cast<uint64_t>(kind) << 60 | static_cast<uint64_t>(size_log2) << 56 |
             (address.raw() & kAddressMask)) {}

  constexpr uint64_t raw() const { return raw_; }
  constexpr AccessKind kind() const { return static_cast<AccessKind>(raw_ >> 60); }
  constexpr int size_log2() const { return static_cast<int>(raw_ >> 56 & 15); }
  constexpr ByteCount size() const { return ByteCount{1} << size_log2(); }
  constexpr Gva address() const { return Gva(raw_ & kAddressMask); }
  constexpr Gva last_byte() const { return address() + (size() - 1); }

  constexpr bool valid() const {
    return raw_ >> 62 == 0 && size_log2() <= kMaxSizeLog2 && last_byte().raw() >> kAddressBits == 0;
  }

  friend constexpr bool operator==(TraceRecord, TraceRecord) = default;

 private:
  static constexpr uint64_t kAddressMask = (uint64_t{1} << 56) - 1;

  uint64_t raw_ = 0;
};

static_assert(sizeof(TraceRecord) == sizeof(uint64_t));

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TRACE_RECORD_H_
