// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Has what decoders of a guest's instructions share: bytes, prefixes, registers, and the form of an
// operand in memory, whose address the exit has told already.

#ifndef TDP_BACKENDS_VTX_INSTRUCTION_READER_H_
#define TDP_BACKENDS_VTX_INSTRUCTION_READER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {

// The number of RSP, which `GuestRegisters` does not have.
inline constexpr int kRspNumber = 4;

// Returns the register of that number (rax rcx rdx rbx rsp rbp rsi rdi r8 ...), which is not RSP's.
// GuestRegisters has them in this order, with CR2 in RSP's place.
inline uint64_t& RegisterAt(GuestRegisters& registers, int number) {
  return *(&registers.rax + number);
}

constexpr uint64_t MaskOf(int bytes) {
  return bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * bytes) - 1;
}

// Reads an instruction's bytes one after the other. InvalidArgument beyond the last one.
class InstructionReader {
 public:
  explicit InstructionReader(absl::Span<const uint8_t> code) : code_(code) {}

  absl::StatusOr<uint8_t> Byte();
  // Reads a little-endian number of `size` bytes, its sign extended.
  absl::StatusOr<uint64_t> Number(int size);
  int position() const { return static_cast<int>(at_); }

 private:
  absl::Span<const uint8_t> code_;
  size_t at_ = 0;
};

struct InstructionPrefixes {
  bool operand_size = false;  // 0x66
  bool repeats = false;       // 0xf2, 0xf3
  bool has_fs_or_gs = false;  // 0x64, 0x65, anywhere among the prefixes
  bool has_rex = false;
  uint8_t rex = 0;
  uint8_t other = 0;   // the first that is neither 0x66 nor REX; 0 if there is none
  uint8_t opcode = 0;  // the first byte that is no prefix

  int operand_bytes() const;
};

// `is_64_bit`: the bytes 0x40 to 0x4f are prefixes. An address-size prefix is an opcode here:
// nothing that asks for one is understood.
absl::StatusOr<InstructionPrefixes> ReadPrefixes(InstructionReader& reader, bool is_64_bit);

// Skips what ModRM says of an operand in memory. Returns the number in ModRM's reg field.
// InvalidArgument if the operand is a register.
absl::StatusOr<int> SkipMemoryOperand(InstructionReader& reader,
                                      const InstructionPrefixes& prefixes);

// A register operand: its number, and where in it the operand begins.
struct RegisterOperand {
  int number = 0;
  int shift = 0;  // 8 for AH, CH, DH, BH
};
// Byte registers 4 to 7 are the second bytes of the first four, unless there is a REX prefix.
RegisterOperand OperandOf(int number, int bytes, const InstructionPrefixes& prefixes);

// Returns the operand's value; `rsp` stands for what is not among `registers`.
uint64_t ValueOf(RegisterOperand operand, int bytes, GuestRegisters registers, uint64_t rsp);
// Gives a register operand a value as an instruction does: 4 bytes clear the upper half.
void SetValueOf(RegisterOperand operand, int bytes, uint64_t value, GuestRegisters& registers);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_INSTRUCTION_READER_H_
