// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// EPT violations by cause, and what became of them.

#ifndef TDP_TOOLS_REPLAY_VIOLATION_COUNTS_H_
#define TDP_TOOLS_REPLAY_VIOLATION_COUNTS_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/exit_qualification.h"

namespace tdp::tools {

// Says what the access was for.
enum class ViolationCause : uint8_t {
  kGuestTable,  // reaching a guest paging structure
  kFetch,
  kRead,
  kWrite,
};
inline constexpr std::array kViolationCauses = {ViolationCause::kGuestTable, ViolationCause::kFetch,
                                                ViolationCause::kRead, ViolationCause::kWrite};

const char* ViolationCauseName(ViolationCause cause);
// Returns the same as one word, for files.
const char* ViolationCauseKey(ViolationCause cause);
ViolationCause CauseOf(ExitQualification qualification);

struct ViolationCounts {
  // Answered with a mapping: by cause, then by level, 4 KiB first.
  std::array<std::array<uint64_t, 3>, kViolationCauses.size()> fixed{};
  uint64_t spurious = 0;  // the tables allowed it already, as when another CPU was faster
  uint64_t retry = 0;
  uint64_t around = 0;  // further pages mapped by fault-around, which are no violations
  absl::Duration time;  // spent in the engine, fault-around included

  void AddFixed(ViolationCause cause, Level level) {
    ++fixed[static_cast<size_t>(cause)][level.raw() - 1];
  }
  uint64_t fixed_by(ViolationCause cause, Level level) const {
    return fixed[static_cast<size_t>(cause)][level.raw() - 1];
  }
  uint64_t total() const;
  ViolationCounts& operator+=(const ViolationCounts& other);
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_VIOLATION_COUNTS_H_
