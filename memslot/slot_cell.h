// SPDX-License-Identifier: Apache-2.0
//
// How a slot is packed into a cell of an interval tree.

#ifndef TDP_MEMSLOT_SLOT_CELL_H_
#define TDP_MEMSLOT_SLOT_CELL_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/memslot/interval_tree.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_limits.h"

namespace tdp::internal {

// Word 0 of a cell: length in pages, id, address space, flags, invalid.
inline constexpr int kCellIdShift = 32;
inline constexpr int kCellSpaceShift = 48;
inline constexpr int kCellFlagsShift = 56;
inline constexpr int kCellInvalidShift = 63;
static_assert(kMaxSlotPages.raw() <= 0xffffffff && kMaxAddressSpaces <= 256);

// Keys of the tree by hva: page number, address space, id. Two slots may have the same memory.
inline constexpr int kHvaKeyShift = 20;
static_assert(kMaxAddressSpaces <= 16);

inline uint64_t PackSlot(const MemorySlot& slot) {
  return slot.pages.raw() | uint64_t{slot.id} << kCellIdShift |
         uint64_t{slot.address_space} << kCellSpaceShift | uint64_t{slot.flags} << kCellFlagsShift |
         uint64_t{slot.invalid} << kCellInvalidShift;
}

inline uint64_t HvaKeyOf(const MemorySlot& slot) {
  return (slot.hva.raw() >> kPageShift) << kHvaKeyShift | uint64_t{slot.address_space} << 16 |
         slot.id;
}

inline IntervalCell GfnCellOf(const MemorySlot& slot) {
  return {slot.base.raw(),
          {PackSlot(slot), slot.hva.raw(), reinterpret_cast<uintptr_t>(slot.state)}};
}

inline IntervalCell HvaCellOf(const MemorySlot& slot) {
  return {HvaKeyOf(slot),
          {PackSlot(slot), slot.base.raw(), reinterpret_cast<uintptr_t>(slot.state)}};
}

inline MemorySlot UnpackSlot(const IntervalCell& cell, Gfn base, Hva hva) {
  const uint64_t packed = cell.words[0];
  return {.id = static_cast<uint32_t>(packed >> kCellIdShift & 0xffff),
          .address_space = static_cast<AddressSpaceId>(packed >> kCellSpaceShift & 0xff),
          .flags = static_cast<uint32_t>(packed >> kCellFlagsShift & 0x7f),
          .invalid = packed >> kCellInvalidShift != 0,
          .base = base,
          .pages = PageCount(cell.length()),
          .hva = hva,
          .state = reinterpret_cast<SlotState*>(cell.words[2])};
}

inline MemorySlot SlotOfGfnCell(const IntervalCell& cell) {
  return UnpackSlot(cell, Gfn(cell.key), Hva(cell.words[1]));
}

inline MemorySlot SlotOfHvaCell(const IntervalCell& cell) {
  return UnpackSlot(cell, Gfn(cell.words[1]), Hva(cell.key >> kHvaKeyShift << kPageShift));
}

}  // namespace tdp::internal

#endif  // TDP_MEMSLOT_SLOT_CELL_H_
