// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/exit.h"

#include "absl/strings/str_format.h"

namespace tdp::sim {

const char* EventName(Event event) {
  switch (event) {
    case Event::kNone:
      return "none";
    case Event::kKick:
      return "kick";
    case Event::kEptViolation:
      return "EPT violation";
    case Event::kEptMisconfiguration:
      return "EPT misconfiguration";
    case Event::kWalkedNoTable:
      return "walk of memory that is no table";
    case Event::kPmlFull:
      return "PML full";
    case Event::kSppEvent:
      return "SPP event";
    case Event::kVmfunc:
      return "VMFUNC";
    case Event::kEntryFailure:
      return "VM-entry failure";
    case Event::kPageFault:
      return "#PF";
    case Event::kGeneralProtection:
      return "#GP";
    case Event::kVirtualizationException:
      return "#VE";
  }
  return "?";
}

std::string Exit::DebugString() const {
  return absl::StrFormat("%s gva %#x gpa %#x qualification %#x error %#x", EventName(event),
                         gva.raw(), gpa.raw(), qualification.raw(), error_code);
}

}  // namespace tdp::sim
