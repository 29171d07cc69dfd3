// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says which accesses a translation allows, as one word of attributes and one word of needs for
// each kind of access: a TLB hit is then a mask and a compare. (SDM vol. 3A, 5.6 "Access rights",
// 5.6.2 protection keys; the EPT half of the attributes is in vol. 3C, 29.3.3.2.)

#ifndef TDP_BACKENDS_SIM_GUEST_RIGHTS_H_
#define TDP_BACKENDS_SIM_GUEST_RIGHTS_H_

#include <array>
#include <cstdint>

#include "tdp/backends/sim/exit.h"
#include "tdp/backends/sim/registers.h"

namespace tdp::sim {

// The numbers are those of the trace format. A modify is one locked read-modify-write.
enum class AccessKind : uint8_t { kFetch = 0, kLoad = 1, kStore = 2, kModify = 3 };

constexpr bool Writes(AccessKind kind) { return kind >= AccessKind::kStore; }

// --- attributes of a translation ---
inline constexpr uint32_t kAttrUser = 1u << 0;        // user-mode linear address
inline constexpr uint32_t kAttrSupervisor = 1u << 1;  // supervisor-mode linear address
inline constexpr uint32_t kAttrWrite = 1u << 2;       // guest R/W, AND over the walk
inline constexpr uint32_t kAttrExecute = 1u << 3;     // no guest XD
inline constexpr uint32_t kAttrDirty = 1u << 4;       // the guest leaf is dirty
inline constexpr uint32_t kAttrKeyFree = 1u << 5;     // protection key 0, or none
inline constexpr uint32_t kAttrEptRead = 1u << 6;
inline constexpr uint32_t kAttrEptWrite = 1u << 7;
inline constexpr uint32_t kAttrEptExecute = 1u
                                            << 8;   // the kind of X that this page's mode asks for
inline constexpr uint32_t kAttrEptDirty = 1u << 9;  // the EPT leaf is dirty, or flags are off
inline constexpr uint32_t kAttrGlobal = 1u << 10;
inline constexpr uint32_t kAttrNever = 1u << 11;  // no translation has it
inline constexpr uint32_t kAttrEptAll =
    kAttrEptRead | kAttrEptWrite | kAttrEptExecute | kAttrEptDirty;
inline constexpr int kAttrKeyShift = 12;                          // protection key, 4 bits
inline constexpr uint32_t kAttrSuppressVe = 1u << 16;             // of the EPT leaf
inline constexpr uint32_t kAttrSupervisorShadowStack = 1u << 17;  // bit 60 of the EPT leaf

// The guest half of an unpaged address, which no guest rule restricts.
inline constexpr uint32_t kAttrUnpaged =
    kAttrUser | kAttrSupervisor | kAttrWrite | kAttrExecute | kAttrDirty | kAttrKeyFree;

// Says who accesses. Implicit supervisor accesses (descriptor tables, the TSS) are made at any CPL
// and are not excused by RFLAGS.AC.
enum class Accessor : uint8_t { kSupervisor = 0, kUser = 1, kImplicitSupervisor = 2 };

class GuestRights {
 public:
  GuestRights() { Reload(Registers()); }

  void Reload(const Registers& registers);

  // Returns the attributes that make an access by `accessor` a plain hit. A translation that lacks
  // some may still allow it: ask `FaultOf`, and walk again if a dirty flag is missing.
  uint32_t NeedOf(AccessKind kind, Accessor accessor) const {
    return needs_[static_cast<size_t>(accessor)][static_cast<size_t>(kind)];
  }

  // Returns the error code of the page fault that a present translation of these attributes causes,
  // 0 if none.
  uint32_t FaultOf(uint32_t attributes, AccessKind kind, Accessor accessor) const {
    const uint32_t rights_needed = NeedOf(kind, accessor) & ~kNotARight;
    const bool has_rights = (attributes & rights_needed) == rights_needed;
    if (has_rights && !user_keys_ && !supervisor_keys_) return 0;
    const bool key_forbids = KeyForbids(attributes, kind, accessor);
    if (has_rights && !key_forbids) return 0;
    return kFaultPresent | ErrorCodeOf(kind, accessor) | (key_forbids ? kFaultProtectionKey : 0);
  }

  // Returns the bits W, U and I that every page fault of this access reports.
  uint32_t ErrorCodeOf(AccessKind kind, Accessor accessor) const {
    return (Writes(kind) ? kFaultWrite : 0) | (accessor == Accessor::kUser ? kFaultUser : 0) |
           (kind == AccessKind::kFetch && reports_fetch_ ? kFaultFetch : 0);
  }

 private:
  // These bits only decide whether a hit is plain, not whether the access is allowed.
  static constexpr uint32_t kNotARight = kAttrDirty | kAttrKeyFree | kAttrNever | kAttrEptAll;

  uint32_t ComputeNeed(AccessKind kind, Accessor accessor) const;
  bool KeyForbids(uint32_t attributes, AccessKind kind, Accessor accessor) const;

  Registers registers_;
  bool reports_fetch_ = false;  // error code bit 4 is in use
  bool user_keys_ = false;      // CR4.PKE in a 64-bit mode
  bool supervisor_keys_ = false;
  std::array<std::array<uint32_t, 4>, 3> needs_{};
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_GUEST_RIGHTS_H_
