// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a table means, in one word (KVM's `union kvm_mmu_page_role`).

#ifndef TDP_MMU_FORMAT_PAGE_ROLE_H_
#define TDP_MMU_FORMAT_PAGE_ROLE_H_

#include <cstdint>
#include <utility>

#include "tdp/base/access.h"
#include "tdp/base/level.h"

namespace tdp {

// Two tables of the same guest frame and the same role map the same thing and can be one. For
// direct tables only the first line of fields matters; the rest is for shadow pages, whose meaning
// depends on how the guest's CPU reads the table that they shadow. docs/shadow.md lists every
// register and capability that decides it, with the field that stands for it.
class PageRole {
 public:
  constexpr PageRole() = default;

  static constexpr PageRole Direct(Level level, uint16_t address_space, bool accessed_dirty) {
    return PageRole()
        .WithLevel(level)
        .WithDirect(true)
        .WithAddressSpace(address_space)
        .WithAccess(Access::All())
        .WithAccessedDirty(accessed_dirty);
  }

  constexpr uint64_t raw() const { return raw_; }

  constexpr Level level() const { return Level(static_cast<int>(Field(kLevel))); }
  constexpr bool direct() const { return Field(kDirect) != 0; }
  constexpr Access access() const { return Access::FromRaw(static_cast<uint8_t>(Field(kAccess))); }
  constexpr uint16_t address_space() const { return static_cast<uint16_t>(Field(kAddressSpace)); }
  constexpr bool invalid() const { return Field(kInvalid) != 0; }
  constexpr bool accessed_dirty() const { return Field(kAccessedDirty) != 0; }
  constexpr bool guest_mode() const { return Field(kGuestMode) != 0; }
  // Returns which quarter or half of what a 4-byte guest table maps this page shadows, 0 to 3.
  constexpr int quadrant() const { return static_cast<int>(Field(kQuadrant)); }
  // Returns whether the guest's entries are 8 bytes (PAE, 4- and 5-level), not 4.
  constexpr bool wide_entries() const { return Field(kWideEntries) != 0; }
  constexpr bool cr0_wp() const { return Field(kCr0Wp) != 0; }
  constexpr bool no_execute() const { return Field(kNoExecute) != 0; }
  constexpr bool smep_without_wp() const { return Field(kSmepWithoutWp) != 0; }
  constexpr bool smap_without_wp() const { return Field(kSmapWithoutWp) != 0; }
  // Returns the guest's paging mode, as `PagingMode` numbers it; 0 for an EPT12.
  constexpr int paging_mode() const { return static_cast<int>(Field(kPagingMode)); }
  // Return whether an entry of level 2, or 3, may map a page: CR4.PSE or the guest CPU's
  // capabilities say so.
  constexpr bool pages_2m() const { return Field(kPages2M) != 0; }
  constexpr bool pages_1g() const { return Field(kPages1G) != 0; }
  // Returns MAXPHYADDR of the guest's CPU, which decides the reserved bits of every entry; at most
  // 63.
  constexpr int physical_address_bits() const {
    return static_cast<int>(Field(kPhysicalAddressBits));
  }
  // Returns whether an EPT12 may have pages that can be executed and not read.
  constexpr bool execute_only() const { return Field(kExecuteOnly) != 0; }

  constexpr PageRole WithLevel(Level v) const {
    return With(kLevel, static_cast<uint64_t>(v.raw()));
  }
  constexpr PageRole WithDirect(bool v) const { return With(kDirect, v); }
  constexpr PageRole WithAccess(Access v) const { return With(kAccess, v.raw()); }
  constexpr PageRole WithAddressSpace(uint16_t v) const { return With(kAddressSpace, v); }
  constexpr PageRole WithInvalid(bool v) const { return With(kInvalid, v); }
  constexpr PageRole WithAccessedDirty(bool v) const { return With(kAccessedDirty, v); }
  constexpr PageRole WithGuestMode(bool v) const { return With(kGuestMode, v); }
  constexpr PageRole WithQuadrant(int v) const { return With(kQuadrant, static_cast<uint64_t>(v)); }
  constexpr PageRole WithWideEntries(bool v) const { return With(kWideEntries, v); }
  constexpr PageRole WithCr0Wp(bool v) const { return With(kCr0Wp, v); }
  constexpr PageRole WithNoExecute(bool v) const { return With(kNoExecute, v); }
  constexpr PageRole WithSmepWithoutWp(bool v) const { return With(kSmepWithoutWp, v); }
  constexpr PageRole WithSmapWithoutWp(bool v) const { return With(kSmapWithoutWp, v); }
  constexpr PageRole WithPagingMode(int v) const {
    return With(kPagingMode, static_cast<uint64_t>(v));
  }
  constexpr PageRole WithPages2M(bool v) const { return With(kPages2M, v); }
  constexpr PageRole WithPages1G(bool v) const { return With(kPages1G, v); }
  constexpr PageRole WithPhysicalAddressBits(int v) const {
    return With(kPhysicalAddressBits, static_cast<uint64_t>(v));
  }
  constexpr PageRole WithExecuteOnly(bool v) const { return With(kExecuteOnly, v); }

  friend constexpr bool operator==(PageRole, PageRole) = default;
  template <typename H>
  friend H AbslHashValue(H h, PageRole role) {
    return H::combine(std::move(h), role.raw_);
  }

 private:
  struct FieldAt {
    int shift;
    int bits;
  };
  static constexpr FieldAt kLevel{0, 4};
  static constexpr FieldAt kDirect{4, 1};
  static constexpr FieldAt kAccess{5, 4};
  static constexpr FieldAt kAddressSpace{9, 8};
  static constexpr FieldAt kInvalid{17, 1};
  static constexpr FieldAt kAccessedDirty{18, 1};
  static constexpr FieldAt kGuestMode{19, 1};
  static constexpr FieldAt kQuadrant{20, 2};
  static constexpr FieldAt kWideEntries{22, 1};
  static constexpr FieldAt kCr0Wp{23, 1};
  static constexpr FieldAt kNoExecute{24, 1};
  static constexpr FieldAt kSmepWithoutWp{25, 1};
  static constexpr FieldAt kSmapWithoutWp{26, 1};
  static constexpr FieldAt kPagingMode{27, 3};
  static constexpr FieldAt kPages2M{30, 1};
  static constexpr FieldAt kPages1G{31, 1};
  static constexpr FieldAt kPhysicalAddressBits{32, 6};
  static constexpr FieldAt kExecuteOnly{38, 1};

  constexpr explicit PageRole(uint64_t raw) : raw_(raw) {}
  static constexpr uint64_t Mask(FieldAt f) { return ((uint64_t{1} << f.bits) - 1) << f.shift; }
  constexpr uint64_t Field(FieldAt f) const { return (raw_ & Mask(f)) >> f.shift; }
  constexpr PageRole With(FieldAt f, uint64_t value) const {
    return PageRole((raw_ & ~Mask(f)) | (value << f.shift & Mask(f)));
  }

  uint64_t raw_ = 0;
};

static_assert(sizeof(PageRole) == sizeof(uint64_t));

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_PAGE_ROLE_H_
