// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The exit qualification of an EPT violation (SDM vol. 3C, table 28-7), read and made.

#ifndef TDP_MMU_FORMAT_EXIT_QUALIFICATION_H_
#define TDP_MMU_FORMAT_EXIT_QUALIFICATION_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tdp/base/access.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {

class ExitQualification {
 public:
  constexpr ExitQualification() = default;
  constexpr explicit ExitQualification(uint64_t raw) : raw_(raw) {}

  // Makes what hardware reports for `access` where the walk allowed `allowed`, on the final address
  // of a linear access (`linear_valid`, `final_address` as bits 7 and 8). For models and tests.
  static constexpr ExitQualification Make(Access access, Access allowed, bool linear_valid,
                                          bool final_address) {
    // User-mode execution is a fetch too; only the rights tell the two apart.
    const uint64_t kinds = (access.raw() & 7) | (access.can_user_execute() ? ept::kQualFetch : 0);
    return ExitQualification(kinds | uint64_t{allowed.raw()} << ept::kQualRightsShift |
                             (linear_valid ? ept::kQualLinearAddressValid : 0) |
                             (final_address ? ept::kQualFinalAddress : 0));
  }

  // Adds what a CPU that has advanced exit information says of the page of a final address: what
  // the guest's own tables allow there.
  constexpr ExitQualification WithGuestRights(bool user, bool writable, bool executable) const {
    return ExitQualification(raw_ | (user ? ept::kQualUserAddress : 0) |
                             (writable ? ept::kQualGuestWritable : 0) |
                             (executable ? 0 : ept::kQualGuestNoExecute));
  }
  // Adds what no walk decides, but the way in which `other` came about: whether NMIs were unblocked
  // by the instruction, whether its access was one to a shadow stack, and whether it was an
  // instruction's access at all.
  constexpr ExitQualification WithCauseOf(ExitQualification other) const {
    constexpr uint64_t kCause =
        ept::kQualNmiUnblocked | ept::kQualShadowStackAccess | ept::kQualAsynchronous;
    return ExitQualification(raw_ | (other.raw_ & kCause));
  }

  constexpr uint64_t raw() const { return raw_; }

  constexpr bool is_read() const { return Has(ept::kQualRead); }
  constexpr bool is_write() const { return Has(ept::kQualWrite); }
  constexpr bool is_fetch() const { return Has(ept::kQualFetch); }
  // Returns the kinds of access that failed, a set: with EPT A/D bits a guest-table access is read
  // and write. A fetch is `Execute`; whether it was user-mode is known to the guest's CPL alone.
  constexpr Access access() const { return Access::FromRaw(raw_ & 7); }
  // Returns the kinds under MBEC: a fetch is `Execute` if its linear address is a supervisor-mode
  // one, and `UserExecute` if it is a user-mode one. Bit 9 says which, where the CPU has advanced
  // exit information; else, of the two rights, the one that was there is not the one that was
  // missing. It is both, where neither tells.
  constexpr Access access_by_mode(bool advanced_exit_information) const {
    if (!is_fetch()) return access();
    if (advanced_exit_information && linear_address_valid() && final_address()) {
      return user_address() ? Access::UserExecute() : Access::Execute();
    }
    const Access both = Access::Execute() | Access::UserExecute();
    const Access there = allowed() & both;
    return there == both ? both : both.Without(there);
  }
  // Returns the AND of the rights over the walk; user execution is meaningful only under MBEC.
  constexpr Access allowed() const {
    return Access::FromRaw(static_cast<uint8_t>(raw_ >> ept::kQualRightsShift & 15));
  }
  // Returns whether the walk reached a leaf: some right was there, so it failed for lack of
  // another.
  constexpr bool reached_leaf() const { return !allowed().is_empty(); }
  constexpr bool linear_address_valid() const { return Has(ept::kQualLinearAddressValid); }
  // Returns whether the access was to the translated address itself, not to a guest paging
  // structure. Meaningful if `linear_address_valid`.
  constexpr bool final_address() const { return Has(ept::kQualFinalAddress); }
  // The next three need `linear_address_valid`, `final_address` and advanced exit information.
  constexpr bool user_address() const { return Has(ept::kQualUserAddress); }
  constexpr bool guest_writable() const { return Has(ept::kQualGuestWritable); }
  constexpr bool guest_no_execute() const { return Has(ept::kQualGuestNoExecute); }
  constexpr bool nmi_unblocked() const { return Has(ept::kQualNmiUnblocked); }
  constexpr bool shadow_stack_access() const { return Has(ept::kQualShadowStackAccess); }
  constexpr bool supervisor_shadow_stack() const { return Has(ept::kQualSupervisorShadowStack); }
  constexpr bool guest_paging_verification() const {
    return Has(ept::kQualGuestPagingVerification);
  }
  constexpr bool asynchronous() const { return Has(ept::kQualAsynchronous); }

  // Returns whether hardware can report this word; `Check` says why not. Bits that are not defined
  // today are ignored: the next CPU may set them (SDM vol. 3C, table 28-7: "not currently
  // defined").
  constexpr bool is_possible() const {
    const bool names_access = (raw_ & (ept::kQualRead | ept::kQualWrite | ept::kQualFetch)) != 0;
    return (names_access || asynchronous()) && !(is_fetch() && (is_read() || is_write())) &&
           (linear_address_valid() || !final_address());
  }
  // Returns whether it is what most violations are: possible, and the walk for a linear address
  // found nothing. It takes one compare: kinds of access, rights and validity are the low eight
  // bits, which are then those of one kind of access, or of a read with a write, beside the
  // validity.
  constexpr bool found_nothing() const {
    static_assert(ept::kQualFetch == 4 && ept::kQualRightsShift == 3 &&
                  ept::kQualLinearAddressValid == 0x80);
    constexpr uint64_t kLeast = ept::kQualLinearAddressValid | ept::kQualRead;
    return static_cast<uint8_t>(raw_ - kLeast) < ept::kQualFetch;
  }
  // Returns whether it is possible, a write for a linear address, and the walk found a page.
  constexpr bool is_write_to_leaf() const {
    constexpr uint64_t kValid = ept::kQualLinearAddressValid;
    return (raw_ & (ept::kQualWrite | ept::kQualFetch | kValid)) == (ept::kQualWrite | kValid) &&
           reached_leaf();
  }
  // Returns OK if hardware can report this word; else InvalidArgument naming the rule and the word:
  // no kind of access at all, a fetch mixed with a data access, or a final address without a linear
  // one.
  absl::Status Check() const;

  // Returns "write to r-x-, linear, final" and the like.
  std::string DebugString() const;

  friend constexpr bool operator==(ExitQualification, ExitQualification) = default;

 private:
  constexpr bool Has(uint64_t bit) const { return (raw_ & bit) != 0; }

  uint64_t raw_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_EXIT_QUALIFICATION_H_
