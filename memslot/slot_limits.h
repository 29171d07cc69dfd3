// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what the slots of a VM must keep to, and makes the checks of a request that need no other
// slot.

#ifndef TDP_MEMSLOT_SLOT_LIMITS_H_
#define TDP_MEMSLOT_SLOT_LIMITS_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {

inline constexpr int kMaxAddressSpaces = 16;

// More pages than this in one slot are refused, as in KVM (KVM_MEM_MAX_NR_PAGES).
inline constexpr PageCount kMaxSlotPages{(uint64_t{1} << 31) - 1};

struct SlotLimits {
  uint32_t slots = 32764;                // ids are below this; 1 to 65536
  int address_spaces = 1;                // 1 to 16; KVM offers 2 where it has SMM
  int guest_physical_address_bits = 52;  // 32 to 52
  // MAXPHYADDR of the CPU that walks the tables, 32 to 52: it has no address beyond that to give.
  int max_physical_address_bits = 52;
  // MAXPHYADDR of the host, 32 to 52: frames that a slot names lie below.
  int host_physical_address_bits = 52;
  // End of the host's user addresses: a slot's memory lies below it. Page aligned; 0: any may be.
  Hva user_address_end{0};
  // Pages in all slots together.
  PageCount total_pages{~uint64_t{0}};
  // Says whether slots may have private memory.
  bool private_memory = false;

  Gfn gfn_end() const {
    const int bits = std::min(guest_physical_address_bits, max_physical_address_bits);
    return Gfn(uint64_t{1} << (bits - kPageShift));
  }
};

// Returns InvalidArgument, naming field and value, if `limits` are outside the ranges above.
absl::Status CheckLimits(const SlotLimits& limits);

// Makes those checks of KVM_SET_USER_MEMORY_REGION that look at the request alone, in the kernel's
// order (the first that fails answers): id, flags, size, gpa, hva or, of host frames, hpa, rights
// and type, address space, wrap of gpa + size, number of pages. All are InvalidArgument. A request
// with size 0 passes through them too.
absl::Status CheckRequest(const MemoryRegion& region, const SlotLimits& limits);

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_LIMITS_H_
