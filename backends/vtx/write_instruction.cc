// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/write_instruction.h"

#include <atomic>
#include <bit>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

using Kind = WriteInstruction::Kind;

constexpr uint64_t kCarry = 1 << 0;
constexpr uint64_t kParity = 1 << 2;
constexpr uint64_t kAdjust = 1 << 4;
constexpr uint64_t kZero = 1 << 6;
constexpr uint64_t kSign = 1 << 7;
constexpr uint64_t kDirection = 1 << 10;
constexpr uint64_t kOverflow = 1 << 11;
constexpr uint64_t kArithmetic = kCarry | kParity | kAdjust | kZero | kSign | kOverflow;

// --- Decoding ------------------------------------------------------------------------------------

struct Decoder {
  InstructionReader reader;
  InstructionPrefixes prefixes;
  const GuestRegisters& registers;
  uint64_t rsp;
  bool is_64_bit;
  WriteInstruction out;

  absl::Status Unknown() const {
    return absl::InvalidArgumentError(
        absl::StrFormat("opcode 0x%02x: no write that this decoder knows", prefixes.opcode));
  }
  // Bit 0 of an opcode says whether it is of more than a byte.
  int SizeOf(uint8_t opcode) const { return (opcode & 1) != 0 ? prefixes.operand_bytes() : 1; }

  // Takes the value from the register that ModRM names.
  absl::Status FromRegister(Kind kind, int size) {
    out.kind = kind;
    out.size = size;
    TDP_ASSIGN_OR_RETURN(const int number, SkipMemoryOperand(reader, prefixes));
    out.target = OperandOf(number, size, prefixes);
    out.value = ValueOf(out.target, size, registers, rsp);
    return absl::OkStatus();
  }
  // Takes the value that follows the operand in `bytes` bytes. ModRM's reg field belongs to the
  // opcode.
  absl::StatusOr<int> FromConstant(int size, int bytes) {
    out.size = size;
    TDP_ASSIGN_OR_RETURN(const int number, SkipMemoryOperand(reader, prefixes));
    TDP_ASSIGN_OR_RETURN(const uint64_t value, reader.Number(bytes));
    out.value = value & MaskOf(size);
    return number & 7;
  }
  // Memory gets the 16 bits of a selector, whatever the operand size.
  absl::Status FromSegment() {
    constexpr int kSegments = 6;
    out.kind = Kind::kMoveSegment;
    out.size = 2;
    TDP_ASSIGN_OR_RETURN(const int number, SkipMemoryOperand(reader, prefixes));
    out.target.number = number & 7;
    return out.target.number < kSegments ? absl::OkStatus() : Unknown();
  }
  absl::Status Accumulator(Kind kind, int size) {
    out.kind = kind;
    out.size = size;
    out.value = registers.rax & MaskOf(size);
    return absl::OkStatus();
  }

  absl::Status OneByte();
  absl::Status ArithmeticConstant();
  absl::Status TwoBytes();
  absl::Status BitConstant();
  absl::Status ComparePair();
};

absl::Status Decoder::OneByte() {
  const uint8_t opcode = prefixes.opcode;
  const int size = SizeOf(opcode);
  switch (opcode) {
    case 0x08:
    case 0x09:
      return FromRegister(Kind::kOr, size);
    case 0x20:
    case 0x21:
      return FromRegister(Kind::kAnd, size);
    case 0x30:
    case 0x31:
      return FromRegister(Kind::kXor, size);
    case 0x80:
    case 0x81:
    case 0x83:
      return ArithmeticConstant();
    case 0x86:
    case 0x87:
      return FromRegister(Kind::kExchange, size);
    case 0x88:
    case 0x89:
      return FromRegister(Kind::kMove, size);
    case 0x8c:
      return FromSegment();
    case 0xa2:
    case 0xa3:  // the operand's address stands in the instruction
      TDP_RETURN_IF_ERROR(reader.Number(is_64_bit ? 8 : 4).status());
      return Accumulator(Kind::kMove, size);
    case 0xa4:
    case 0xa5:
      return prefixes.has_fs_or_gs ? Unknown() : Accumulator(Kind::kMoveString, size);
    case 0xaa:
    case 0xab:
      return Accumulator(Kind::kStoreString, size);
    case 0xc6:
    case 0xc7: {
      TDP_ASSIGN_OR_RETURN(const int extension, FromConstant(size, size == 8 ? 4 : size));
      return extension == 0 ? absl::OkStatus() : Unknown();
    }
    default:
      return Unknown();
  }
}

