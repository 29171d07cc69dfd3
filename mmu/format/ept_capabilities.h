// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a CPU's EPT can do: the capability word IA32_VMX_EPT_VPID_CAP (SDM appendix A.10),
// decoded.

#ifndef TDP_MMU_FORMAT_EPT_CAPABILITIES_H_
#define TDP_MMU_FORMAT_EPT_CAPABILITIES_H_

#include <cstdint>

#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {

// Holds the word as the MSR gives it. `With…`/`Without…` return changed copies, for tests and
// models.
class EptCapabilities {
 public:
  constexpr EptCapabilities() = default;
  constexpr explicit EptCapabilities(uint64_t raw) : raw_(raw) {}

  // Everything that the SDM defines today.
  static constexpr EptCapabilities All() {
    using namespace ept;  // the only reader that wants every name of it
    return EptCapabilities(kCapExecuteOnly | kCapWalk4 | kCapWalk5 | kCapUncacheable |
                           kCapWriteBack | kCap2M | kCap1G | kCapInvept | kCapAccessedDirty |
                           kCapAdvancedExitInformation | kCapSupervisorShadowStack |
                           kCapInveptSingle | kCapInveptAll | kCapInvvpid | kCapInvvpidAddress |
                           kCapInvvpidSingle | kCapInvvpidAll | kCapInvvpidSingleKeepGlobals);
  }

  constexpr uint64_t raw() const { return raw_; }

  constexpr bool execute_only() const { return Has(ept::kCapExecuteOnly); }
  constexpr bool walk_4() const { return Has(ept::kCapWalk4); }
  constexpr bool walk_5() const { return Has(ept::kCapWalk5); }
  constexpr bool uncacheable_tables() const { return Has(ept::kCapUncacheable); }
  constexpr bool write_back_tables() const { return Has(ept::kCapWriteBack); }
  constexpr bool pages_2m() const { return Has(ept::kCap2M); }
  constexpr bool pages_1g() const { return Has(ept::kCap1G); }
  constexpr bool accessed_dirty() const { return Has(ept::kCapAccessedDirty); }
  constexpr bool advanced_exit_information() const { return Has(ept::kCapAdvancedExitInformation); }
  constexpr bool supervisor_shadow_stack() const { return Has(ept::kCapSupervisorShadowStack); }
  // Return whether INVEPT exists and offers the single-context and the all-context type.
  constexpr bool invept_single() const { return Has(ept::kCapInvept | ept::kCapInveptSingle); }
  constexpr bool invept_all() const { return Has(ept::kCapInvept | ept::kCapInveptAll); }
  // Returns whether INVVPID offers the type: 0 (one address), 1 (one VPID), 2 (all), 3 (one VPID,
  // globals kept).
  constexpr bool invvpid(int type) const {
    return type >= 0 && type <= 3 && Has(ept::kCapInvvpid | (ept::kCapInvvpidAddress << type));
  }

  // Returns whether a leaf may stand at `level`: always at 1, by capability at 2 and 3, never
  // above.
  constexpr bool OffersLeafAt(Level level) const {
    switch (level.raw()) {
      case 1:
        return true;
      case 2:
        return pages_2m();
      case 3:
        return pages_1g();
      default:
        return false;
    }
  }

  constexpr EptCapabilities With(uint64_t bits) const { return EptCapabilities(raw_ | bits); }
  constexpr EptCapabilities Without(uint64_t bits) const { return EptCapabilities(raw_ & ~bits); }

  friend constexpr bool operator==(EptCapabilities, EptCapabilities) = default;

 private:
  constexpr bool Has(uint64_t bits) const { return (raw_ & bits) == bits; }

  uint64_t raw_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_EPT_CAPABILITIES_H_
