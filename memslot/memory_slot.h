// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A memory slot: a run of guest frames backed by a run of host virtual memory.

#ifndef TDP_MEMSLOT_MEMORY_SLOT_H_
#define TDP_MEMSLOT_MEMORY_SLOT_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/host_range.h"

namespace tdp {

// Which view of guest physical memory a slot belongs to; 1 is SMM where a VM offers two.
using AddressSpaceId = uint16_t;

// Flags of a slot, as KVM_SET_USER_MEMORY_REGION numbers them.
inline constexpr uint32_t kSlotLogDirtyPages = 1;
inline constexpr uint32_t kSlotReadOnly = 2;
// The slot has other memory for frames that are private to the guest (KVM_MEM_GUEST_MEMFD). Such a
// slot neither logs dirty pages nor is read-only, and can only be deleted.
inline constexpr uint32_t kSlotPrivateMemory = 4;

// What an embedder asks for; `size` 0 deletes the slot. Sizes and addresses in bytes, 4 KiB
// aligned.
struct MemoryRegion {
  uint32_t slot = 0;  // below the VM's slot limit
  AddressSpaceId address_space = 0;
  uint32_t flags = 0;
  Gpa gpa{};
  ByteCount size = 0;
  // Any page, and the memory may reach up to the last byte of the address space; an embedder in
  // ring 0 has its memory there (`VmOptions::host_address_end` keeps others from it).
  Hva hva{};
  // With `kSlotPrivateMemory`: where the memory for private frames begins, `size` bytes as well.
  Hva private_hva{};
};

class SlotState;

// One slot as a reader sees it: a value, copied out of a snapshot.
struct MemorySlot {
  uint32_t id = 0;
  AddressSpaceId address_space = 0;
  uint32_t flags = 0;
  // Published while the slot is being deleted or moved: readers treat it as absent, for now.
  bool invalid = false;
  Gfn base;
  PageCount pages;
  Hva hva{};
  // The slot's dirty log and large-page permits. Alive while the change sequence of the `Vm` stands
  // where it stood when the slot was looked up; touch it only inside an MMU section that checked
  // so.
  SlotState* state = nullptr;

  constexpr Gfn end() const { return base + pages; }
  constexpr bool Contains(Gfn gfn) const { return gfn - base < pages; }
  constexpr bool logs_dirty_pages() const { return (flags & kSlotLogDirtyPages) != 0; }
  constexpr bool is_read_only() const { return (flags & kSlotReadOnly) != 0; }
  // The host memory behind it, but for private frames.
  constexpr HostRange host_range() const { return HostRange(hva, pages.bytes()); }
  constexpr Hva HvaOf(Gfn gfn) const { return hva + (gfn - base).bytes(); }
  // Index of a contained frame in the slot, for per-page state.
  constexpr uint64_t IndexOf(Gfn gfn) const { return (gfn - base).raw(); }

  friend constexpr bool operator==(const MemorySlot&, const MemorySlot&) = default;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_MEMORY_SLOT_H_
