// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The processor that runs this test is the judge: it executes the same bytes.

#include "tdp/backends/vtx/write_instruction.h"

#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

constexpr uint64_t kStatusFlags = 0x8d5;  // OF SF ZF AF PF CF
constexpr uint64_t kUndefinedAdjust = 0x10;

// Holds what an instruction changes: one operand at rdi, registers, flags.
struct State {
  alignas(16) std::array<uint64_t, 4> memory{};
  uint64_t rax = 0, rcx = 0, rdx = 0, rbx = 0, rsi = 0, rdi = 0, flags = 0x202;
};

// Runs the instruction on the registers of a `State` at rdi, in a page of its own.
class Judge {
 public:
  Judge() {
    page_ = static_cast<uint8_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~Judge() { munmap(page_, 4096); }

  void Run(const std::vector<uint8_t>& code, State& state) {
    memcpy(page_, code.data(), code.size());
    page_[code.size()] = 0xc3;
    asm volatile("push %[flags]; popf; call *%[page]; pushf; pop %[flags]; cld"
                 : "+a"(state.rax), "+c"(state.rcx), "+d"(state.rdx), "+b"(state.rbx),
                   "+S"(state.rsi), "+D"(state.rdi), [flags] "+r"(state.flags)
                 : [page] "r"(page_)
                 : "memory", "cc");
  }

 private:
  uint8_t* page_;
};

struct Case {
  std::vector<uint8_t> code;
  uint64_t undefined = 0;  // flags that the manual leaves open
};

const Case kCases[] = {
    {{0x88, 0x0f}},                                // mov [rdi], cl
    {{0x88, 0x2f}},                                // mov [rdi], ch
    {{0x66, 0x89, 0x0f}},                          // mov [rdi], cx
    {{0x89, 0x0f}},                                // mov [rdi], ecx
    {{0x48, 0x89, 0x0f}},                          // mov [rdi], rcx
    {{0x66, 0x48, 0x89, 0x0f}},                    // the same: REX.W goes before 0x66
    {{0x8c, 0x1f}},                                // mov [rdi], ds
    {{0x48, 0x8c, 0x0f}},                          // mov [rdi], cs: of 16 bits, too
    {{0x66, 0x8c, 0x27}},                          // mov [rdi], fs
    {{0xc6, 0x07, 0x85}},                          // mov byte [rdi], 0x85
    {{0x48, 0xc7, 0x07, 0x63, 0x00, 0x00, 0x80}},  // mov qword [rdi], ...
    {{0x48, 0x0f, 0xc3, 0x0f}},                    // movnti [rdi], rcx
    {{0x48, 0x87, 0x0f}},                          // xchg [rdi], rcx
    {{0x87, 0x0f}},                                // xchg [rdi], ecx
    {{0x86, 0x2f}},                                // xchg [rdi], ch
    {{0xf0, 0x48, 0x0f, 0xb1, 0x0f}},              // lock cmpxchg [rdi], rcx
    {{0xf0, 0x0f, 0xb1, 0x0f}},                    // lock cmpxchg [rdi], ecx
    {{0xf0, 0x0f, 0xb0, 0x0f}},                    // lock cmpxchg [rdi], cl
    {{0xf0, 0x0f, 0xc7, 0x0f}},                    // lock cmpxchg8b [rdi]
    {{0xf0, 0x48, 0x21, 0x0f}, kUndefinedAdjust},  // lock and [rdi], rcx
    {{0xf0, 0x80, 0x27, 0xdf}, kUndefinedAdjust},  // lock and byte [rdi], ~0x20
    {{0x48, 0x83, 0x27, 0xfd}, kUndefinedAdjust},  // and qword [rdi], ~2
    {{0x48, 0x81, 0x0f, 2, 0, 0, 0x80}, kUndefinedAdjust},
    {{0x09, 0x0f}, kUndefinedAdjust},        // or [rdi], ecx
    {{0x48, 0x31, 0x0f}, kUndefinedAdjust},  // xor [rdi], rcx
    {{0x83, 0x37, 0x40}, kUndefinedAdjust},  // xor dword [rdi], 0x40
    // Bit operations leave OF, SF, AF and PF open.
    {{0xf0, 0x48, 0x0f, 0xba, 0x37, 0x01}, 0x894},  // lock btr qword [rdi], 1
    {{0x48, 0x0f, 0xba, 0x2f, 0x3f}, 0x894},        // bts qword [rdi], 63
    {{0x0f, 0xba, 0x3f, 0x07}, 0x894},              // btc dword [rdi], 7
    {{0x0f, 0xba, 0x2f, 0x21}, 0x894},              // bts dword [rdi], 33: bit 1
    {{0xaa}},                                       // stosb
    {{0x48, 0xab}},                                 // stosq
    {{0x66, 0xa5}},                                 // movsw
    {{0x48, 0xa5}},                                 // movsq
};

uint16_t SelectorOf(int segment) {
  std::array<uint16_t, 6> selectors;
  asm volatile("mov %%es, %0; mov %%cs, %1; mov %%ss, %2; mov %%ds, %3; mov %%fs, %4; mov %%gs, %5"
               : "=m"(selectors[0]), "=m"(selectors[1]), "=m"(selectors[2]), "=m"(selectors[3]),
                 "=m"(selectors[4]), "=m"(selectors[5]));
  return selectors[static_cast<size_t>(segment)];
}

// Does with the decoder what executing `code` does.
void Emulate(const std::vector<uint8_t>& code, State& state) {
  GuestRegisters registers;
  registers.rax = state.rax;
  registers.rcx = state.rcx;
  registers.rdx = state.rdx;
  registers.rbx = state.rbx;
  registers.rsi = state.rsi;
  registers.rdi = state.rdi;
  auto decoded = DecodeWriteInstruction(code, true, registers, 0);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->length, static_cast<int>(code.size()));
  if (decoded->kind == WriteInstruction::Kind::kMoveString) {
    decoded->value = 0;
    memcpy(&decoded->value, reinterpret_cast<void*>(registers.rsi),
           static_cast<size_t>(decoded->size));
  }
  if (decoded->kind == WriteInstruction::Kind::kMoveSegment) {
    decoded->value = SelectorOf(decoded->target.number);
  }
  const auto done =
      ExecuteWrite(*decoded, reinterpret_cast<std::byte*>(registers.rdi), registers, state.flags);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(*done);
  state.rax = registers.rax;
  state.rcx = registers.rcx;
  state.rdx = registers.rdx;
  state.rbx = registers.rbx;
  state.rsi = registers.rsi;
  state.rdi = registers.rdi;
}

