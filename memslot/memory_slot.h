// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A memory slot: a run of guest frames backed by a run of host virtual memory, or of host frames.

#ifndef TDP_MEMSLOT_MEMORY_SLOT_H_
#define TDP_MEMSLOT_MEMORY_SLOT_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/memslot/memory_region.h"

namespace tdp {

class SlotState;

// One slot as a reader sees it: a value, copied out of a snapshot.
struct MemorySlot {
  // The fields have as many bits as `CheckRequest` lets through, in the order of a packed slot
  // (slot_cell.h): to unpack all four is one move.
  uint32_t id : 16 = 0;
  AddressSpaceId address_space : 8 = 0;
  uint32_t flags : 7 = 0;
  // True while the slot is being deleted or moved: readers treat it as absent, for now.
  bool invalid : 1 = false;
  Gfn base;
  PageCount pages;
  // Where its memory begins; with `kSlotHostFrames` the number of bytes before its first frame.
  Hva hva{};
  // The slot's dirty log, large-page permits and backing. It lives while the change sequence of the
  // `Vm` stands where it stood when the slot was looked up; touch it only inside an MMU section
  // that checked so.
  SlotState* state = nullptr;

  constexpr Gfn end() const { return base + pages; }
  constexpr bool Contains(Gfn gfn) const { return gfn - base < pages; }
  constexpr bool logs_dirty_pages() const { return (flags & kSlotLogDirtyPages) != 0; }
  constexpr bool is_read_only() const { return (flags & kSlotReadOnly) != 0; }
  constexpr bool has_host_frames() const { return (flags & kSlotHostFrames) != 0; }
  // Returns the host memory behind the slot, but for private frames.
  constexpr HostRange host_range() const { return HostRange(hva, pages.bytes()); }
  constexpr Hva HvaOf(Gfn gfn) const { return hva + (gfn - base).bytes(); }
  // Returns the frame behind `gfn`, in a slot of host frames.
  constexpr Hfn FrameOf(Gfn gfn) const { return Hfn::Of(Hpa(HvaOf(gfn).raw())); }
  // Returns the index in the slot of a frame that it contains, for per-page state.
  constexpr uint64_t IndexOf(Gfn gfn) const { return (gfn - base).raw(); }

  friend constexpr bool operator==(const MemorySlot&, const MemorySlot&) = default;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_MEMORY_SLOT_H_
