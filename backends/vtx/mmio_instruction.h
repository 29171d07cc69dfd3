// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The instructions with which guests talk to devices in memory, understood well enough to emulate
// them: an EPT violation reports neither the value nor the length of the instruction.

#ifndef TDP_BACKENDS_VTX_MMIO_INSTRUCTION_H_
#define TDP_BACKENDS_VTX_MMIO_INSTRUCTION_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {

// A move between memory and a register, or of a constant to memory.
struct MmioInstruction {
  int length = 0;  // of the instruction, in bytes
  int size = 1;    // of the access: 1, 2, 4 or 8 bytes
  bool is_write = false;
  uint64_t value = 0;  // a write's

  // A read's: the register by number (rax rcx rdx rbx rsp rbp rsi rdi r8 ...), the bits of it that
  // change, and where they begin (8 for AH, CH, DH, BH).
  int register_number = 0;
  int register_size = 1;
  int register_shift = 0;
};

// Decodes a 64-bit guest's `code`: MOV (88 89 8A 8B C6 C7) and MOVZX (0F B6, 0F B7) with a memory
// operand. `rsp` may be stored too and is not among `registers`. InvalidArgument for anything else,
// a read into RSP among it, or if the instruction goes beyond `code`, naming the byte.
absl::StatusOr<MmioInstruction> DecodeMmioInstruction(absl::Span<const uint8_t> code,
                                                      const GuestRegisters& registers,
                                                      uint64_t rsp);

// Puts what the device answered into the register of a read.
void CompleteRead(const MmioInstruction& instruction, uint64_t value, GuestRegisters& registers);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_MMIO_INSTRUCTION_H_
