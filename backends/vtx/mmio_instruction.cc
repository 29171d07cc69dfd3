// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/mmio_instruction.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/instruction_reader.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

absl::Status Unknown(uint8_t opcode) {
  return absl::InvalidArgumentError(
      absl::StrFormat("opcode 0x%02x: no MOV that this decoder knows", opcode));
}

// MOV: bit 0 of the opcode says whether it is of more than a byte.
absl::Status DecodeMove(InstructionReader& reader, const InstructionPrefixes& prefixes,
                        const GuestRegisters& registers, uint64_t rsp, MmioInstruction& out) {
  const uint8_t opcode = prefixes.opcode;
  out.size = out.register_size = (opcode & 1) != 0 ? prefixes.operand_bytes() : 1;
  TDP_ASSIGN_OR_RETURN(const int number, SkipMemoryOperand(reader, prefixes));
  const RegisterOperand operand = OperandOf(number, out.register_size, prefixes);
  out.register_number = operand.number;
  out.register_shift = operand.shift;
  switch (opcode) {
    case 0x88:
    case 0x89:
      out.is_write = true;
      out.value = ValueOf(operand, out.size, registers, rsp);
      return absl::OkStatus();
    case 0x8a:
    case 0x8b:
      return absl::OkStatus();
    default: {  // 0xc6, 0xc7
      out.is_write = true;
      TDP_ASSIGN_OR_RETURN(out.value, reader.Number(out.size == 8 ? 4 : out.size));
      out.value &= MaskOf(out.size);
      return absl::OkStatus();
    }
  }
}

absl::Status DecodeMoveZeroExtended(InstructionReader& reader, const InstructionPrefixes& prefixes,
                                    MmioInstruction& out) {
  TDP_ASSIGN_OR_RETURN(const uint8_t opcode, reader.Byte());
  if (opcode != 0xb6 && opcode != 0xb7) return Unknown(opcode);
  out.size = opcode == 0xb6 ? 1 : 2;
  out.register_size = prefixes.operand_bytes();
  TDP_ASSIGN_OR_RETURN(out.register_number, SkipMemoryOperand(reader, prefixes));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MmioInstruction> DecodeMmioInstruction(absl::Span<const uint8_t> code,
                                                      const GuestRegisters& registers,
                                                      uint64_t rsp) {
  InstructionReader reader(code);
  MmioInstruction out;
  TDP_ASSIGN_OR_RETURN(const InstructionPrefixes prefixes, ReadPrefixes(reader, true));
  if (prefixes.other != 0) return Unknown(prefixes.other);
  switch (prefixes.opcode) {
    case 0x88:
    case 0x89:
    case 0x8a:
    case 0x8b:
    case 0xc6:
    case 0xc7:
      TDP_RETURN_IF_ERROR(DecodeMove(reader, prefixes, registers, rsp, out));
      break;
    case 0x0f:
      TDP_RETURN_IF_ERROR(DecodeMoveZeroExtended(reader, prefixes, out));
      break;
    default:
      return Unknown(prefixes.opcode);
  }
  if (!out.is_write && out.register_number == kRspNumber) {
    return absl::InvalidArgumentError(
        absl::StrFormat("opcode 0x%02x: a read into RSP", prefixes.opcode));
  }
  out.length = reader.position();
  return out;
}

void CompleteRead(const MmioInstruction& instruction, uint64_t value, GuestRegisters& registers) {
  SetValueOf({instruction.register_number, instruction.register_shift}, instruction.register_size,
             value & MaskOf(instruction.size), registers);
}

}  // namespace tdp::vtx
