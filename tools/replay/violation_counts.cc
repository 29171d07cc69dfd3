// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/violation_counts.h"

namespace tdp::tools {

const char* ViolationCauseName(ViolationCause cause) {
  switch (cause) {
    case ViolationCause::kGuestTable:
      return "guest table";
    case ViolationCause::kFetch:
      return "fetch";
    case ViolationCause::kRead:
      return "read";
    case ViolationCause::kWrite:
      return "write";
  }
  return "?";
}

const char* ViolationCauseKey(ViolationCause cause) {
  return cause == ViolationCause::kGuestTable ? "guest_table" : ViolationCauseName(cause);
}

ViolationCause CauseOf(ExitQualification qualification) {
  if (qualification.linear_address_valid() && !qualification.final_address()) {
    return ViolationCause::kGuestTable;
  }
  if (qualification.is_fetch()) return ViolationCause::kFetch;
  return qualification.is_write() ? ViolationCause::kWrite : ViolationCause::kRead;
}

uint64_t ViolationCounts::total() const {
  uint64_t sum = spurious + retry;
  for (const auto& levels : fixed) {
    for (uint64_t count : levels) sum += count;
  }
  return sum;
}

ViolationCounts& ViolationCounts::operator+=(const ViolationCounts& other) {
  for (size_t cause = 0; cause < fixed.size(); ++cause) {
    for (size_t level = 0; level < fixed[cause].size(); ++level) {
      fixed[cause][level] += other.fixed[cause][level];
    }
  }
  spurious += other.spurious;
  retry += other.retry;
  around += other.around;
  time += other.time;
  return *this;
}

}  // namespace tdp::tools
