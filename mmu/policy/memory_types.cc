// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/memory_types.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {
namespace {

constexpr uint64_t kTypeMask = 0xff;
constexpr uint64_t kFixedEnable = 1 << 10;            // of IA32_MTRR_DEF_TYPE
constexpr uint64_t kEnable = 1 << 11;                 // of IA32_MTRR_DEF_TYPE
constexpr uint64_t kValid = 1 << 11;                  // of IA32_MTRR_PHYSMASKn
constexpr uint64_t kFixedEnd = MiB(1) >> kPageShift;  // in pages

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

// Returns which byte of the fixed registers is about a page below 1 MiB: eight are of 64 KiB,
// sixteen of 16 KiB, sixty-four of 4 KiB.
uint64_t FixedByte(uint64_t page) {
  if (page < 128) return page / 16;
  return page < 192 ? 8 + (page - 128) / 4 : 24 + (page - 192);
}

// Returns the first page after `page` that another byte is about.
uint64_t NextFixed(uint64_t page) {
  const uint64_t pages = page < 128 ? 16 : page < 192 ? 4 : 1;
  return (page / pages + 1) * pages;
}

// Returns what two variable ranges give that both hold a frame: UC wins, then WT over WB. Of the
// rest the SDM (12.11.4.1) says that it is undefined; UC is what can do no harm.
MemoryType Combine(MemoryType a, MemoryType b) {
  if (a == b) return a;
  const auto is = [&](MemoryType x, MemoryType y) {
    return (a == x && b == y) || (a == y && b == x);
  };
  return is(MemoryType::kWriteThrough, MemoryType::kWriteBack) ? MemoryType::kWriteThrough
                                                               : MemoryType::kUncacheable;
}

// Returns the smallest page above `page` that equals `want` in every bit of `mask`, for a page that
// does not; ~0 if there is none.
uint64_t NextWith(uint64_t page, uint64_t want, uint64_t mask) {
  // The highest bit that is wrong decides: all above it may stay, all below it are as low as can
  // be.
  const int wrong = 63 - std::countl_zero((page ^ want) & mask);
  const uint64_t below = (uint64_t{1} << wrong) - 1;
  if ((want >> wrong & 1) != 0) return (page & ~below) | (want & (below << 1 | 1));
  // It is 1 and should be 0, so a bit above it that is free and still 0 has to become 1.
  const uint64_t free = ~page & ~mask & ~(below << 1 | 1);
  if (free == 0) return ~uint64_t{0};
  const uint64_t carry = free & -free;
  return (page & ~(carry - 1)) | carry | (want & (carry - 1));
}

}  // namespace

uint64_t MemoryTypeMap::Range::NextEdge(uint64_t page) const {
  if (mask == 0) return ~uint64_t{0};  // it holds every page
  // The lowest bit of the mask changes first.
  if (Holds(page)) return (page | ((mask & -mask) - 1)) + 1;
  return NextWith(page, base, mask);
}

MemoryType MemoryTypeMap::TypeOf(Gfn gfn) const {
  const uint64_t page = gfn.raw();
  if (has_fixed_ && page < kFixedEnd) {
    const uint64_t byte = FixedByte(page);
    return TypeIn(fixed_[byte / 8] >> (8 * (byte % 8)));
  }
  MemoryType type = default_type_;
  bool found = false;
  for (size_t i = 0; page < end_ && i < ranges_in_use_; ++i) {
    if (!ranges_[i].Holds(page)) continue;
    type = found ? Combine(type, ranges_[i].type) : ranges_[i].type;
    found = true;
  }
  return type;
}

// Returns the first page after `page` where the type may change.
uint64_t MemoryTypeMap::NextEdge(uint64_t page) const {
  if (has_fixed_ && page < kFixedEnd) return NextFixed(page);
  if (page >= end_) return ~uint64_t{0};
  uint64_t edge = end_;
  for (size_t i = 0; i < ranges_in_use_; ++i) edge = std::min(edge, ranges_[i].NextEdge(page));
  return edge;
}

Gfn MemoryTypeMap::EndOfRun(Gfn gfn, Gfn limit) const {
  // This is more than the fixed registers have bytes, and than any system's ranges meet in a leaf.
  constexpr int kMostEdges = 128;
  constexpr uint64_t kEnd = ~uint64_t{0} >> kPageShift;
  const MemoryType type = TypeOf(gfn);
  uint64_t page = gfn.raw();
  for (int i = 0; i < kMostEdges; ++i) {
    page = std::min(NextEdge(page), kEnd);
    if (page >= limit.raw() || page == kEnd || TypeOf(Gfn(page)) != type) break;
  }
  return Gfn(page);
}

absl::StatusOr<MemoryTypeMap> MemoryTypeMap::Make(const MtrrState& state) {
  TDP_RETURN_IF_ERROR(Check(state));
  if ((state.default_type & kEnable) == 0) return Uniform(MemoryType::kUncacheable);
  MemoryTypeMap map = Uniform(TypeIn(state.default_type));
  map.has_fixed_ = (state.default_type & kFixedEnable) != 0;
  map.fixed_ = state.fixed;
  const uint64_t address = AddressMask(state);
  map.end_ = (address >> kPageShift) + 1;
  for (const auto& [base, mask] : state.variable) {
    if ((mask & kValid) == 0) continue;
    const uint64_t pages = (mask & address) >> kPageShift;
    map.ranges_[map.ranges_in_use_++] = {(base & address) >> kPageShift & pages, pages,
                                         TypeIn(base)};
  }
  return map;
}

}  // namespace tdp
