// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Reads the runner's arguments, puts the ELF file's segments in place and starts the program with
// the stack that the System V ABI describes.

#include "loader.h"

#include <elf.h>

namespace boot {
namespace {

constexpr uint64_t kStackBytes = 2 << 20;
constexpr int kStackWords = 128;  // room for the arguments and what goes with them
constexpr int kMaxArguments = 64;

Machine machine;

void CopyBytes(uint64_t to, uint64_t from, uint64_t size) {
  uint64_t words = size / 8;
  size %= 8;
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

// Returns a decimal number at `text`, which moves past it and the character after it.
uint64_t TakeNumber(const char*& text) {
  uint64_t number = 0;
  for (; *text >= '0' && *text <= '9'; ++text) number = number * 10 + (*text - '0');
  ++text;
  return number;
}

// "PROCESSORS MEBIBYTES TICKS ARGUMENTS\0argument\0...": what the runner wrote at ARGUMENTS.
void ReadMachine() {
  const auto* text = reinterpret_cast<const char*>(ARGUMENTS);
  machine.processors = static_cast<int>(TakeNumber(text));
  machine.memory_bytes = TakeNumber(text) << 20;
  machine.ticks_per_second = TakeNumber(text);
  machine.argument_count = static_cast<int>(TakeNumber(text));
  machine.arguments = text;
  if (machine.memory_bytes <= PROGRAM_IMAGE_END || machine.ticks_per_second == 0) {
    Finish("no arguments from the runner");
  }
  if (machine.argument_count > kMaxArguments) Finish("too many arguments");
}

// Copies the loadable segments; the end of the last one.
uint64_t PlaceSegments(const Elf64_Ehdr& elf) {
  const auto* headers = reinterpret_cast<const Elf64_Phdr*>(PROGRAM_IMAGE + elf.e_phoff);
  uint64_t end = 0;
  for (int i = 0; i < elf.e_phnum; ++i) {
    const Elf64_Phdr& segment = headers[i];
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_vaddr < PROGRAM_IMAGE_END) Finish("the program is not linked at 32 MiB or above");
    CopyBytes(segment.p_vaddr, PROGRAM_IMAGE + segment.p_offset, segment.p_filesz);
    if (segment.p_vaddr + segment.p_memsz > end) end = segment.p_vaddr + segment.p_memsz;
  }
  return end;
}

// Returns the address at which the program sees its own program headers.
uint64_t HeadersInMemory(const Elf64_Ehdr& elf) {
  const auto* headers = reinterpret_cast<const Elf64_Phdr*>(PROGRAM_IMAGE + elf.e_phoff);
  for (int i = 0; i < elf.e_phnum; ++i) {
    if (headers[i].p_type == PT_LOAD && headers[i].p_offset == 0) {
      return headers[i].p_vaddr + elf.e_phoff;
    }
  }
  Finish("no segment holds the program headers");
}

// argc, argv, environment and auxiliary vector; the stack pointer to start with.
uint64_t BuildStack(const Elf64_Ehdr& elf) {
  // One malloc arena: a second one would reserve 64 MiB. No string instructions for large blocks:
  // the emulator takes as long for a REP's iteration as for an instruction.
  static const char tunables[] =
      "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.cpu.x86_rep_stosb_threshold=0x40000000:"
      "glibc.cpu.x86_rep_movsb_threshold=0x40000000";
  static const uint64_t random_bytes[2] = {0x243f6a8885a308d3, 0x13198a2e03707344};
  const uint64_t top = AllocatePages(kStackBytes) + kStackBytes;
  auto* words = reinterpret_cast<uint64_t*>(top) - kStackWords;
  auto* out = words;
  *out++ = machine.argument_count;
  const char* argument = machine.arguments;
  for (int i = 0; i < machine.argument_count; ++i) {
    *out++ = reinterpret_cast<uint64_t>(argument);
    while (*argument++ != 0) {
    }
  }
  *out++ = 0;
  *out++ = reinterpret_cast<uint64_t>(tunables);
  *out++ = 0;
  const uint64_t auxiliary[][2] = {{AT_PHDR, HeadersInMemory(elf)},
                                   {AT_PHENT, elf.e_phentsize},
                                   {AT_PHNUM, elf.e_phnum},
                                   {AT_PAGESZ, 4096},
                                   {AT_ENTRY, elf.e_entry},
                                   {AT_SECURE, 0},
                                   {AT_RANDOM, reinterpret_cast<uint64_t>(random_bytes)},
                                   {AT_NULL, 0}};
  for (const auto& pair : auxiliary) {
    *out++ = pair[0];
    *out++ = pair[1];
  }
  return reinterpret_cast<uint64_t>(words);
}

}  // namespace

[[noreturn]] void LoadProgram() {
  ReadMachine();
  const auto& elf = *reinterpret_cast<const Elf64_Ehdr*>(PROGRAM_IMAGE);
  if (elf.e_ident[EI_MAG0] != ELFMAG0 || elf.e_ident[EI_MAG1] != ELFMAG1 || elf.e_type != ET_EXEC) {
    Finish("no static program follows the loader");
  }
  const uint64_t end = PlaceSegments(elf);
  const Services* services = InitProgram(machine, end);
  StartProgram(elf.e_entry, BuildStack(elf), services);
}

}  // namespace boot
