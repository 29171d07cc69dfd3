// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/ept_entry.h"

#include <string>

#include "absl/strings/str_format.h"

namespace tdp {
namespace {

const char* MemoryTypeName(MemoryType type) {
  switch (type) {
    case MemoryType::kUncacheable:
      return "UC";
    case MemoryType::kWriteCombining:
      return "WC";
    case MemoryType::kWriteThrough:
      return "WT";
    case MemoryType::kWriteProtected:
      return "WP";
    case MemoryType::kWriteBack:
      return "WB";
  }
  return "reserved type";
}

}  // namespace

const char* EntryDefectName(EntryDefect defect) {
  switch (defect) {
    case EntryDefect::kNone:
      return "none";
    case EntryDefect::kWriteWithoutRead:
      return "write without read";
    case EntryDefect::kExecuteWithoutRead:
      return "execute without read";
    case EntryDefect::kReservedBit:
      return "reserved bit set";
    case EntryDefect::kMisalignedLargePage:
      return "large page misaligned";
    case EntryDefect::kReservedMemoryType:
      return "reserved memory type";
    case EntryDefect::kLargePageNotOffered:
      return "large page not offered";
    case EntryDefect::kPagingWriteWithoutRead:
      return "paging-write without read";
  }
  return "unknown";
}

std::string EptEntry::DebugString(Level level) const {
  switch (kind(level)) {
    case EntryKind::kHole:
      return suppress_ve() ? "hole, #VE suppressed" : "hole";
    case EntryKind::kMmio:
      return absl::StrFormat("mmio gfn 0x%x generation %u", mmio_gfn().raw(), mmio_generation());
    case EntryKind::kTable:
      return absl::StrFormat("table 0x%x %s%s", address().raw(), ToString(access()),
                             accessed() ? " A" : "");
    case EntryKind::kLeaf:
      return absl::StrFormat("leaf 0x%x %s%s%s %s%s", address().raw(), ToString(access()),
                             accessed() ? " A" : "", dirty() ? " D" : "",
                             MemoryTypeName(memory_type()), ignore_pat() ? " IPAT" : "");
  }
  return "";
}

}  // namespace tdp
