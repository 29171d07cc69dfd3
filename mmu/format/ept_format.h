// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where every bit of the extended page tables stands: entries, EPTP, capability word and exit
// qualification (SDM vol. 3C chapter 29 "VMX support for address translation", appendix A.10 and
// table 28-7). This is the only file that knows a position; the classes `EptEntry`, `Eptp`,
// `EptCapabilities` and `ExitQualification` give them their meaning.

#ifndef TDP_MMU_FORMAT_EPT_FORMAT_H_
#define TDP_MMU_FORMAT_EPT_FORMAT_H_

#include <bit>
#include <cstdint>

#include "tdp/base/level.h"

namespace tdp::ept {

constexpr uint64_t Bit(int position) { return uint64_t{1} << position; }
// Returns bits `high` to `low`, both included; empty if high < low.
constexpr uint64_t Bits(int high, int low) {
  return high < low ? 0 : (~uint64_t{0} >> (63 - high)) & (~uint64_t{0} << low);
}

// --- Entries, hardware bits ---------------------------------------------------------------------
inline constexpr uint64_t kRead = Bit(0);
inline constexpr uint64_t kWrite = Bit(1);
inline constexpr uint64_t kExecute = Bit(2);  // supervisor-mode execute under MBEC
inline constexpr int kMemoryTypeShift = 3;
inline constexpr uint64_t kMemoryTypeMask = Bits(5, 3);  // leaves only
inline constexpr uint64_t kIgnorePat = Bit(6);           // leaves only
inline constexpr uint64_t kLargePage = Bit(7);           // levels 2 and 3; ignored at level 1
inline constexpr uint64_t kAccessed = Bit(8);
inline constexpr uint64_t kDirty = Bit(9);  // leaves only
inline constexpr uint64_t kUserExecute = Bit(10);
inline constexpr int kAddressHighBit = 51;
inline constexpr uint64_t kAddressMask = Bits(kAddressHighBit, kPageShift);
inline constexpr uint64_t kVerifyGuestPaging = Bit(57);
inline constexpr uint64_t kPagingWrite = Bit(58);
inline constexpr uint64_t kSupervisorShadowStack = Bit(60);
inline constexpr uint64_t kSubPageWrite = Bit(61);
inline constexpr uint64_t kSuppressVe = Bit(63);
inline constexpr uint64_t kRightsMask = kRead | kWrite | kExecute;
// These are reserved in an entry that points to a table, whatever the level (SDM tables 29-1, 29-3,
// 29-5).
inline constexpr uint64_t kTableReservedLow = Bits(6, 3);

// --- Entries, bits that hardware ignores and the engine uses -------------------------------------
// The host lets the page be written: a W that logging or aging took may be given back without
// asking the host again.
inline constexpr uint64_t kSoftHostWritable = Bit(11);
// The leaf maps memory that is private to the guest.
inline constexpr uint64_t kSoftPrivate = Bit(52);
// Rights saved while a leaf has none, so that the next access is seen (aging without A/D bits).
inline constexpr int kSoftSavedRightsShift = 53;
inline constexpr uint64_t kSoftSavedRightsMask = Bits(56, 53);
// The leaf's rights stand in the saved bits.
inline constexpr uint64_t kSoftAccessTracked = Bit(59);
// The leaf maps a frame that its view shows in place of the slot's.
inline constexpr uint64_t kSoftForeign = Bit(62);
inline constexpr uint64_t kSoftMask =
    kSoftHostWritable | kSoftPrivate | kSoftSavedRightsMask | kSoftAccessTracked | kSoftForeign;

// --- Entries that point to a table: bits that hardware ignores and the engine uses ---------------
// The last harvest of D bits cleared A here: the next one looks below, whatever A says.
inline constexpr uint64_t kTableRevisit = Bit(53);
// A fault is moving the missing W of this entry down to the entries below.
inline constexpr uint64_t kTablePushing = Bit(54);
// With `kTableRevisit` it says that A was cleared here by someone who did not flush: the next two
// harvests look below.
inline constexpr uint64_t kTableRevisitTwice = Bit(55);

// An MMIO entry is a misconfiguration on purpose: W and X without R, which no capability allows.
// All its other bits are the engine's: a slot generation in two pieces, and the frame number.
inline constexpr uint64_t kMmioPattern = kWrite | kExecute;
inline constexpr int kMmioGenerationLowShift = 3;
inline constexpr int kMmioGenerationLowBits = 9;
inline constexpr int kMmioGenerationHighShift = 52;
inline constexpr int kMmioGenerationHighBits = 11;
inline constexpr int kMmioGenerationBits = kMmioGenerationLowBits + kMmioGenerationHighBits;

// --- EPTP ---
inline constexpr uint64_t kEptpMemoryTypeMask = Bits(2, 0);
inline constexpr int kEptpLevelsShift = 3;
inline constexpr uint64_t kEptpLevelsMask = Bits(5, 3);
inline constexpr uint64_t kEptpAccessedDirty = Bit(6);
inline constexpr uint64_t kEptpSupervisorShadowStack = Bit(7);
inline constexpr uint64_t kEptpReserved = Bits(11, 8);

// --- IA32_VMX_EPT_VPID_CAP ---
inline constexpr uint64_t kCapExecuteOnly = Bit(0);
inline constexpr uint64_t kCapWalk4 = Bit(6);
inline constexpr uint64_t kCapWalk5 = Bit(7);
inline constexpr uint64_t kCapUncacheable = Bit(8);
inline constexpr uint64_t kCapWriteBack = Bit(14);
inline constexpr uint64_t kCap2M = Bit(16);
inline constexpr uint64_t kCap1G = Bit(17);
inline constexpr uint64_t kCapInvept = Bit(20);
inline constexpr uint64_t kCapAccessedDirty = Bit(21);
inline constexpr uint64_t kCapAdvancedExitInformation = Bit(22);
inline constexpr uint64_t kCapSupervisorShadowStack = Bit(23);
inline constexpr uint64_t kCapInveptSingle = Bit(25);
inline constexpr uint64_t kCapInveptAll = Bit(26);
inline constexpr uint64_t kCapInvvpid = Bit(32);
inline constexpr uint64_t kCapInvvpidAddress = Bit(40);
inline constexpr uint64_t kCapInvvpidSingle = Bit(41);
inline constexpr uint64_t kCapInvvpidAll = Bit(42);
inline constexpr uint64_t kCapInvvpidSingleKeepGlobals = Bit(43);

// --- Exit qualification of an EPT violation ---
inline constexpr uint64_t kQualRead = Bit(0);
inline constexpr uint64_t kQualWrite = Bit(1);
inline constexpr uint64_t kQualFetch = Bit(2);
inline constexpr int kQualRightsShift = 3;
inline constexpr uint64_t kQualReadable = Bit(3);
inline constexpr uint64_t kQualWritable = Bit(4);
inline constexpr uint64_t kQualExecutable = Bit(5);
inline constexpr uint64_t kQualUserExecutable = Bit(6);
inline constexpr uint64_t kQualLinearAddressValid = Bit(7);
inline constexpr uint64_t kQualFinalAddress = Bit(8);
inline constexpr uint64_t kQualUserAddress = Bit(9);
inline constexpr uint64_t kQualGuestWritable = Bit(10);
inline constexpr uint64_t kQualGuestNoExecute = Bit(11);
inline constexpr uint64_t kQualNmiUnblocked = Bit(12);
inline constexpr uint64_t kQualShadowStackAccess = Bit(13);
inline constexpr uint64_t kQualSupervisorShadowStack = Bit(14);
inline constexpr uint64_t kQualGuestPagingVerification = Bit(15);
inline constexpr uint64_t kQualAsynchronous = Bit(16);
inline constexpr uint64_t kQualDefined = Bits(16, 0);

// --- Proofs ---
inline constexpr uint64_t kHardwareLeafBits = kRightsMask | kMemoryTypeMask | kIgnorePat |
                                              kLargePage | kAccessed | kDirty | kUserExecute |
                                              kAddressMask | kVerifyGuestPaging | kPagingWrite |
                                              kSupervisorShadowStack | kSubPageWrite | kSuppressVe;
static_assert((kHardwareLeafBits & kSoftMask) == 0, "a software bit stands on a hardware bit");
static_assert(((kTableRevisit | kTablePushing | kTableRevisitTwice) &
               (kRightsMask | kTableReservedLow | kLargePage | kAccessed | kUserExecute |
                kAddressMask | kSuppressVe)) == 0,
              "a software bit of a table entry stands on a hardware bit");
static_assert(std::popcount(kSoftMask) == 8, "software bits overlap");
static_assert((kHardwareLeafBits | kSoftMask) == ~uint64_t{0}, "a bit has no owner");
static_assert(((Bits(kMmioGenerationLowShift + kMmioGenerationLowBits - 1, 3) |
                Bits(kMmioGenerationHighShift + kMmioGenerationHighBits - 1, 52)) &
               (kRightsMask | kAddressMask | kSuppressVe)) == 0,
              "an MMIO generation would change the pattern or the frame");
static_assert(kMmioGenerationLowShift + kMmioGenerationLowBits <= kPageShift);
static_assert(Level::kEntries * sizeof(uint64_t) == kPageSize);

}  // namespace tdp::ept

#endif  // TDP_MMU_FORMAT_EPT_FORMAT_H_
