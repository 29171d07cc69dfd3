// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
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

// Keys of the tree by hva: page number, address space, id. Two slots may have the same memory. Page
// numbers have 52 bits, which is more than a word has left: the key has the number of the 2 MiB,
// and the rest stands above the frame in `words[1]`. Bit 63 of a key is clear, so none is `kNoKey`.
inline constexpr int kHvaKeyShift = 20;
inline constexpr int kHvaFineBits = 9;
inline constexpr int kHvaFineShift = 64 - kHvaFineBits;
static_assert(kMaxAddressSpaces <= 16);
static_assert(64 - kPageShift - kHvaFineBits + kHvaKeyShift < 64);
static_assert(52 - kPageShift <= kHvaFineShift);  // of a frame number

inline uint64_t PackSlot(const MemorySlot& slot) {
  return slot.pages.raw() | uint64_t{slot.id} << kCellIdShift |
         uint64_t{slot.address_space} << kCellSpaceShift | uint64_t{slot.flags} << kCellFlagsShift |
         uint64_t{slot.invalid} << kCellInvalidShift;
}

inline uint64_t HvaKeyOf(const MemorySlot& slot) {
  return slot.hva.raw() >> kPageShift >> kHvaFineBits << kHvaKeyShift |
         uint64_t{slot.address_space} << 16 | slot.id;
}

inline IntervalCell GfnCellOf(const MemorySlot& slot) {
  return {slot.base.raw(),
          {PackSlot(slot), slot.hva.raw(), reinterpret_cast<uintptr_t>(slot.state)}};
}

inline IntervalCell HvaCellOf(const MemorySlot& slot) {
  return {HvaKeyOf(slot),
          {PackSlot(slot), slot.base.raw() | slot.hva.raw() >> kPageShift << kHvaFineShift,
           reinterpret_cast<uintptr_t>(slot.state)}};
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
  const uint64_t page = cell.key >> kHvaKeyShift << kHvaFineBits | cell.words[1] >> kHvaFineShift;
  const uint64_t base = cell.words[1] & ((uint64_t{1} << kHvaFineShift) - 1);
  return UnpackSlot(cell, Gfn(base), Hva(page << kPageShift));
}

}  // namespace tdp::internal

#endif  // TDP_MEMSLOT_SLOT_CELL_H_
