// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Declares what a VMM asks of whoever holds its guest's memory: the engine of this library, or the
// kernel.

#ifndef TDP_MEMSLOT_GUEST_MEMORY_H_
#define TDP_MEMSLOT_GUEST_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/memslot/dirty_pages.h"
#include "tdp/memslot/memory_region.h"

namespace tdp {

// Every implementation answers alike: InvalidArgument, AlreadyExists, NotFound, ResourceExhausted,
// FailedPrecondition and OutOfRange where KVM answers EINVAL, EEXIST, ENOENT, ENOMEM, ENXIO and
// E2BIG.
class GuestMemory {
 public:
  virtual ~GuestMemory() = default;

  // Creates, deletes (size 0), moves or re-flags a slot.
  virtual absl::Status SetMemoryRegion(const MemoryRegion& region) = 0;

  // Shows the dirty pages of a slot to `visit`. Without manual protection they are clean
  // afterwards, and their next write is noticed.
  virtual absl::Status GetDirtyLog(uint32_t slot, DirtyPageVisitor visit,
                                   AddressSpaceId address_space = 0) = 0;

  // Makes the pages of `range` whose bit in `bits` is set clean (bit 0 is page `range.first_page`),
  // so that their next write is noticed. `bits` has a bit for every page of the range, at least.
  virtual absl::Status ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                                     absl::Span<const uint64_t> bits,
                                     AddressSpaceId address_space = 0) = 0;

  // Deletes a slot and shows to `visit` what was in its dirty log. Here the log is read first and
  // the slot deleted then, as KVM's calls allow no better: what a vCPU writes between the two is
  // shown to nobody. A slot that has no bitmap is deleted all the same.
  virtual absl::Status DeleteSlot(uint32_t slot, DirtyPageVisitor visit,
                                  AddressSpaceId address_space = 0) {
    const absl::Status read = GetDirtyLog(slot, visit, address_space);
    // NotFound means that it does not log, FailedPrecondition that the log is in rings.
    if (!read.ok() && !absl::IsNotFound(read) && !absl::IsFailedPrecondition(read)) return read;
    return SetMemoryRegion({.slot = slot, .address_space = address_space});
  }

  // Switches manual protection on or off. `flags` is 0, `kDirtyLogManualProtect`, or that and
  // `kDirtyLogInitiallySet`.
  virtual absl::Status SetManualDirtyLogProtect(uint64_t flags) = 0;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_GUEST_MEMORY_H_
