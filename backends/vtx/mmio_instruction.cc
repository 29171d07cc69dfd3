// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/mmio_instruction.h"

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint8_t kRexW = 8;
constexpr uint8_t kRexR = 4;
constexpr int kRsp = 4;

// GuestRegisters has them in the order of their numbers, with CR2 in RSP's place.
uint64_t& RegisterAt(GuestRegisters& registers, int number) { return *(&registers.rax + number); }

uint64_t MaskOf(int size) { return size == 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * size) - 1; }

// Reads an instruction's bytes one after the other.
class Reader {
 public:
  explicit Reader(absl::Span<const uint8_t> code) : code_(code) {}

  absl::StatusOr<uint8_t> Byte() {
    if (at_ >= code_.size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("instruction goes beyond its %d bytes", code_.size()));
    }
    return code_[at_++];
  }

  // A little-endian number of `size` bytes, its sign extended.
  absl::StatusOr<uint64_t> Number(int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; ++i) {
      TDP_ASSIGN_OR_RETURN(const uint8_t byte, Byte());
      value |= uint64_t{byte} << 8 * i;
    }
    const uint64_t sign = uint64_t{1} << (8 * size - 1);
    return (value ^ sign) - sign;
  }

  int position() const { return static_cast<int>(at_); }

 private:
  absl::Span<const uint8_t> code_;
  size_t at_ = 0;
};

struct Prefixes {
  bool operand_size = false;
  bool has_rex = false;
  uint8_t rex = 0;
  uint8_t opcode = 0;  // the first byte that is no prefix

  int operand_bytes() const { return (rex & kRexW) != 0 ? 8 : operand_size ? 2 : 4; }
};

absl::StatusOr<Prefixes> ReadPrefixes(Reader& reader) {
  Prefixes prefixes;
  TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  while (prefixes.opcode == 0x66) {
    prefixes.operand_size = true;
    TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  }
  if ((prefixes.opcode & 0xf0) == 0x40) {
    prefixes.has_rex = true;
    prefixes.rex = prefixes.opcode;
    TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  }
  return prefixes;
}

// Skips what ModRM says of the operand's address: the exit has told it already. Returns the number
// in ModRM's reg field.
absl::StatusOr<int> ReadOperands(Reader& reader, const Prefixes& prefixes) {
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

// Byte registers 4 to 7 are the second bytes of the first four, unless there is a REX prefix.
void NameRegister(int number, const Prefixes& prefixes, MmioInstruction& instruction) {
  const bool second_byte =
      instruction.register_size == 1 && !prefixes.has_rex && number >= 4 && number < 8;
  instruction.register_number = second_byte ? number - 4 : number;
  instruction.register_shift = second_byte ? 8 : 0;
}

uint64_t RegisterValue(const MmioInstruction& instruction, GuestRegisters registers, uint64_t rsp) {
  const uint64_t whole = instruction.register_number == kRsp
                             ? rsp
                             : RegisterAt(registers, instruction.register_number);
  return whole >> instruction.register_shift & MaskOf(instruction.size);
}

absl::Status Unknown(uint8_t opcode) {
  return absl::InvalidArgumentError(
      absl::StrFormat("opcode 0x%02x: no MOV that this decoder knows", opcode));
}

// MOV: bit 0 of the opcode says whether it is of more than a byte.
absl::Status DecodeMove(Reader& reader, const Prefixes& prefixes, const GuestRegisters& registers,
                        uint64_t rsp, MmioInstruction& out) {
  const uint8_t opcode = prefixes.opcode;
  out.size = out.register_size = (opcode & 1) != 0 ? prefixes.operand_bytes() : 1;
  TDP_ASSIGN_OR_RETURN(const int number, ReadOperands(reader, prefixes));
  NameRegister(number, prefixes, out);
  switch (opcode) {
    case 0x88:
    case 0x89:
      out.is_write = true;
      out.value = RegisterValue(out, registers, rsp);
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

absl::Status DecodeMoveZeroExtended(Reader& reader, const Prefixes& prefixes,
                                    MmioInstruction& out) {
  TDP_ASSIGN_OR_RETURN(const uint8_t opcode, reader.Byte());
  if (opcode != 0xb6 && opcode != 0xb7) return Unknown(opcode);
  out.size = opcode == 0xb6 ? 1 : 2;
  out.register_size = prefixes.operand_bytes();
  TDP_ASSIGN_OR_RETURN(out.register_number, ReadOperands(reader, prefixes));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MmioInstruction> DecodeMmioInstruction(absl::Span<const uint8_t> code,
                                                      const GuestRegisters& registers,
                                                      uint64_t rsp) {
  Reader reader(code);
  MmioInstruction out;
  TDP_ASSIGN_OR_RETURN(const Prefixes prefixes, ReadPrefixes(reader));
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
  out.length = reader.position();
  return out;
}

void CompleteRead(const MmioInstruction& instruction, uint64_t value, GuestRegisters& registers) {
  TDP_CHECK(instruction.register_number != kRsp);
  uint64_t& target = RegisterAt(registers, instruction.register_number);
  value &= MaskOf(instruction.size);
  if (instruction.register_size >= 4) {
    target = value;  // writing 32 bits clears the upper half
    return;
  }
  const uint64_t mask = MaskOf(instruction.register_size) << instruction.register_shift;
  target = (target & ~mask) | (value << instruction.register_shift & mask);
}

}  // namespace tdp::vtx