TEST(WriteInstruction, DoesWhatTheProcessorDoes) {
  Judge judge;
  constexpr uint64_t kValues[] = {0, 1, 0x80, 0x8000000000000000, 0x7fffffff, 0x123456789abcdef3};
  for (const Case& test : kCases) {
    for (const uint64_t old : kValues) {
      for (const uint64_t value : kValues) {
        for (const uint64_t accumulator :
             {old, value, uint64_t{0x4433221155667788}, old | 0xffffffff00000000}) {
          const auto fresh = [&](State& state) {
            state.memory = {old, 7, value, 9};
            state.rax = accumulator;
            // CMPXCHG8B compares EDX:EAX, and not what else the two have.
            state.rdx = old >> 32 | 0x1234567800000000;
            // Every flag is set where nothing is.
            if (old == 0) state.flags |= kStatusFlags;
            state.rcx = value;
            state.rbx = ~value;
            state.rdi = reinterpret_cast<uint64_t>(&state.memory[0]);
            state.rsi = reinterpret_cast<uint64_t>(&state.memory[2]);
          };
          State judged, emulated;
          fresh(judged);
          fresh(emulated);
          judge.Run(test.code, judged);
          Emulate(test.code, emulated);
          const auto place = [](const State& state, uint64_t address) {
            return address - reinterpret_cast<uint64_t>(&state.memory[0]);
          };
          ASSERT_EQ(emulated.memory, judged.memory) << int{test.code[0]};
          ASSERT_EQ(emulated.rax, judged.rax) << int{test.code[0]};
          ASSERT_EQ(emulated.rcx, judged.rcx) << int{test.code[0]};
          ASSERT_EQ(emulated.rdx, judged.rdx) << int{test.code[0]};
          ASSERT_EQ(place(emulated, emulated.rdi), place(judged, judged.rdi));
          ASSERT_EQ(place(emulated, emulated.rsi), place(judged, judged.rsi));
          const uint64_t defined = kStatusFlags & ~test.undefined;
          ASSERT_EQ(emulated.flags & defined, judged.flags & defined) << int{test.code[0]};
        }
      }
    }
  }
}

