// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The instructions with which kernels write their page tables, understood well enough to execute
// them in the guest's place: what a hypervisor without EPT does where a write must not reach memory
// unseen. Values only.

#ifndef TDP_BACKENDS_VTX_WRITE_INSTRUCTION_H_
#define TDP_BACKENDS_VTX_WRITE_INSTRUCTION_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/instruction_reader.h"
#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {

struct WriteInstruction {
  enum class Kind : uint8_t {
    kMove,             // MOV, MOVNTI; value
    kMoveSegment,      // MOV of the selector of segment `target` (ES CS SS DS FS GS)
    kStoreString,      // STOS: one element; value
    kMoveString,       // MOVS: one element, of the `size` bytes at RSI
    kExchange,         // XCHG; value in, what was there into `target`
    kCompareExchange,  // CMPXCHG; value in if RAX is there, else what is there into RAX
    kComparePair,      // CMPXCHG8B; value in if EDX:EAX is there, else what is there into them
    kAnd,
    kOr,
    kXor,
    kSetBit,  // BTS, BTR, BTC: of bit number `value`
    kClearBit,
    kFlipBit,
  };

  Kind kind = Kind::kMove;
  int length = 0;  // of the instruction, in bytes
  int size = 1;    // of the memory operand: 1, 2, 4 or 8 bytes
  bool repeats = false;
  bool is_64_bit = true;
  uint64_t value = 0;
  RegisterOperand target;

  bool is_string() const { return kind == Kind::kStoreString || kind == Kind::kMoveString; }
};

// Decodes `code` of a guest in 64-bit mode, or in 32-bit mode with flat segments. The instructions
// above, in all their forms with an operand in memory but those with an address-size prefix, and
// MOVS from FS or GS. InvalidArgument for anything else or if the instruction goes beyond `code`,
// naming the byte.
absl::StatusOr<WriteInstruction> DecodeWriteInstruction(absl::Span<const uint8_t> code,
                                                        bool is_64_bit,
                                                        const GuestRegisters& registers,
                                                        uint64_t rsp);

// Executes it on the operand at `place`, aligned to its size, atomically: memory, `registers` and
// `flags` (RFLAGS) become what the instruction makes of them. MOVS and MOV of a selector store
// `value`, which the caller has read. A string instruction does one element; its registers have
// moved on by it, and false says that it is to be executed again. InvalidArgument, with nothing
// done, if the result goes to RSP.
absl::StatusOr<bool> ExecuteWrite(const WriteInstruction& instruction, std::byte* place,
                                  GuestRegisters& registers, uint64_t& flags);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_WRITE_INSTRUCTION_H_
