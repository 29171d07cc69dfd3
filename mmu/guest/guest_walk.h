// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a walk of a guest's own tables finds (`Vcpu::WalkGuest`).

#ifndef TDP_MMU_GUEST_GUEST_WALK_H_
#define TDP_MMU_GUEST_GUEST_WALK_H_

#include <array>
#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/mmu/format/guest_paging.h"

namespace tdp {

enum class GuestWalkOutcome : uint8_t {
  kMapped,
  kPageFault,     // #PF for the guest: `error_code`, and the address that was walked
  kNonCanonical,  // #GP or #SS for the guest
  kNoMemory,      // a table lies in a hole or in MMIO: at `gpa`
  kNeedsPage,     // a table's page must be asked of the host first: at `gpa`; then walk again
  kNestedFault,   // a nested hypervisor's EPT12 stopped the walk: the memory says how
};

// Says what a walk found. Arrays are by level, 1 to 5; filled from `top` down to `level`.
struct GuestWalk {
  GuestWalkOutcome outcome = GuestWalkOutcome::kMapped;
  uint32_t error_code = 0;  // kPageFault
  int top = 0;              // of the root table
  int level = 0;            // of the leaf, or where the walk ended; 0 without paging
  GuestRights rights;       // the AND over the walk
  Gpa gpa;                  // kMapped: the translation
  uint64_t page_bytes = 0;  // kMapped: of the guest's page
  // True if an A or D bit was left clear, since its table is in read-only memory.
  bool write_protected_table = false;

  // The AND and the OR over the entries above the leaf, after kMapped.
  uint64_t all_above;
  uint64_t any_above;
  std::array<uint64_t, 6> entries;
  std::array<Gpa, 6> entry_addresses;

  // Returns the rights of the leaf's table.
  GuestRights LeafTableRights() const { return GuestRights::OfAll(all_above, any_above); }
  // Returns the AND over the entries above: the rights of the table at `at`, from `level` to `top`.
  GuestRights TableRights(int at) const {
    GuestRights found(GuestRights::kAll);
    for (int above = top; above > at; --above) {
      found = found & GuestRights::Of(entries[static_cast<size_t>(above)]);
    }
    return found;
  }

  // Begins a walk at a root of level `root`. It leaves the arrays alone: `top` and `level` say what
  // of them is filled.
  void Begin(int root) {
    outcome = GuestWalkOutcome::kMapped;
    error_code = 0;
    top = level = root;
    rights = GuestRights(GuestRights::kAll);
    write_protected_table = false;
  }
};

}  // namespace tdp

#endif  // TDP_MMU_GUEST_GUEST_WALK_H_
