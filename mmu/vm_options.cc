// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm_options.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/paging_kind.h"
#include "tdp/mmu/policy/memory_quotas.h"

namespace tdp {
namespace {

absl::Status CheckNumber(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("VmOptions.%s is %d: must be %d to %d", field, value, low, high));
}

absl::Status Lacks(std::string_view field, std::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrFormat("VmOptions.%s: the backend does not offer %s", field, what));
}

absl::Status CheckDirtyTracking(const VmOptions& options, const Capabilities& capabilities) {
  if (!IsByHardware(options.dirty_tracking)) return absl::OkStatus();
  if (!capabilities.ept.accessed_dirty()) return Lacks("dirty_tracking", "A and D bits");
  if (options.dirty_tracking == DirtyTracking::kPml && !capabilities.pml) {
    return Lacks("dirty_tracking", "PML");
  }
  return absl::OkStatus();
}

absl::Status CheckRanges(const VmOptions& o) {
  TDP_RETURN_IF_ERROR(CheckNumber("ept_levels", o.ept_levels, 4, 5));
  TDP_RETURN_IF_ERROR(CheckNumber("max_leaf_level", o.max_leaf_level.raw(), 1, 3));
  TDP_RETURN_IF_ERROR(CheckNumber("address_spaces", o.address_spaces, 1, 2));
  TDP_RETURN_IF_ERROR(CheckNumber("slot_limit", o.slot_limit, 1, 32764));
  const int width = o.ept_levels == 4 ? 48 : 52;
  if (o.guest_physical_bits != 0) {
    TDP_RETURN_IF_ERROR(CheckNumber("guest_physical_bits", o.guest_physical_bits, 32, width));
  }
  if (!o.host_address_end.is_page_aligned()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "VmOptions.host_address_end is 0x%x: must be page aligned", o.host_address_end.raw()));
  }
  return CheckNumber("table_quota",
                     static_cast<int64_t>(std::min<uint64_t>(o.table_quota, INT64_MAX)), 1,
                     INT64_MAX);
}

absl::Status CheckEpt(const VmOptions& options, EptCapabilities ept) {
  if (options.ept_levels == 4 && !ept.walk_4()) return Lacks("ept_levels", "4-level tables");
  if (options.ept_levels == 5 && !ept.walk_5()) return Lacks("ept_levels", "5-level tables");
  if (!ept.write_back_tables()) return Lacks("ept_levels", "write-back tables");
  if (options.accessed_dirty == Use::kRequire && !ept.accessed_dirty()) {
    return Lacks("accessed_dirty", "A and D bits");
  }
  return absl::OkStatus();
}

absl::Status CheckShadow(const Capabilities& capabilities) {
  if (!capabilities.shadow_paging) return Lacks("paging", "guests without EPT");
  return absl::OkStatus();
}

absl::Status CheckShadowQuota(const VmOptions& options) {
  if (!HasShadowPages(PagingKindOf(options))) return absl::OkStatus();
  return CheckNumber("shadow_page_quota",
                     static_cast<int64_t>(std::min<uint64_t>(options.shadow_page_quota, INT64_MAX)),
                     MemoryQuotas::kLeastShadowPages, INT64_MAX);
}

}  // namespace

absl::Status CheckVmOptions(const VmOptions& options, const Capabilities& capabilities) {
  TDP_RETURN_IF_ERROR(CheckPairs(options));
  TDP_RETURN_IF_ERROR(CheckKindIsBuilt(options));
  TDP_RETURN_IF_ERROR(CheckRanges(options));
  TDP_RETURN_IF_ERROR(HasEpt(PagingKindOf(options)) ? CheckEpt(options, capabilities.ept)
                                                    : CheckShadow(capabilities));
  TDP_RETURN_IF_ERROR(CheckShadowQuota(options));
  if (options.execute_by_mode == Use::kRequire && !capabilities.mbec) {
    return Lacks("execute_by_mode", "mode-based execute control");
  }
  if (options.virtualization_exceptions == Use::kRequire && !capabilities.ve) {
    return Lacks("virtualization_exceptions", "EPT-violation #VE");
  }
  TDP_RETURN_IF_ERROR(CheckDirtyTracking(options, capabilities));
  const int bits = capabilities.physical_address_bits;
  if (bits < 32 || bits > 52) {
    return absl::InvalidArgumentError(
        absl::StrFormat("Capabilities.physical_address_bits is %d: must be 32 to 52", bits));
  }
  return absl::OkStatus();
}

int GuestPhysicalBits(const VmOptions& options) {
  if (options.guest_physical_bits != 0) return options.guest_physical_bits;
  return options.ept_levels == 4 ? 48 : 52;
}

// In two dimensions a guest's address goes through the CPU's own paging, which stops at the CPU's
// width whatever the guest was told. A shadow maps host frames only.
int SlotAddressBits(const VmOptions& options, const Capabilities& capabilities) {
  constexpr int kWidest = 52;
  return HasEpt(PagingKindOf(options)) ? capabilities.physical_address_bits : kWidest;
}

bool UsesAccessedDirty(const VmOptions& options, const Capabilities& capabilities) {
  return options.accessed_dirty != Use::kNever && capabilities.ept.accessed_dirty();
}

bool UsesExecuteByMode(const VmOptions& options, const Capabilities& capabilities) {
  return options.execute_by_mode != Use::kNever && capabilities.mbec;
}

bool UsesVirtualizationExceptions(const VmOptions& options, const Capabilities& capabilities) {
  return options.virtualization_exceptions != Use::kNever && capabilities.ve;
}

DirtyTracking DirtyTrackingInUse(const VmOptions& options, const Capabilities& capabilities) {
  if (options.dirty_tracking != DirtyTracking::kBest) return options.dirty_tracking;
  if (KeepsReverseMap(PagingKindOf(options))) return DirtyTracking::kWriteProtection;
  return UsesAccessedDirty(options, capabilities) ? DirtyTracking::kDirtyBits
                                                  : DirtyTracking::kWriteProtection;
}

Level MaxLeafLevel(const VmOptions& options, const Capabilities& capabilities) {
  const Level most = options.max_leaf_level;
  if (!HasEpt(PagingKindOf(options))) return std::min(most, kLevel2M);
  // A large leaf is split into leaves of the next level, and stands where those might as well.
  Level level = kLevel4K;
  while (level < most && capabilities.ept.OffersLeafAt(level.above())) level = level.above();
  return level;
}

const char* DirtyTrackingName(DirtyTracking tracking) {
  switch (tracking) {
    case DirtyTracking::kBest:
      return "best";
    case DirtyTracking::kWriteProtection:
      return "write-protection";
    case DirtyTracking::kDirtyBits:
      return "D bits";
    case DirtyTracking::kPml:
      return "PML";
  }
  return "unknown";
}

}  // namespace tdp
