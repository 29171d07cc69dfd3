// SPDX-License-Identifier: Apache-2.0
//
// What a VMM asks of whoever holds its guest's memory: the engine of this library, or the kernel.

#ifndef TDP_MEMSLOT_GUEST_MEMORY_H_
#define TDP_MEMSLOT_GUEST_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/dirty_log_request.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {

// Answers are the same for all: InvalidArgument, AlreadyExists, NotFound, ResourceExhausted,
// FailedPrecondition and OutOfRange where KVM answers EINVAL, EEXIST, ENOENT, ENOMEM, ENXIO and
// E2BIG.
class GuestMemory {
 public:
  virtual ~GuestMemory() = default;

  // Creates, deletes (size 0), moves or re-flags a slot.
  virtual absl::Status SetMemoryRegion(const MemoryRegion& region) = 0;

  // Shows the dirty pages of a slot to `visit`. Without manual protection they are clean
  // afterwards, and their next write is noticed.
  virtual absl::Status GetDirtyLog(uint32_t slot, DirtyLog::Visitor visit,
                                   AddressSpaceId address_space = 0) = 0;

  // Makes the pages of `range` whose bit in `bits` is set clean (bit 0 is page `range.first_page`),
  // so that their next write is noticed. `bits` has a bit for every page of the range, at least.
  virtual absl::Status ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                                     absl::Span<const uint64_t> bits,
                                     AddressSpaceId address_space = 0) = 0;

  // `flags` is 0, `kDirtyLogManualProtect`, or that and `kDirtyLogInitiallySet`.
  virtual absl::Status SetManualDirtyLogProtect(uint64_t flags) = 0;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_GUEST_MEMORY_H_
