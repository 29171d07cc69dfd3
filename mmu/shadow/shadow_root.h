// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says where a vCPU's shadow begins, and where it began before.

#ifndef TDP_MMU_SHADOW_SHADOW_ROOT_H_
#define TDP_MMU_SHADOW_SHADOW_ROOT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "tdp/base/address.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"

namespace tdp {

// The top of one address space of the guest, in one mode. Holds its pages
// (`ShadowTables::Hold`).
struct ShadowRoot {
  uint64_t cr3 = 0;                  // the guest's, with the PCID
  std::array<uint64_t, 4> pdptes{};  // PAE paging
  PageRole role;                     // of the top page
  bool is_loaded = false;
  // The value of `ShadowTables::additions` when the guest's CPU last ran here.
  uint64_t left_at = 0;
  // One page for 4- and 5-level paging; else one for each GiB, null where a PDPTE is not present.
  std::array<ShadowPage*, 4> pages{};

  bool Is(uint64_t other_cr3, const std::array<uint64_t, 4>& other_pdptes,
          PageRole other_role) const {
    return is_loaded && cr3 == other_cr3 && pdptes == other_pdptes && role == other_role;
  }
  // Returns the page under which `gva` is translated; null if there is none.
  ShadowPage* PageOf(Gva gva) const {
    return pages[role.level() > kLevel2M ? 0 : gva.raw() >> 30 & 3];
  }
};

// Keeps the roots of the last few CR3s besides the current one, so that a switch back costs nothing
// (KVM's prev_roots).
class RootCache {
 public:
  static constexpr size_t kRoots = 3;

  // Takes the root of that CR3 and role out; one that is not loaded, if there is none.
  ShadowRoot Take(uint64_t cr3, const std::array<uint64_t, 4>& pdptes, PageRole role) {
    for (ShadowRoot& root : roots_) {
      if (root.Is(cr3, pdptes, role)) return std::exchange(root, ShadowRoot());
    }
    return ShadowRoot();
  }
  // Keeps `root`, as the latest. Returns the one that has to go for it, perhaps not loaded.
  ShadowRoot Put(const ShadowRoot& root) {
    size_t victim = 0;
    while (victim + 1 < kRoots && roots_[victim].is_loaded) ++victim;
    ShadowRoot gone = roots_[victim];
    for (; victim > 0; --victim) roots_[victim] = roots_[victim - 1];
    roots_[0] = root;
    return gone;
  }
  // Returns the roots, the latest first.
  std::array<ShadowRoot, kRoots>& roots() { return roots_; }

 private:
  std::array<ShadowRoot, kRoots> roots_;
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_ROOT_H_
