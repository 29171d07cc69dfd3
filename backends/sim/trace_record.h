// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One memory access of a recorded program, as traces store it.

#ifndef TDP_BACKENDS_SIM_TRACE_RECORD_H_
#define TDP_BACKENDS_SIM_TRACE_RECORD_H_

#include <cstdint>

#include "tdp/backends/sim/guest_rights.h"
#include "tdp/base/address.h"

namespace tdp::sim {

// Little-endian u64: bits 63:60 kind, 59:56 log2 of the size in bytes (0 to 12), 55:0 address.
class TraceRecord {
 public:
  // The parts of a record.
  static constexpr int kSizeShift = 56;
  static constexpr int kKindShift = 60;
  static constexpr uint64_t kAddressMask = (uint64_t{1} << kSizeShift) - 1;
  static constexpr uint64_t kKindMask = uint64_t{15} << kKindShift;

  constexpr TraceRecord() = default;
  constexpr explicit TraceRecord(uint64_t raw) : raw_(raw) {}
  // `size` is 2^`log2_size` bytes.
  static constexpr TraceRecord Make(Gva gva, AccessKind kind, int log2_size) {
    return TraceRecord(static_cast<uint64_t>(kind) << kKindShift |
                       static_cast<uint64_t>(log2_size) << kSizeShift | (gva.raw() & kAddressMask));
  }

  constexpr uint64_t raw() const { return raw_; }
  constexpr Gva gva() const { return Gva(raw_ & kAddressMask); }
  constexpr AccessKind kind() const { return static_cast<AccessKind>(raw_ >> kKindShift & 3); }
  constexpr int log2_size() const { return static_cast<int>(raw_ >> kSizeShift & 15); }
  constexpr unsigned size() const { return 1u << log2_size(); }
  // Returns whether the record follows the format; the others' answers mean something only then.
  constexpr bool IsValid() const { return raw_ >> 62 == 0 && log2_size() <= 12; }

  friend constexpr bool operator==(TraceRecord, TraceRecord) = default;

 private:
  uint64_t raw_ = 0;
};
static_assert(sizeof(TraceRecord) == 8);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_TRACE_RECORD_H_
