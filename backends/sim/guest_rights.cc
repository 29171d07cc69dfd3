// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/guest_rights.h"
#include "tdp/base/index.h"

namespace tdp::sim {
void GuestRights::Reload(const Registers& registers) {
  registers_ = registers;
  const PagingMode mode = PagingModeOf(registers);
  const bool no_execute = mode >= PagingMode::kPae && (registers.efer & kEferNxe) != 0;
  reports_fetch_ = no_execute || (registers.cr4 & kCr4Smep) != 0;
  user_keys_ = Is64Bit(mode) && (registers.cr4 & kCr4Pke) != 0;
  supervisor_keys_ = Is64Bit(mode) && (registers.cr4 & kCr4Pks) != 0;
  for (int accessor = 0; accessor < 3; ++accessor) {
    for (int kind = 0; kind < 4; ++kind) {
      needs_[AsIndex(accessor)][AsIndex(kind)] =
          ComputeNeed(static_cast<AccessKind>(kind), static_cast<Accessor>(accessor));
    }
  }
}

uint32_t GuestRights::ComputeNeed(AccessKind kind, Accessor accessor) const {
  const bool user = accessor == Accessor::kUser;
  uint32_t need = user ? kAttrUser : 0;
  if (kind == AccessKind::kFetch) {
    need |= kAttrExecute | kAttrEptExecute;
    if (!user && (registers_.cr4 & kCr4Smep) != 0) need |= kAttrSupervisor;
    return need;
  }
  if (kind != AccessKind::kStore) need |= kAttrEptRead;
  if (Writes(kind)) {
    need |= kAttrDirty | kAttrEptWrite | kAttrEptDirty;
    if (user || (registers_.cr0 & kCr0Wp) != 0) need |= kAttrWrite;
  }
  const bool excused = registers_.ac && accessor == Accessor::kSupervisor;
  if (!user && (registers_.cr4 & kCr4Smap) != 0 && !excused) need |= kAttrSupervisor;
  const uint32_t keys =
      (user_keys_ ? registers_.pkru : 0) | (supervisor_keys_ ? registers_.pkrs : 0);
  if (keys != 0) need |= kAttrKeyFree;
  if ((keys & 3) != 0) need |= kAttrNever;  // key 0 is restricted: look closer at every page
  return need;
}

bool GuestRights::KeyForbids(uint32_t attributes, AccessKind kind, Accessor accessor) const {
  if (kind == AccessKind::kFetch) return false;
  const bool user_page = (attributes & kAttrUser) != 0;
  if (!(user_page ? user_keys_ : supervisor_keys_)) return false;
  const unsigned key = attributes >> kAttrKeyShift & 15;
  const uint32_t rights = (user_page ? registers_.pkru : registers_.pkrs) >> 2 * key & 3;
  if ((rights & 1) != 0) return true;  // access disable
  const bool write_checked = accessor == Accessor::kUser || (registers_.cr0 & kCr0Wp) != 0;
  return (rights & 2) != 0 && Writes(kind) && write_checked;
}

}  // namespace tdp::sim
