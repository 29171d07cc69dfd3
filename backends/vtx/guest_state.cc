// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/guest_state.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint64_t kCr0Pe = 1;
constexpr uint64_t kCr0Et = 1 << 4;
constexpr uint64_t kCr0Ne = 1 << 5;
constexpr uint64_t kCr0Wp = 1 << 16;
constexpr uint64_t kCr0Pg = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kCr4Sse = 3 << 9;
constexpr uint64_t kEferLme = 1 << 8;
constexpr uint64_t kEferLma = 1 << 10;
constexpr uint64_t kEferNxe = 1 << 11;
constexpr uint64_t kDr7AtReset = 0x400;

// Segment rights: present, accessed, then type and size.
constexpr uint32_t kRightsCode16 = 0x9b;
constexpr uint32_t kRightsData16 = 0x93;
constexpr uint32_t kRightsCode32 = 0xc09b;
constexpr uint32_t kRightsData32 = 0xc093;
constexpr uint32_t kRightsCode64 = 0xa09b;
constexpr uint32_t kRightsBusyTss = 0x8b;

void SetSegments(GuestState& state, const GuestSegment& code, const GuestSegment& data) {
  for (size_t i = kEs; i <= kGs; ++i) state.segments[i] = data;
  state.segments[kCs] = code;
  // An entry demands a usable TR, whether or not the guest ever uses one.
  state.segments[kTr] = {.limit = 0x67, .rights = kRightsBusyTss};
}

absl::Status WriteSegments(const GuestState& state) {
  for (size_t i = 0; i < kGuestSegments; ++i) {
    const GuestSegment& segment = state.segments[i];
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kGuestEsSelector, i), segment.selector));
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kGuestEsBase, i), segment.base));
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kGuestEsLimit, i), segment.limit));
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kGuestEsRights, i), segment.rights));
  }
  return absl::OkStatus();
}

// The bits that VMX wants in CR0 and CR4 belong to the host: the guest sees its own values.
absl::Status WriteControlRegisters(const GuestState& state, const VmxMsrs& msrs,
                                   bool unrestricted_guest) {
  uint64_t cr0_forced = msrs.cr0_must_be_one;
  if (unrestricted_guest) {
    cr0_forced &= ~(kCr0Pe | kCr0Pg);
  } else if ((state.cr0 & (kCr0Pe | kCr0Pg)) != (kCr0Pe | kCr0Pg)) {
    return absl::UnimplementedError(
        "the guest starts without protection or paging, and this CPU (or this vCPU's options) has "
        "no "
        "unrestricted guest");
  }
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kGuestCr0, state.cr0 | cr0_forced},
      {VmcsField::kCr0Mask, cr0_forced},
      {VmcsField::kCr0Shadow, state.cr0},
      {VmcsField::kGuestCr4, state.cr4 | msrs.cr4_must_be_one},
      {VmcsField::kCr4Mask, msrs.cr4_must_be_one},
      {VmcsField::kCr4Shadow, state.cr4},
      {VmcsField::kGuestCr3, state.cr3},
      {VmcsField::kGuestEfer, state.efer},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(VmWrite(field, value));
  // A VMCS has these only where the CPU has EPT.
  const bool has_pdptes = msrs.Offers(ControlWord::kSecondary, secondary::kEpt);
  for (size_t i = 0; has_pdptes && i < 4; ++i) {
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kGuestPdpte0, i), state.pdptes[i]));
  }
  return absl::OkStatus();
}

// The 64-bit mode of the guest is an entry control as well.
absl::Status WriteEntryMode(const GuestState& state) {
  TDP_ASSIGN_OR_RETURN(uint64_t controls, VmRead(VmcsField::kEntryControls));
  controls &= ~uint64_t{entry_control::kGuest64};
  if ((state.efer & kEferLma) != 0) controls |= entry_control::kGuest64;
  return VmWrite(VmcsField::kEntryControls, controls);
}

}  // namespace

GuestState GuestState::RealMode(uint16_t rip, uint16_t rsp) {
  GuestState state;
  state.rip = rip;
  state.rsp = rsp;
  state.cr0 = kCr0Et;
  SetSegments(state, {.limit = 0xffff, .rights = kRightsCode16},
              {.limit = 0xffff, .rights = kRightsData16});
  state.idtr.limit = 0x3ff;
  return state;
}

GuestState GuestState::StartUp(uint8_t vector) {
  GuestState state = RealMode(0, 0);
  state.segments[kCs].selector = static_cast<uint16_t>(vector << 8);
  state.segments[kCs].base = uint64_t{vector} << 12;
  return state;
}

GuestState GuestState::Flat32(uint32_t rip, uint32_t rsp) {
  GuestState state;
  state.rip = rip;
  state.rsp = rsp;
  state.cr0 = kCr0Pe | kCr0Et | kCr0Ne;
  state.cr4 = kCr4Sse;
  SetSegments(state, {.selector = 0x08, .limit = 0xffffffff, .rights = kRightsCode32},
              {.selector = 0x10, .limit = 0xffffffff, .rights = kRightsData32});
  return state;
}

GuestState GuestState::Pae32(uint32_t rip, uint32_t rsp, uint32_t cr3,
                             const std::array<uint64_t, 4>& pdptes) {
  GuestState state = Flat32(rip, rsp);
  state.cr0 |= kCr0Pg | kCr0Wp;
  state.cr3 = cr3;
  state.cr4 |= kCr4Pae;
  state.pdptes = pdptes;
  return state;
}

GuestState GuestState::Long64(uint64_t rip, uint64_t rsp, uint64_t cr3) {
  GuestState state = Flat32(0, 0);
  state.rip = rip;
  state.rsp = rsp;
  state.cr0 |= kCr0Pg | kCr0Wp;
  state.cr3 = cr3;
  state.cr4 |= kCr4Pae;
  state.efer = kEferLme | kEferLma | kEferNxe;
  state.segments[kCs].rights = kRightsCode64;
  return state;
}

absl::Status WriteGuestState(const GuestState& state, const VmxMsrs& msrs,
                             bool unrestricted_guest) {
  TDP_RETURN_IF_ERROR(WriteControlRegisters(state, msrs, unrestricted_guest));
  TDP_RETURN_IF_ERROR(WriteEntryMode(state));
  TDP_RETURN_IF_ERROR(WriteSegments(state));
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kGuestRip, state.rip},
      {VmcsField::kGuestRsp, state.rsp},
      {VmcsField::kGuestRflags, state.rflags},
      {VmcsField::kGuestGdtrBase, state.gdtr.base},
      {VmcsField::kGuestGdtrLimit, state.gdtr.limit},
      {VmcsField::kGuestIdtrBase, state.idtr.base},
      {VmcsField::kGuestIdtrLimit, state.idtr.limit},
      {VmcsField::kGuestDr7, kDr7AtReset},
      {VmcsField::kGuestDebugControl, 0},
      {VmcsField::kGuestInterruptibility, 0},
      {VmcsField::kGuestActivity, 0},
      {VmcsField::kGuestPendingDebug, 0},
      {VmcsField::kGuestSysenterCs, 0},
      {VmcsField::kGuestSysenterEsp, 0},
      {VmcsField::kGuestSysenterEip, 0},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(VmWrite(field, value));
  return absl::OkStatus();
}

}  // namespace tdp::vtx