absl::Status Decoder::ArithmeticConstant() {
  constexpr uint8_t kSignExtended = 0x83;
  constexpr int kOrExtension = 1, kAndExtension = 4, kXorExtension = 6;
  const int size = SizeOf(prefixes.opcode);
  const int bytes = prefixes.opcode == kSignExtended ? 1 : size == 8 ? 4 : size;
  TDP_ASSIGN_OR_RETURN(const int extension, FromConstant(size, bytes));
  switch (extension) {
    case kOrExtension:
      out.kind = Kind::kOr;
      return absl::OkStatus();
    case kAndExtension:
      out.kind = Kind::kAnd;
      return absl::OkStatus();
    case kXorExtension:
      out.kind = Kind::kXor;
      return absl::OkStatus();
    default:
      return Unknown();
  }
}

// The address that faulted is that of the word with the bit, so the rest of the bit's number is in
// it.
absl::Status Decoder::TwoBytes() {
  TDP_ASSIGN_OR_RETURN(prefixes.opcode, reader.Byte());
  const int size = prefixes.operand_bytes();
  switch (prefixes.opcode) {
    case 0xab:
      return FromRegister(Kind::kSetBit, size);
    case 0xb0:
    case 0xb1:
      return FromRegister(Kind::kCompareExchange, SizeOf(prefixes.opcode));
    case 0xb3:
      return FromRegister(Kind::kClearBit, size);
    case 0xba:
      return BitConstant();
    case 0xbb:
      return FromRegister(Kind::kFlipBit, size);
    case 0xc7:
      return ComparePair();
    case 0xc3:  // MOVNTI
      return size >= 4 ? FromRegister(Kind::kMove, size) : Unknown();
    default:
      return Unknown();
  }
}

absl::Status Decoder::BitConstant() {
  TDP_ASSIGN_OR_RETURN(const int extension, FromConstant(prefixes.operand_bytes(), 1));
  switch (extension) {
    case 5:
      out.kind = Kind::kSetBit;
      return absl::OkStatus();
    case 6:
      out.kind = Kind::kClearBit;
      return absl::OkStatus();
    case 7:
      out.kind = Kind::kFlipBit;
      return absl::OkStatus();
    default:
      return Unknown();
  }
}

// Decodes what 32-bit kernels write an entry of 8 bytes with. With REX.W it is CMPXCHG16B.
absl::Status Decoder::ComparePair() {
  constexpr int kExtension = 1;
  if (prefixes.operand_bytes() == 8) return Unknown();
  TDP_ASSIGN_OR_RETURN(const int number, SkipMemoryOperand(reader, prefixes));
  if ((number & 7) != kExtension) return Unknown();
  out.kind = Kind::kComparePair;
  out.size = 8;
  out.value = registers.rcx << 32 | (registers.rbx & MaskOf(4));
  return absl::OkStatus();
}

// --- Executing -----------------------------------------------------------------------------------

bool IsBitOperation(Kind kind) {
  return kind == Kind::kSetBit || kind == Kind::kClearBit || kind == Kind::kFlipBit;
}

// Returns what the operand becomes where `old` was.
uint64_t NewValue(const WriteInstruction& instruction, uint64_t old, uint64_t accumulator) {
  const uint64_t value = instruction.value;
  const uint64_t bit = uint64_t{1} << (value & static_cast<uint64_t>(8 * instruction.size - 1));
  switch (instruction.kind) {
    case Kind::kMove:
    case Kind::kMoveSegment:
    case Kind::kStoreString:
    case Kind::kMoveString:
    case Kind::kExchange:
      return value;
    case Kind::kCompareExchange:
    case Kind::kComparePair:
      return old == accumulator ? value : old;
    case Kind::kAnd:
      return old & value;
    case Kind::kOr:
      return old | value;
    case Kind::kXor:
      return old ^ value;
    case Kind::kSetBit:
      return old | bit;
    case Kind::kClearBit:
      return old & ~bit;
    case Kind::kFlipBit:
      return old ^ bit;
  }
  return old;
}

// Writes by a loop of compare-exchanges. Returns what was there.
template <typename Word>
uint64_t Update(const WriteInstruction& instruction, std::byte* place, uint64_t accumulator) {
  std::atomic_ref<Word> word(*reinterpret_cast<Word*>(place));
  Word old = word.load(std::memory_order_seq_cst);
  while (!word.compare_exchange_weak(
      old, static_cast<Word>(NewValue(instruction, old, accumulator)), std::memory_order_seq_cst)) {
  }
  return old;
}

uint64_t UpdateBySize(const WriteInstruction& instruction, std::byte* place, uint64_t accumulator) {
  switch (instruction.size) {
    case 1:
      return Update<uint8_t>(instruction, place, accumulator);
    case 2:
      return Update<uint16_t>(instruction, place, accumulator);
    case 4:
      return Update<uint32_t>(instruction, place, accumulator);
    default:
      return Update<uint64_t>(instruction, place, accumulator);
  }
}

