// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a guest translates, worked out once when its control registers change: the paging mode, the
// reserved bits of each level and, for each kind of access, which rights it may meet (KVM's
// cpu_role, guest_rsvd_check and mmu->permissions).

#ifndef TDP_MMU_FORMAT_GUEST_PAGING_H_
#define TDP_MMU_FORMAT_GUEST_PAGING_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/guest_format.h"

namespace tdp {

enum class PagingMode : uint8_t { kNone, k32Bit, kPae, k4Level, k5Level };

// Holds the registers that decide the role. CR3, PDPTEs and PKRU change more often and are no part
// of it.
struct GuestControls {
  uint64_t cr0 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  int physical_address_bits = 52;  // the guest's MAXPHYADDR
  bool pages_1g = true;            // the guest's CPUID offers 1 GiB pages

  constexpr PagingMode mode() const {
    if ((cr0 & guest::kCr0Paging) == 0) return PagingMode::kNone;
    if ((cr4 & guest::kCr4PhysicalAddressExtension) == 0) return PagingMode::k32Bit;
    if ((efer & guest::kEferLongModeActive) == 0) return PagingMode::kPae;
    return (cr4 & guest::kCr4FiveLevels) != 0 ? PagingMode::k5Level : PagingMode::k4Level;
  }

  friend constexpr bool operator==(const GuestControls&, const GuestControls&) = default;
};

// Tells where a walk starts, and the rights of protection keys.
struct GuestRoots {
  uint64_t cr3 = 0;
  std::array<uint64_t, 4> pdptes{};  // PAE paging: as the CPU loaded them with CR3
  uint32_t pkru = 0;                 // two bits a key: access disable, write disable
  uint32_t pkrs = 0;                 // the same for supervisor pages
};

// Tells what a guest's walk allows: the AND over its entries, NX inverted (KVM's ACC_*).
class GuestRights {
 public:
  static constexpr uint8_t kExecute = 1;
  static constexpr uint8_t kWrite = 2;
  static constexpr uint8_t kUser = 4;
  static constexpr uint8_t kAll = 7;

  constexpr GuestRights() = default;
  constexpr explicit GuestRights(unsigned raw) : raw_(static_cast<uint8_t>(raw)) {}
  // Returns the rights of one entry. `kNoExecute` is reserved, so clear, where NX is off.
  static constexpr GuestRights Of(uint64_t entry) {
    return GuestRights(static_cast<unsigned>((entry & (guest::kWrite | guest::kUser)) |
                                             (~entry >> guest::kNoExecuteShift & 1)));
  }
  // Returns the rights of a walk: `all` is the AND over its entries, `any` the OR.
  static constexpr GuestRights OfAll(uint64_t all, uint64_t any) {
    return GuestRights(static_cast<unsigned>((all & (guest::kWrite | guest::kUser)) |
                                             (~any >> guest::kNoExecuteShift & 1)));
  }

  constexpr bool executable() const { return (raw_ & kExecute) != 0; }
  constexpr bool writable() const { return (raw_ & kWrite) != 0; }
  constexpr bool user() const { return (raw_ & kUser) != 0; }
  constexpr uint8_t raw() const { return raw_; }

  friend constexpr GuestRights operator&(GuestRights a, GuestRights b) {
    return GuestRights(a.raw_ & b.raw_);
  }
  friend constexpr bool operator==(GuestRights, GuestRights) = default;

 private:
  uint8_t raw_ = 0;
};
static_assert(GuestRights::kWrite == guest::kWrite && GuestRights::kUser == guest::kUser);

// One access by the guest.
class GuestAccess {
 public:
  constexpr GuestAccess() = default;
  static constexpr GuestAccess Read() { return GuestAccess(0); }
  static constexpr GuestAccess Write() { return GuestAccess(kWriteBit); }
  static constexpr GuestAccess Fetch() { return GuestAccess(kFetchBit); }

  // Returns the access as code at CPL 3 makes it. Without this it is a supervisor access, explicit
  // or implicit.
  constexpr GuestAccess ByUser() const { return GuestAccess(raw_ | kUserBit); }
  // Returns it as an explicit supervisor access with RFLAGS.AC set, which SMAP lets pass.
  constexpr GuestAccess ExcusedFromSmap() const { return GuestAccess(raw_ | kExcusedBit); }

