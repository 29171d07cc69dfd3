// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Declares what an embedder says of its guest's memory: a slot, by KVM's names and numbers.

#ifndef TDP_MEMSLOT_MEMORY_REGION_H_
#define TDP_MEMSLOT_MEMORY_REGION_H_

#include <cstdint>

#include "tdp/base/access.h"
#include "tdp/base/address.h"

namespace tdp {

// Names the view of guest physical memory that a slot belongs to; 1 is SMM where a VM offers two.
using AddressSpaceId = uint16_t;

// Flags of a slot, as KVM_SET_USER_MEMORY_REGION numbers them.
inline constexpr uint32_t kSlotLogDirtyPages = 1;
inline constexpr uint32_t kSlotReadOnly = 2;
// The slot has other memory for frames that are private to the guest (KVM_MEM_GUEST_MEMFD). Such a
// slot neither logs dirty pages nor is read-only, and can only be deleted.
inline constexpr uint32_t kSlotPrivateMemory = 4;

// The slot names host frames (`MemoryRegion::hpa`): nobody is asked for them. KVM has no such flag.
inline constexpr uint32_t kSlotHostFrames = 64;
// An attribute of guest memory, as KVM numbers it (`Vm::SetMemoryAttributes`).
inline constexpr uint64_t kMemoryAttributePrivate = 8;

// Says which slot an embedder asks for; `size` 0 deletes the slot. Sizes and addresses are in bytes
// and 4 KiB aligned.
struct MemoryRegion {
  uint32_t slot = 0;  // below the VM's slot limit
  AddressSpaceId address_space = 0;
  uint32_t flags = 0;
  Gpa gpa{};
  ByteCount size = 0;
  // Where the memory begins. Any page will do, and the memory may reach up to the last byte of the
  // address space; an embedder in ring 0 has its memory there (`VmOptions::host_address_end` keeps
  // others from it).
  Hva hva{};
  // With `kSlotPrivateMemory`: where the memory for private frames begins, `size` bytes as well.
  Hva private_hva{};
  // With `kSlotHostFrames`, the frames in place of `hva`: they lie below MAXPHYADDR, are memory or
  // a device, and have a type as `HostPage::memory_type` (with `Paging::kShadow` all but write-back
  // is uncached). A right that is missing ends a fault with `FaultOutcome::kViewDenied`;
  // `kSlotReadOnly` makes writes MMIO instead. Frames in which the guest has tables that the engine
  // reads (`Vcpu::WalkGuest`, shadow and nested paging) lie in the backend's direct map.
  Hpa hpa{};
  Access rights = Access::All();
  MemoryType memory_type = MemoryType::kWriteBack;
  uint64_t cookie = 0;  // what `Backend::ResolvePage` is told of the slot
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_MEMORY_REGION_H_
