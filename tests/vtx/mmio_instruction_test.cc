// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/mmio_instruction.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::vtx {
namespace {

constexpr GuestRegisters kRegisters = {.rax = 0x1122334455667788,
                                       .rcx = 0xc0c1,
                                       .rdx = 0xd0d1,
                                       .rbx = 0xb0b1,
                                       .cr2 = 0,
                                       .rbp = 5,
                                       .rsi = 6,
                                       .rdi = 7,
                                       .r8 = 0x88,
                                       .r9 = 9,
                                       .r10 = 10,
                                       .r11 = 11,
                                       .r12 = 12,
                                       .r13 = 13,
                                       .r14 = 14,
                                       .r15 = 0xff15};
constexpr uint64_t kRsp = 0x5959;

MmioInstruction Decode(const std::vector<uint8_t>& code) {
  auto decoded = DecodeMmioInstruction(code, kRegisters, kRsp);
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return decoded.ok() ? *decoded : MmioInstruction();
}

struct Write {
  std::vector<uint8_t> code;  // with a byte of the next instruction behind it
  int size;
  uint64_t value;
};

TEST(MmioInstruction, WritesOfEverySizeAndAddressFormAreUnderstood) {
  const Write writes[] = {
      {{0x88, 0x07, 0x90}, 1, 0x88},                            // mov [rdi], al
      {{0x88, 0x27, 0x90}, 1, 0x77},                            // mov [rdi], ah
      {{0x40, 0x88, 0x37, 0x90}, 1, 0x06},                      // mov [rdi], sil
      {{0x44, 0x88, 0x3f, 0x90}, 1, 0x15},                      // mov [rdi], r15b
      {{0x89, 0x47, 0x10, 0x90}, 4, 0x55667788},                // mov [rdi+16], eax
      {{0x66, 0x89, 0x87, 0, 1, 0, 0, 0x90}, 2, 0x7788},        // mov [rdi+256], ax
      {{0x48, 0x89, 0x04, 0x4f, 0x90}, 8, 0x1122334455667788},  // mov [rdi+rcx*2], rax
      {{0x48, 0x89, 0x25, 1, 2, 3, 4, 0x90}, 8, kRsp},          // mov [rip+...], rsp
      {{0x89, 0x04, 0x25, 0, 0, 0, 1, 0x90}, 4, 0x55667788},    // mov [0x1000000], eax
      {{0x89, 0x44, 0x24, 0x08, 0x90}, 4, 0x55667788},          // mov [rsp+8], eax
      {{0xc6, 0x07, 0x41, 0x90}, 1, 0x41},                      // mov byte [rdi], 0x41
      {{0x66, 0xc7, 0x07, 0x34, 0x12, 0x90}, 2, 0x1234},        // mov word [rdi], 0x1234
      {{0xc7, 0x07, 1, 0, 0, 0x80, 0x90}, 4, 0x80000001},       // mov dword [rdi], ...
      {{0x48, 0xc7, 0x07, 1, 0, 0, 0x80, 0x90}, 8, 0xffffffff80000001},
  };
  for (const Write& write : writes) {
    const MmioInstruction decoded = Decode(write.code);
    EXPECT_TRUE(decoded.is_write);
    EXPECT_EQ(decoded.size, write.size);
    EXPECT_EQ(decoded.value, write.value);
    EXPECT_EQ(decoded.length, static_cast<int>(write.code.size()) - 1);
  }
}

// Returns what is in a register after the read `code` of a device that answers all ones but bit 0.
uint64_t AfterRead(const std::vector<uint8_t>& code, uint64_t GuestRegisters::*target) {
  GuestRegisters registers = kRegisters;
  const MmioInstruction decoded = Decode(code);
  EXPECT_FALSE(decoded.is_write);
  CompleteRead(decoded, ~uint64_t{1}, registers);
  return registers.*target;
}

TEST(MmioInstruction, ReadsChangeWhatTheInstructionWouldChange) {
  EXPECT_EQ(AfterRead({0x8a, 0x07}, &GuestRegisters::rax), 0x11223344556677feu);        // al
  EXPECT_EQ(AfterRead({0x8a, 0x3f}, &GuestRegisters::rbx), 0xfeb1u);                    // bh
  EXPECT_EQ(AfterRead({0x66, 0x8b, 0x07}, &GuestRegisters::rax), 0x112233445566fffeu);  // ax
  EXPECT_EQ(AfterRead({0x8b, 0x07}, &GuestRegisters::rax), 0xfffffffeu);                // eax
  EXPECT_EQ(AfterRead({0x4c, 0x8b, 0x07}, &GuestRegisters::r8), ~uint64_t{1});          // r8
  EXPECT_EQ(AfterRead({0x0f, 0xb6, 0x07}, &GuestRegisters::rax), 0xfeu);  // movzx eax, byte
  EXPECT_EQ(AfterRead({0x48, 0x0f, 0xb7, 0x07}, &GuestRegisters::rax), 0xfffeu);
  EXPECT_EQ(AfterRead({0x66, 0x0f, 0xb6, 0x07}, &GuestRegisters::rax), 0x11223344556600feu);
}

// A guest chooses the register, and `GuestRegisters` has none for RSP.
TEST(MmioInstruction, AReadIntoTheStackPointerIsRefused) {
  const std::vector<std::vector<uint8_t>> reads = {
      {0x48, 0x8b, 0x27},        // mov rsp, [rdi]
      {0x66, 0x8b, 0x27},        // mov sp
      {0x40, 0x8a, 0x27},        // mov spl
      {0x0f, 0xb7, 0x27},        // movzx esp
      {0x48, 0x0f, 0xb6, 0x27},  // movzx rsp
  };
  for (const std::vector<uint8_t>& code : reads) {
    EXPECT_THAT(std::string(DecodeMmioInstruction(code, kRegisters, 0).status().message()),
                testing::HasSubstr("a read into RSP"));
  }
  EXPECT_TRUE(DecodeMmioInstruction({0x8a, 0x27}, kRegisters, 0).ok()) << "mov ah";
  EXPECT_TRUE(DecodeMmioInstruction({0x48, 0x89, 0x27}, kRegisters, 0).ok()) << "a write of it";
}

TEST(MmioInstruction, WhatIsNotUnderstoodIsNamed) {
  EXPECT_EQ(DecodeMmioInstruction({0xf0, 0x01}, kRegisters, 0).status().message(),
            "opcode 0xf0: no MOV that this decoder knows");
  EXPECT_EQ(DecodeMmioInstruction({0x0f, 0x01}, kRegisters, 0).status().message(),
            "opcode 0x01: no MOV that this decoder knows");
  EXPECT_EQ(DecodeMmioInstruction({0x88, 0xc1}, kRegisters, 0).status().message(),
            "ModRM 0xc1: the operand is a register, not memory");
  EXPECT_EQ(DecodeMmioInstruction({0x89, 0x87, 0, 1}, kRegisters, 0).status().message(),
            "instruction goes beyond its 4 bytes");
}

}  // namespace
}  // namespace tdp::vtx
