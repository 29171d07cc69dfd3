// SPDX-License-Identifier: Apache-2.0
//
// The guest's MTRRs, and the memory type that they give to each frame (SDM vol. 3A, 12.11).

#ifndef TDP_MMU_MEMORY_TYPES_H_
#define TDP_MMU_MEMORY_TYPES_H_

#include <array>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/frame_map.h"
#include "tdp/mmu/memory_type.h"

namespace tdp {

// The registers as a guest writes them.
struct MtrrState {
  static constexpr int kFixedRegisters = 11;
  static constexpr int kVariableRanges = 10;
  struct Variable {
    uint64_t base = 0;  // IA32_MTRR_PHYSBASEn: type in bits 7:0
    uint64_t mask = 0;  // IA32_MTRR_PHYSMASKn: valid in bit 11
  };

  // Type of what no range holds in bits 7:0, fixed ranges on in bit 10, MTRRs on in bit 11.
  uint64_t default_type = 0;  // IA32_MTRR_DEF_TYPE
  // 64K_00000, 16K_80000, 16K_A0000, 4K_C0000, 4K_C8000, … 4K_F8000; a byte for each eighth.
  std::array<uint64_t, kFixedRegisters> fixed = {};
  std::array<Variable, kVariableRanges> variable = {};
  // MAXPHYADDR as CPUID shows it to the guest, 32 to 52.
  int physical_address_bits = 46;
};

// How guest memory is cached (KVM's vmx_get_mt_mask).
struct GuestMemoryTypes {
  // A device reads and writes memory past the caches: what the guest says of types counts. Else all
  // memory is write-back whatever the guest says, which is as correct and faster.
  bool non_coherent_dma = false;
  // The guest runs with CR0.CD set; counts with `non_coherent_dma` only.
  bool caches_disabled = false;
  MtrrState mtrrs;
};

// The registers compiled into runs of frames of one type. Immutable.
class MemoryTypeMap {
 public:
  // InvalidArgument, naming register and value, for what WRMSR would refuse with #GP: a reserved
  // type or bit, an address beyond the width; and for a mask with a gap, which no system uses.
  static absl::StatusOr<MemoryTypeMap> Make(const MtrrState& state);
  // One type for everything.
  static MemoryTypeMap Uniform(MemoryType type) {
    return MemoryTypeMap(FrameMap<MemoryType>(type));
  }

  MemoryType TypeOf(Gfn gfn) const { return map_.At(gfn); }
  // The first frame after `gfn` that has another type; the end of all frames if none has.
  Gfn EndOfRun(Gfn gfn) const { return map_.EndOfRun(gfn); }
  // Whether the aligned frames of one leaf of `level` around `gfn` are of one type.
  bool IsUniform(Gfn gfn, Level level) const { return map_.IsUniform(gfn, level); }

 private:
  explicit MemoryTypeMap(FrameMap<MemoryType> map) : map_(std::move(map)) {}

  FrameMap<MemoryType> map_;
};

}  // namespace tdp

#endif  // TDP_MMU_MEMORY_TYPES_H_
