// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// All of a vCPU that its guest can see, as a value: for snapshots and for moving elsewhere.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

// These are the guest's fields, and those of what the guest sees through them.
constexpr VmcsField kFields[] = {
    VmcsField::kGuestCr0,
    VmcsField::kGuestCr3,
    VmcsField::kGuestCr4,
    VmcsField::kCr0Mask,
    VmcsField::kCr0Shadow,
    VmcsField::kCr4Mask,
    VmcsField::kCr4Shadow,
    VmcsField::kGuestEfer,
    VmcsField::kGuestPat,
    VmcsField::kGuestDr7,
    VmcsField::kGuestDebugControl,
    VmcsField::kGuestRip,
    VmcsField::kGuestRsp,
    VmcsField::kGuestRflags,
    VmcsField::kGuestGdtrBase,
    VmcsField::kGuestGdtrLimit,
    VmcsField::kGuestIdtrBase,
    VmcsField::kGuestIdtrLimit,
    VmcsField::kGuestInterruptibility,
    VmcsField::kGuestActivity,
    VmcsField::kGuestPendingDebug,
    VmcsField::kGuestSysenterCs,
    VmcsField::kGuestSysenterEsp,
    VmcsField::kGuestSysenterEip,
};
// The rows of eight, one for each segment.
constexpr VmcsField kSegmentRows[] = {VmcsField::kGuestEsSelector, VmcsField::kGuestEsBase,
                                      VmcsField::kGuestEsLimit, VmcsField::kGuestEsRights};
constexpr size_t kPdptes = 4;

// Returns all of them, in an order that is always the same. With `pdptes` the VMCS has those, which
// come with EPT.
std::vector<VmcsField> AllFields(bool pdptes) {
  std::vector<VmcsField> all(std::begin(kFields), std::end(kFields));
  for (const VmcsField row : kSegmentRows) {
    for (size_t i = 0; i < kGuestSegments; ++i) all.push_back(FieldAfter(row, i));
  }
  for (size_t i = 0; pdptes && i < kPdptes; ++i) {
    all.push_back(FieldAfter(VmcsField::kGuestPdpte0, i));
  }
  return all;
}

}  // namespace

absl::StatusOr<VtxVcpuState> VtxVcpu::Save() const {
  TDP_CHECK(is_loaded());
  VtxVcpuState state;
  for (const VmcsField field : AllFields(options_.ept)) {
    TDP_ASSIGN_OR_RETURN(state.fields.emplace_back(), VmRead(field));
  }
  TDP_ASSIGN_OR_RETURN(const uint64_t entry, VmRead(VmcsField::kEntryControls));
  state.is_64_bit = (entry & entry_control::kGuest64) != 0;
  state.registers = registers_;
  state.events = events_;
  state.blocked_nmis_again = blocked_nmis_again_;
  state.xcr0 = guest_xcr0_;
  state.debug_registers = debug_registers_;
  for (size_t i = 0; i < msr_areas_.size(); ++i) state.msrs.push_back(msr_areas_.At(i));
  const auto* vectors = arena_.PointerTo<const uint8_t>(guest_vectors_);
  state.vectors.assign(vectors, vectors + kPageSize);
  return state;
}

absl::Status VtxVcpu::Restore(const VtxVcpuState& state) {
  TDP_CHECK(is_loaded());
  const std::vector<VmcsField> fields = AllFields(options_.ept);
  if (state.fields.size() != fields.size() || state.msrs.size() != msr_areas_.size() ||
      state.vectors.size() != kPageSize) {
    return absl::InvalidArgumentError("the state is that of a vCPU with other options");
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    TDP_RETURN_IF_ERROR(VmWrite(fields[i], state.fields[i]));
  }
  TDP_ASSIGN_OR_RETURN(const uint64_t entry, VmRead(VmcsField::kEntryControls));
  const uint64_t mode = state.is_64_bit ? uint64_t{entry_control::kGuest64} : 0;
  TDP_RETURN_IF_ERROR(
      VmWrite(VmcsField::kEntryControls, (entry & ~uint64_t{entry_control::kGuest64}) | mode));
  // Drops what was on its way to the guest.
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryInterruption, 0));
  registers_ = state.registers;
  events_ = state.events;
  blocked_nmis_again_ = state.blocked_nmis_again;
  guest_xcr0_ = state.xcr0;
  debug_registers_ = state.debug_registers;
  for (size_t i = 0; i < msr_areas_.size(); ++i) msr_areas_.SetAt(i, state.msrs[i]);
  memcpy(arena_.PointerTo<uint8_t>(guest_vectors_), state.vectors.data(), kPageSize);
  return absl::OkStatus();
}

}  // namespace tdp::vtx
