// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/instruction_reader.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint8_t kRexW = 8;
constexpr uint8_t kRexR = 4;

bool IsPrefix(uint8_t byte) {
  switch (byte) {
    case 0x26:  // ES CS SS DS FS GS
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0xf0:  // LOCK
    case 0xf2:
    case 0xf3:
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<uint8_t> InstructionReader::Byte() {
  if (at_ >= code_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("instruction goes beyond its %d bytes", code_.size()));
  }
  return code_[at_++];
}

absl::StatusOr<uint64_t> InstructionReader::Number(int size) {
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) {
    TDP_ASSIGN_OR_RETURN(const uint8_t byte, Byte());
    value |= uint64_t{byte} << 8 * i;
  }
  const uint64_t sign = uint64_t{1} << (8 * size - 1);
  return (value ^ sign) - sign;
}

int InstructionPrefixes::operand_bytes() const {
  return (rex & kRexW) != 0 ? 8 : operand_size ? 2 : 4;
}

absl::StatusOr<InstructionPrefixes> ReadPrefixes(InstructionReader& reader, bool is_64_bit) {
  InstructionPrefixes prefixes;
  TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  while (IsPrefix(prefixes.opcode)) {
    prefixes.operand_size |= prefixes.opcode == 0x66;
    prefixes.repeats |= prefixes.opcode >= 0xf2;
    prefixes.has_fs_or_gs |= prefixes.opcode == 0x64 || prefixes.opcode == 0x65;
    if (prefixes.opcode != 0x66 && prefixes.other == 0) prefixes.other = prefixes.opcode;
    TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  }
  if (is_64_bit && (prefixes.opcode & 0xf0) == 0x40) {
    prefixes.has_rex = true;
    prefixes.rex = prefixes.opcode;
    TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  }
  return prefixes;
}

absl::StatusOr<int> SkipMemoryOperand(InstructionReader& reader,
                                      const InstructionPrefixes& prefixes) {
  TDP_ASSIGN_OR_RETURN(const uint8_t modrm, reader.Byte());
  const int mode = modrm >> 6;
  const int rm = modrm & 7;
  if (mode == 3) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ModRM 0x%02x: the operand is a register, not memory", modrm));
  }
  int displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0;
  if (rm == 4) {
    TDP_ASSIGN_OR_RETURN(const uint8_t sib, reader.Byte());
    if (mode == 0 && (sib & 7) == 5) displacement = 4;
  } else if (mode == 0 && rm == 5) {
    displacement = 4;
  }
  if (displacement != 0) TDP_RETURN_IF_ERROR(reader.Number(displacement).status());
  return (modrm >> 3 & 7) | ((prefixes.rex & kRexR) != 0 ? 8 : 0);
}

RegisterOperand OperandOf(int number, int bytes, const InstructionPrefixes& prefixes) {
  const bool second_byte = bytes == 1 && !prefixes.has_rex && number >= 4 && number < 8;
  return second_byte ? RegisterOperand{number - 4, 8} : RegisterOperand{number, 0};
}

uint64_t ValueOf(RegisterOperand operand, int bytes, GuestRegisters registers, uint64_t rsp) {
  const uint64_t whole = operand.number == kRspNumber ? rsp : RegisterAt(registers, operand.number);
  return whole >> operand.shift & MaskOf(bytes);
}

void SetValueOf(RegisterOperand operand, int bytes, uint64_t value, GuestRegisters& registers) {
  TDP_CHECK(operand.number != kRspNumber);
  uint64_t& target = RegisterAt(registers, operand.number);
  if (bytes >= 4) {
    target = value & MaskOf(bytes);
    return;
  }
  const uint64_t mask = MaskOf(bytes) << operand.shift;
  target = (target & ~mask) | (value << operand.shift & mask);
}

}  // namespace tdp::vtx
