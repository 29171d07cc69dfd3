// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/sub_page.h"

#include "tdp/backends/sim/level_array.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kValid = 1;
constexpr int kSubPageShift = 7;
// In the last table an entry holds 32 permissions in its even bits; the odd ones are reserved.
constexpr uint64_t kVectorReserved = 0xaaaaaaaaaaaaaaaa;

}  // namespace

SubPageAnswer LookUpSubPages(const MachineState& state, uint64_t gpa, unsigned size) {
  const uint64_t reserved = ept::Bits(11, 1) | ept::Bits(63, state.features.physical_address_bits);
  uint64_t table = state.controls.sppt_root.raw();
  for (int level = 4; level >= 2; --level) {
    const uint64_t index = gpa >> ShiftOf(level) & 511;
    const uint64_t entry = state.memory.Load(table + index * 8);
    if ((entry & kValid) == 0) return SubPageAnswer::kMiss;
    if ((entry & reserved) != 0) return SubPageAnswer::kMisconfiguration;
    table = entry & ept::kAddressMask;
  }
  const uint64_t vector = state.memory.Load(table + (gpa >> 12 & 511) * 8);
  if ((vector & kVectorReserved) != 0) return SubPageAnswer::kMisconfiguration;
  const uint64_t offset = gpa & kPageOffsetMask;
  for (uint64_t piece = offset >> kSubPageShift; piece <= (offset + size - 1) >> kSubPageShift;
       ++piece) {
    if ((vector >> 2 * piece & 1) == 0) return SubPageAnswer::kProtected;
  }
  return SubPageAnswer::kWritable;
}

}  // namespace tdp::sim