  constexpr bool is_write() const { return (raw_ & kWriteBit) != 0; }
  constexpr bool is_fetch() const { return (raw_ & kFetchBit) != 0; }
  constexpr bool is_user() const { return (raw_ & kUserBit) != 0; }
  constexpr bool is_excused_from_smap() const { return (raw_ & kExcusedBit) != 0; }

  // Returns a number below `kKinds`.
  constexpr size_t raw() const { return raw_; }
  static constexpr size_t kKinds = 16;
  static constexpr GuestAccess FromRaw(size_t raw) { return GuestAccess(static_cast<int>(raw)); }

 private:
  static constexpr int kWriteBit = 1;
  static constexpr int kUserBit = 2;
  static constexpr int kFetchBit = 4;
  static constexpr int kExcusedBit = 8;
  constexpr explicit GuestAccess(int raw) : raw_(static_cast<uint8_t>(raw)) {}

  uint8_t raw_ = 0;
};

class GuestPaging {
 public:
  GuestPaging() : GuestPaging(GuestControls()) {}
  explicit GuestPaging(const GuestControls& controls);

  const GuestControls& controls() const { return controls_; }
  PagingMode mode() const { return mode_; }

  // Returns whether a present entry of `level` (1 to 5) maps a page.
  bool IsLeaf(uint64_t entry, int level) const {
    return level == 1 || ((entry & guest::kLargePage) != 0 && (large_levels_ >> level & 1) != 0);
  }
  // Returns whether a present entry of `level` sets a bit that it must not.
  bool HasReservedBit(uint64_t entry, int level, bool is_leaf) const {
    return (entry & reserved_[is_leaf][static_cast<size_t>(level)]) != 0;
  }
  bool HasReservedBit(uint64_t entry, int level) const {
    return HasReservedBit(entry, level, IsLeaf(entry, level));
  }
  // Returns the bits that the leaf of a 4 KiB page must not set.
  uint64_t ReservedBitsOf4K() const { return reserved_[true][1]; }
  // Returns whether MOV to CR3 takes this PDPTE of PAE paging.
  bool IsValidPdpte(uint64_t pdpte) const {
    return (pdpte & guest::kPresent) == 0 || (pdpte & pdpte_reserved_) == 0;
  }

  // Returns whether `rights` allow `access`, protection keys aside.
  bool Allows(GuestAccess access, GuestRights rights) const {
    return (forbidden_[access.raw()] >> rights.raw() & 1) == 0;
  }
  bool has_keys() const { return user_keys_ || supervisor_keys_; }
  // Returns whether a walk that ends in a page of 4 KiB is what `all`, the AND over its entries,
  // `upper`, the OR over those above the leaf, and `leaf` say it is: each entry was present and had
  // A, none sets a reserved bit or maps a larger page, and no key may forbid anything. Where this
  // is false it may still be so.
  bool IsOrdinary(uint64_t all, uint64_t upper, uint64_t leaf) const {
    constexpr uint64_t kUsed = guest::kPresent | guest::kAccessed;
    return (all & kUsed) == kUsed && ((upper & upper_oddities_) | (leaf & reserved_[1][1])) == 0;
  }
  // Returns whether the key of a 64-bit `leaf` forbids an access that its rights allow.
  bool KeyForbids(GuestAccess access, GuestRights rights, uint64_t leaf,
                  const GuestRoots& roots) const;
  // Returns the bits W, U and I of the error code of every page fault that `access` causes.
  uint32_t ErrorCodeOf(GuestAccess access) const {
    return (access.is_write() ? guest::kFaultWrite : 0) |
           (access.is_user() ? guest::kFaultUser : 0) |
           (access.is_fetch() && reports_fetch_ ? guest::kFaultFetch : 0);
  }

 private:
  bool Forbids(GuestAccess access, GuestRights rights) const;
  void Set32BitRules();
  void SetWideRules();

  GuestControls controls_;
  PagingMode mode_;
  bool reports_fetch_;
  bool user_keys_;
  bool supervisor_keys_;
  unsigned large_levels_ = 0;  // bit l: an entry of level l may map a page
  // The rights that each kind of access must not meet: bit r is set where rights r do not allow it.
  std::array<uint8_t, GuestAccess::kKinds> forbidden_{};
  uint64_t pdpte_reserved_;
  uint64_t upper_oddities_;  // what `IsOrdinary` finds in no entry above the leaf
  std::array<std::array<uint64_t, 6>, 2> reserved_{};  // [is leaf][level]
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_GUEST_PAGING_H_
