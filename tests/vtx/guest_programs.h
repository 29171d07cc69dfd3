// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// guest_programs.S has these guest programs.

#ifndef TDP_TESTS_VTX_GUEST_PROGRAMS_H_
#define TDP_TESTS_VTX_GUEST_PROGRAMS_H_

#include <cstdint>

#include "absl/types/span.h"

namespace tdp::vtx {

#define TDP_GUEST_PROGRAM(function, symbol)                                                       \
  extern "C" const uint8_t guest_##symbol[], guest_##symbol##_end[];                              \
  inline absl::Span<const uint8_t> function() {                                                   \
    return absl::Span<const uint8_t>(guest_##symbol,                                              \
                                     static_cast<size_t>(guest_##symbol##_end - guest_##symbol)); \
  }

// --- 64-bit ---
TDP_GUEST_PROGRAM(HaltProgram, halt)
// Does rcx times: *rdi = rax; rdi += 4096; rax += rsi.
TDP_GUEST_PROGRAM(WritePagesProgram, write_pages)
// Does rcx times: rax += *rdi; rdi += 4096. rax starts as 0.
TDP_GUEST_PROGRAM(ReadPagesProgram, read_pages)
// Does rdx times: rcx loads from rdi on, rsi bytes apart.
TDP_GUEST_PROGRAM(ReadRoundsProgram, read_rounds)
// Does rcx times: rax = NextScatter(rax); *(rdi + (rax >> 20 & rsi)) = rax.
TDP_GUEST_PROGRAM(ScatterProgram, scatter)
// Does xmm7 = rax; *rdi = rax; rbx = xmm7.
TDP_GUEST_PROGRAM(KeepVectorProgram, keep_vector)
// Follows the list of `ScriptStep`s at rsi.
TDP_GUEST_PROGRAM(ScriptProgram, script)
// Calls rdi.
TDP_GUEST_PROGRAM(CallProgram, call)
// Writes the string at rsi to the byte at rdi; then bl = the byte at rdi + 1.
TDP_GUEST_PROGRAM(PrintProgram, print)
// Reads *rdi until it is rax; *rsi counts the reads.
TDP_GUEST_PROGRAM(WaitForProgram, wait_for)
// Increments *rdi for ever.
TDP_GUEST_PROGRAM(CountForeverProgram, count_forever)
// Does rdx = *rdi; VMFUNC 0 to the view in rcx; rbx = *rdi.
TDP_GUEST_PROGRAM(SwitchViewsProgram, switch_views)
// Does *rdi = 1; *rsi = 2.
TDP_GUEST_PROGRAM(WriteTwoProgram, write_two)
// Handles #VE with the information page at rdx: counts in rbx, leaves the qualification in r8 and
// the gpa in r9, and skips the writing instruction of write_two.
TDP_GUEST_PROGRAM(VeHandlerProgram, ve_handler)

// --- 16-bit ---
// Fills 0x20000 to 0x27fff with 0x1234; bx = the last word of it.
TDP_GUEST_PROGRAM(RealModeProgram, real_mode)

// --- 32-bit ---
// Does ecx times: *edi = eax; edi += 4096; eax += 3.
TDP_GUEST_PROGRAM(Flat32Program, flat32)
// Does so with paging turned on first: cr4 = edx, cr3 = ebx.
TDP_GUEST_PROGRAM(Paged32Program, paged32)

#undef TDP_GUEST_PROGRAM

// Is a step of the script program: `address` (a multiple of 8) is written with `value`; with
// kScriptRead it is read instead, with kScriptCall the guest executes VMCALL; 0 is the end.
struct ScriptStep {
  uint64_t address;
  uint64_t value;
};
inline constexpr uint64_t kScriptRead = 1;
inline constexpr uint64_t kScriptCall = 2;
// Both memory accesses of a step are moves of this length.
inline constexpr uint64_t kScriptMoveBytes = 3;

// Returns what the scatter program computes.
constexpr uint64_t NextScatter(uint64_t state) {
  return state * 6364136223846793005u + 1442695040888963407u;
}

}  // namespace tdp::vtx

#endif  // TDP_TESTS_VTX_GUEST_PROGRAMS_H_
