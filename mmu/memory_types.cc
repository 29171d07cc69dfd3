// SPDX-License-Identifier: Apache-2.0

#include "tdp/mmu/memory_types.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {
namespace {

constexpr uint64_t kTypeMask = 0xff;
constexpr uint64_t kFixedEnable = 1 << 10;  // of IA32_MTRR_DEF_TYPE
constexpr uint64_t kEnable = 1 << 11;       // of IA32_MTRR_DEF_TYPE
constexpr uint64_t kValid = 1 << 11;        // of IA32_MTRR_PHYSMASKn
constexpr Gfn kFixedEnd{MiB(1) >> kPageShift};

absl::Status Bad(const std::string& name, uint64_t value, const char* why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s 0x%x: %s", name, value, why));
}

uint64_t AddressMask(const MtrrState& state) {
  return ((uint64_t{1} << state.physical_address_bits) - 1) & ~kPageOffsetMask;
}

absl::Status CheckDefault(uint64_t value) {
  if ((value & ~(kTypeMask | kFixedEnable | kEnable)) != 0) {
    return Bad("IA32_MTRR_DEF_TYPE", value, "a reserved bit is set");
  }
  if (!IsValidMemoryType(value & kTypeMask)) {
    return Bad("IA32_MTRR_DEF_TYPE", value, "a reserved type");
  }
  return absl::OkStatus();
}

absl::Status CheckFixed(size_t index, uint64_t value) {
  for (int byte = 0; byte < 8; ++byte) {
    if (IsValidMemoryType(value >> (8 * byte) & kTypeMask)) continue;
    return Bad(absl::StrFormat("fixed MTRR %u", index), value, "a reserved type");
  }
  return absl::OkStatus();
}

absl::Status CheckVariable(size_t index, const MtrrState& state) {
  const auto [base, mask] = state.variable[index];
  const std::string base_name = absl::StrFormat("IA32_MTRR_PHYSBASE%u", index);
  const std::string mask_name = absl::StrFormat("IA32_MTRR_PHYSMASK%u", index);
  const uint64_t address = AddressMask(state);
  if ((base & ~(address | kTypeMask)) != 0) return Bad(base_name, base, "a reserved bit is set");
  if (!IsValidMemoryType(base & kTypeMask)) return Bad(base_name, base, "a reserved type");
  if ((mask & ~(address | kValid)) != 0) return Bad(mask_name, mask, "a reserved bit is set");
  if ((mask & kValid) == 0) return absl::OkStatus();
  const uint64_t wanted = mask & address;
  // All bits from its lowest one up to the address width.
  if (wanted == 0 || wanted != (address & ~((wanted & -wanted) - 1))) {
    return Bad(mask_name, mask, "the mask is not one run of bits up to the address width");
  }
  return absl::OkStatus();
}

absl::Status Check(const MtrrState& state) {
  if (state.physical_address_bits < 32 || state.physical_address_bits > 52) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "MtrrState.physical_address_bits is %d: must be 32 to 52", state.physical_address_bits));
  }
  TDP_RETURN_IF_ERROR(CheckDefault(state.default_type));
  for (size_t i = 0; i < state.fixed.size(); ++i) {
    TDP_RETURN_IF_ERROR(CheckFixed(i, state.fixed[i]));
  }
  for (size_t i = 0; i < state.variable.size(); ++i) {
    TDP_RETURN_IF_ERROR(CheckVariable(i, state));
  }
  return absl::OkStatus();
}

MemoryType TypeIn(uint64_t word) { return static_cast<MemoryType>(word & kTypeMask); }

// The frames of a variable range.
struct Range {
  Gfn first;
  Gfn end;
};

Range RangeOf(MtrrState::Variable variable, const MtrrState& state) {
  const uint64_t mask = variable.mask & AddressMask(state);
  const Gfn first = Gfn::Of(Gpa(variable.base & mask));
  return {first, first + PageCount::FromBytes(mask & -mask)};
}

// The frame number where each byte of the fixed registers begins: eight of 64 KiB, sixteen of
// 16 KiB, sixty-four of 4 KiB.
uint64_t FixedStart(int byte) {
  if (byte < 8) return static_cast<uint64_t>(byte) * 16;
  if (byte < 24) return 128 + static_cast<uint64_t>(byte - 8) * 4;
  return 192 + static_cast<uint64_t>(byte - 24);
}

MemoryType FixedType(Gfn gfn, const MtrrState& state) {
  const uint64_t page = gfn.raw();
  const uint64_t byte = page < 128   ? page / 16
                        : page < 192 ? 8 + (page - 128) / 4
                                     : 24 + (page - 192);
  return TypeIn(state.fixed[byte / 8] >> (8 * (byte % 8)));
}

// What two variable ranges give that both hold a frame: UC wins, then WT over WB. Of the rest the
// SDM (12.11.4.1) says that it is undefined; UC is what can do no harm.
MemoryType Combine(MemoryType a, MemoryType b) {
  if (a == b) return a;
  const auto is = [&](MemoryType x, MemoryType y) {
    return (a == x && b == y) || (a == y && b == x);
  };
  return is(MemoryType::kWriteThrough, MemoryType::kWriteBack) ? MemoryType::kWriteThrough
                                                               : MemoryType::kUncacheable;
}

MemoryType TypeAt(Gfn gfn, const MtrrState& state) {
  if ((state.default_type & kEnable) == 0) return MemoryType::kUncacheable;
  if ((state.default_type & kFixedEnable) != 0 && gfn < kFixedEnd) return FixedType(gfn, state);
  bool found = false;
  MemoryType type = TypeIn(state.default_type);
  for (const MtrrState::Variable& variable : state.variable) {
    if ((variable.mask & kValid) == 0) continue;
    const Range range = RangeOf(variable, state);
    if (gfn < range.first || gfn >= range.end) continue;
    type = found ? Combine(type, TypeIn(variable.base)) : TypeIn(variable.base);
    found = true;
  }
  return type;
}

// Every frame where the type may change.
std::vector<Gfn> Edges(const MtrrState& state) {
  constexpr int kFixedBytes = 8 * MtrrState::kFixedRegisters;
  std::vector<Gfn> edges = {Gfn(0), kFixedEnd};
  for (int byte = 0; byte < kFixedBytes; ++byte) edges.push_back(Gfn(FixedStart(byte)));
  for (const MtrrState::Variable& variable : state.variable) {
    if ((variable.mask & kValid) == 0) continue;
    const Range range = RangeOf(variable, state);
    edges.push_back(range.first);
    edges.push_back(range.end);
  }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  return edges;
}

}  // namespace

absl::StatusOr<MemoryTypeMap> MemoryTypeMap::Make(const MtrrState& state) {
  TDP_RETURN_IF_ERROR(Check(state));
  std::vector<FrameMap<MemoryType>::Run> runs;
  for (const Gfn edge : Edges(state)) {
    const MemoryType type = TypeAt(edge, state);
    if (runs.empty() || runs.back().value != type) runs.push_back({edge, type});
  }
  return MemoryTypeMap(FrameMap<MemoryType>(std::move(runs)));
}

}  // namespace tdp
