// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Checks the arguments of `Vm`'s calls, before they do anything.

#ifndef TDP_MMU_VM_CHECKS_H_
#define TDP_MMU_VM_CHECKS_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/frame_range.h"

namespace tdp {

// Returns InvalidArgument if the VM has no such address space.
absl::Status CheckSpace(const Engine& engine, AddressSpaceId space);
// Returns the errors that `Vm::SetMemoryAttributes` names.
absl::Status CheckAttributes(const Engine& engine, Gpa gpa, ByteCount size, uint64_t attributes);
// Returns the frames of [first, first + count) that the tables of the address space can name; there
// may be none. InvalidArgument if the VM has no such address space.
absl::StatusOr<FrameRange> CheckFrames(Engine& engine, Gfn first, PageCount count,
                                       AddressSpaceId space);
// Returns those frames for a caller that has checked the address space.
inline FrameRange FramesOf(Engine& engine, Gfn first, PageCount count, AddressSpaceId space) {
  const Gfn limit = engine.mmu(space).end();
  first = std::min(first, limit);
  return {first, count > limit - first ? limit : first + count};
}
// Returns whether [start, start + size) is whole pages, and some; `CheckHostRange` is
// InvalidArgument where it is not.
inline bool IsHostRange(Hva start, ByteCount size) {
  return ((start.raw() | size) & kPageOffsetMask) == 0 && size != 0 &&
         start.raw() + size - 1 >= start.raw();
}
absl::Status CheckHostRange(Hva start, ByteCount size);
// Returns a view that there is; the slots mutex keeps it so. NotFound, or InvalidArgument if the VM
// has no such address space.
absl::StatusOr<View*> FindView(Engine& engine, ViewId id, AddressSpaceId space);

// Returns the rights as an entry of this machine can have them: without MBEC one X stands for both
// modes. InvalidArgument for W without R, FailedPrecondition for what the backend lacks.
absl::StatusOr<Access> CheckRights(Engine& engine, Access rights);

// Returns `region` with the rights of its host frames as entries can have them. InvalidArgument or
// FailedPrecondition for rights that there can not be.
absl::StatusOr<MemoryRegion> WithRights(Engine& engine, const MemoryRegion& region);

}  // namespace tdp

#endif  // TDP_MMU_VM_CHECKS_H_