// SF, ZF and PF of a result.
uint64_t FlagsOf(uint64_t result, int size) {
  uint64_t flags = result == 0 ? kZero : 0;
  if ((result >> (8 * size - 1) & 1) != 0) flags |= kSign;
  if (std::popcount(result & 0xff) % 2 == 0) flags |= kParity;
  return flags;
}

// Those of CMP `a`, `b`.
uint64_t FlagsOfComparison(uint64_t a, uint64_t b, int size) {
  const uint64_t result = (a - b) & MaskOf(size);
  uint64_t flags = FlagsOf(result, size);
  if (a < b) flags |= kCarry;
  if (((a ^ b ^ result) & 0x10) != 0) flags |= kAdjust;
  if ((((a ^ b) & (a ^ result)) >> (8 * size - 1) & 1) != 0) flags |= kOverflow;
  return flags;
}

// Returns the instruction's flags after it met `old`; `flags` as they were.
uint64_t FlagsAfter(const WriteInstruction& instruction, uint64_t old, uint64_t accumulator,
                    uint64_t flags) {
  const int size = instruction.size;
  if (IsBitOperation(instruction.kind)) {
    const auto shift = instruction.value & static_cast<uint64_t>(8 * size - 1);
    return (flags & ~kCarry) | ((old >> shift & 1) != 0 ? kCarry : 0);
  }
  switch (instruction.kind) {
    case Kind::kAnd:
    case Kind::kOr:
    case Kind::kXor:
      return (flags & ~kArithmetic) | FlagsOf(NewValue(instruction, old, accumulator), size);
    case Kind::kCompareExchange:
      return (flags & ~kArithmetic) | FlagsOfComparison(accumulator, old, size);
    case Kind::kComparePair:
      return (flags & ~kZero) | (old == accumulator ? kZero : 0);
    default:
      return flags;
  }
}

// Returns what the operand is compared with.
uint64_t AccumulatorOf(const WriteInstruction& instruction, const GuestRegisters& registers) {
  if (instruction.kind == Kind::kComparePair) {
    return registers.rdx << 32 | (registers.rax & MaskOf(4));
  }
  return registers.rax & MaskOf(instruction.size);
}

// Moves on to the next element. Returns whether it was the last one.
bool MoveOn(const WriteInstruction& instruction, uint64_t flags, GuestRegisters& registers) {
  const auto bytes = static_cast<uint64_t>(instruction.size);
  const uint64_t step = (flags & kDirection) != 0 ? 0 - bytes : bytes;
  const uint64_t mask = MaskOf(instruction.is_64_bit ? 8 : 4);
  registers.rdi = (registers.rdi + step) & mask;
  if (instruction.kind == Kind::kMoveString) registers.rsi = (registers.rsi + step) & mask;
  if (!instruction.repeats) return true;
  registers.rcx = (registers.rcx - 1) & mask;
  return registers.rcx == 0;
}

}  // namespace

absl::StatusOr<WriteInstruction> DecodeWriteInstruction(absl::Span<const uint8_t> code,
                                                        bool is_64_bit,
                                                        const GuestRegisters& registers,
                                                        uint64_t rsp) {
  InstructionReader reader(code);
  TDP_ASSIGN_OR_RETURN(const InstructionPrefixes prefixes, ReadPrefixes(reader, is_64_bit));
  Decoder decoder{reader, prefixes, registers, rsp, is_64_bit, {}};
  constexpr uint8_t kEscape = 0x0f;
  TDP_RETURN_IF_ERROR(prefixes.opcode == kEscape ? decoder.TwoBytes() : decoder.OneByte());
  decoder.out.length = decoder.reader.position();
  decoder.out.is_64_bit = is_64_bit;
  decoder.out.repeats = prefixes.repeats && decoder.out.is_string();
  return decoder.out;
}

absl::StatusOr<bool> ExecuteWrite(const WriteInstruction& instruction, std::byte* place,
                                  GuestRegisters& registers, uint64_t& flags) {
  const bool exchanges = instruction.kind == Kind::kExchange;
  if (exchanges && instruction.target.number == kRspNumber) {
    return absl::InvalidArgumentError("XCHG with RSP");
  }
  const uint64_t accumulator = AccumulatorOf(instruction, registers);
  const uint64_t old = UpdateBySize(instruction, place, accumulator);
  flags = FlagsAfter(instruction, old, accumulator, flags);
  if (exchanges) SetValueOf(instruction.target, instruction.size, old, registers);
  if (instruction.kind == Kind::kCompareExchange && old != accumulator) {
    SetValueOf(RegisterOperand(), instruction.size, old, registers);
  }
  if (instruction.kind == Kind::kComparePair && old != accumulator) {
    registers.rax = old & MaskOf(4);
    registers.rdx = old >> 32;
  }
  return !instruction.is_string() || MoveOn(instruction, flags, registers);
}

}  // namespace tdp::vtx
