// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where the bits stand that govern a guest's own paging: control registers, paging-structure
// entries, page-fault error codes (SDM vol. 3A, chapter 5 "Paging"). The only file that knows a
// position; `GuestPaging` gives them their meaning.

#ifndef TDP_MMU_FORMAT_GUEST_FORMAT_H_
#define TDP_MMU_FORMAT_GUEST_FORMAT_H_

#include <cstdint>

#include "tdp/mmu/format/ept_format.h"

namespace tdp::guest {

using ept::Bit;
using ept::Bits;

// --- Registers ----------------------------------------------------------------------------------
inline constexpr uint64_t kCr0ProtectionEnable = Bit(0);
inline constexpr uint64_t kCr0WriteProtect = Bit(16);
inline constexpr uint64_t kCr0NotWriteThrough = Bit(29);
inline constexpr uint64_t kCr0CacheDisable = Bit(30);
inline constexpr uint64_t kCr0Paging = Bit(31);
inline constexpr uint64_t kCr4PageSizeExtensions = Bit(4);
inline constexpr uint64_t kCr4PhysicalAddressExtension = Bit(5);
inline constexpr uint64_t kCr4GlobalPages = Bit(7);
inline constexpr uint64_t kCr4FiveLevels = Bit(12);
inline constexpr uint64_t kCr4ProcessContextIds = Bit(17);  // PCIDE
inline constexpr uint64_t kCr4Smep = Bit(20);
inline constexpr uint64_t kCr4Smap = Bit(21);
inline constexpr uint64_t kCr4UserKeys = Bit(22);        // PKE
inline constexpr uint64_t kCr4SupervisorKeys = Bit(24);  // PKS
inline constexpr uint64_t kEferLongModeEnable = Bit(8);
inline constexpr uint64_t kEferLongModeActive = Bit(10);
inline constexpr uint64_t kEferNoExecute = Bit(11);
// The PAE root: 32-byte aligned, below 4 GiB.
inline constexpr uint64_t kCr3PaeMask = Bits(31, 5);
inline constexpr uint64_t kCr3ProcessContextIdMask = Bits(11, 0);
// Set in a value that is written under CR4.PCIDE, it says: keep the translations of its PCID.
inline constexpr uint64_t kCr3KeepTranslations = Bit(63);

// --- Entries of every mode; those of 32-bit paging are the low half ---
inline constexpr uint64_t kPresent = Bit(0);
inline constexpr uint64_t kWrite = Bit(1);
inline constexpr uint64_t kUser = Bit(2);
inline constexpr uint64_t kWriteThrough = Bit(3);
inline constexpr uint64_t kCacheDisable = Bit(4);
inline constexpr uint64_t kAccessed = Bit(5);
inline constexpr uint64_t kDirty = Bit(6);
inline constexpr uint64_t kLargePage = Bit(7);  // above level 1
inline constexpr uint64_t kGlobal = Bit(8);
inline constexpr uint64_t kAddressMask = Bits(51, 12);
inline constexpr int kProtectionKeyShift = 59;
inline constexpr uint64_t kNoExecute = Bit(63);
inline constexpr int kNoExecuteShift = 63;

// A 4 MiB page of 32-bit paging keeps address bits 39:32 in bits 20:13 (PSE-36).
inline constexpr int kPse36Shift = 13;
inline constexpr int kPse36Bits = 8;

// These are reserved in a PAE PDPTE, which is a register and not an entry.
inline constexpr uint64_t kPdpteReservedLow = Bits(8, 5) | Bits(2, 1);

// --- Error code of a page fault ---
inline constexpr uint32_t kFaultPresent = 1u << 0;
inline constexpr uint32_t kFaultWrite = 1u << 1;
inline constexpr uint32_t kFaultUser = 1u << 2;
inline constexpr uint32_t kFaultReserved = 1u << 3;
inline constexpr uint32_t kFaultFetch = 1u << 4;
inline constexpr uint32_t kFaultProtectionKey = 1u << 5;

}  // namespace tdp::guest

#endif  // TDP_MMU_FORMAT_GUEST_FORMAT_H_