TEST(WriteInstruction, ARepeatedStringInstructionDoesOneElementAtATime) {
  GuestRegisters registers;
  registers.rcx = 2;
  registers.rdi = 0x1000;
  registers.rax = 5;
  const auto decoded = *DecodeWriteInstruction({0xf3, 0x48, 0xab}, true, registers, 0);
  EXPECT_TRUE(decoded.repeats);
  alignas(8) std::byte place[8];
  uint64_t flags = 0x402;  // downwards
  EXPECT_FALSE(*ExecuteWrite(decoded, place, registers, flags));
  EXPECT_EQ(registers.rcx, 1u);
  EXPECT_EQ(registers.rdi, 0xff8u);
  EXPECT_TRUE(*ExecuteWrite(decoded, place, registers, flags));
}

TEST(WriteInstruction, A32BitGuestsBytesMeanOtherThings) {
  GuestRegisters registers;
  registers.rax = 0x55;
  registers.rdi = 0xffffffff;
  // 0x48 is DEC EAX there.
  EXPECT_FALSE(DecodeWriteInstruction({0x48, 0x89, 0x0f}, false, registers, 0).ok());
  // mov [0x12345678], eax: four bytes of address, not eight.
  EXPECT_EQ(DecodeWriteInstruction({0xa3, 0x78, 0x56, 0x34, 0x12}, false, registers, 0)->length, 5);
  const auto store = *DecodeWriteInstruction({0xaa}, false, registers, 0);
  std::byte place{};
  uint64_t flags = 2;
  EXPECT_TRUE(*ExecuteWrite(store, &place, registers, flags));
  EXPECT_EQ(registers.rdi, 0u);
}

// The bytes behind those that were fetched are there, and not to be looked at.
TEST(WriteInstruction, AnInstructionThatIsCutShortIsRefused) {
  for (const Case& test : kCases) {
    for (size_t length = 0; length < test.code.size(); ++length) {
      const auto head = absl::MakeConstSpan(test.code).first(length);
      EXPECT_FALSE(DecodeWriteInstruction(head, true, GuestRegisters(), 0).ok())
          << int{test.code[0]} << " " << length;
    }
  }
}

TEST(WriteInstruction, WhatIsNotUnderstoodIsNamed) {
  const GuestRegisters registers;
  const auto message = [&](const std::vector<uint8_t>& code) {
    return std::string(DecodeWriteInstruction(code, true, registers, 0).status().message());
  };
  EXPECT_EQ(message({0x8b, 0x07}), "opcode 0x8b: no write that this decoder knows");
  EXPECT_EQ(message({0x8c, 0x37}), "opcode 0x8c: no write that this decoder knows") << "segment 6";
  EXPECT_EQ(message({0x0f, 0x11, 0x07}), "opcode 0x11: no write that this decoder knows");
  EXPECT_EQ(message({0x67, 0x89, 0x07}), "opcode 0x67: no write that this decoder knows");
  EXPECT_EQ(message({0x83, 0x07, 0x01}), "opcode 0x83: no write that this decoder knows");
  EXPECT_EQ(message({0x48, 0x0f, 0xc7, 0x0f}), "opcode 0xc7: no write that this decoder knows");
  EXPECT_EQ(message({0x0f, 0xc7, 0x17}), "opcode 0xc7: no write that this decoder knows");
  for (const uint8_t segment : {0x64, 0x65}) {
    const std::string unknown = "opcode 0xa4: no write that this decoder knows";
    EXPECT_EQ(message({segment, 0xa4}), unknown);
    EXPECT_EQ(message({0xf3, segment, 0xa4}), unknown) << "behind another prefix";
    EXPECT_EQ(message({0x26, 0x66, segment, 0xa4}), unknown);
  }
  EXPECT_EQ(message({0x66, 0x0f, 0xc3, 0x07}), "opcode 0xc3: no write that this decoder knows");
  EXPECT_EQ(message({0xc6, 0x0f, 1}), "opcode 0xc6: no write that this decoder knows");
  EXPECT_EQ(message({0x48, 0xc7, 0x07, 1}), "instruction goes beyond its 4 bytes");
  GuestRegisters changed;
  alignas(8) std::byte place[8];
  uint64_t flags = 2;
  const auto exchange = *DecodeWriteInstruction({0x48, 0x87, 0x27}, true, registers, 0);
  EXPECT_EQ(ExecuteWrite(exchange, place, changed, flags).status().message(), "XCHG with RSP");
}

}  // namespace
}  // namespace tdp::vtx
