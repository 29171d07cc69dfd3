// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/eptp.h"

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace tdp {
namespace {

absl::Status BadEptp(std::string_view field, uint64_t value, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("EPTP %s 0x%x: %s", field, value, why));
}

absl::Status CheckMemoryType(uint64_t encoding, EptCapabilities capabilities) {
  const bool offered = (encoding == 0 && capabilities.uncacheable_tables()) ||
                       (encoding == 6 && capabilities.write_back_tables());
  return offered ? absl::OkStatus() : BadEptp("memory type", encoding, "not offered for tables");
}

absl::Status CheckLevels(int levels, EptCapabilities capabilities) {
  const bool offered =
      (levels == 4 && capabilities.walk_4()) || (levels == 5 && capabilities.walk_5());
  return offered ? absl::OkStatus()
                 : BadEptp("walk length", static_cast<uint64_t>(levels), "not offered");
}

}  // namespace

absl::Status Eptp::Check(EptCapabilities capabilities, int physical_address_bits) const {
  if (absl::Status s = CheckMemoryType(memory_type_encoding(), capabilities); !s.ok()) return s;
  if (absl::Status s = CheckLevels(levels(), capabilities); !s.ok()) return s;
  if (accessed_dirty() && !capabilities.accessed_dirty()) {
    return BadEptp("accessed/dirty enable", 1, "not offered");
  }
  if (supervisor_shadow_stack() && !capabilities.supervisor_shadow_stack()) {
    return BadEptp("supervisor shadow-stack enable", 1, "not offered");
  }
  if ((raw_ & ept::kEptpReserved) != 0) {
    return BadEptp("bits 11:8", raw_ & ept::kEptpReserved, "reserved, must be zero");
  }
  if ((raw_ & ~ept::Bits(physical_address_bits - 1, 0)) != 0) {
    return BadEptp("address", raw_, "beyond the physical address width");
  }
  return absl::OkStatus();
}

}  // namespace tdp
