// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The ring-0 loader: it starts a static program on the bare machine, as one of two kinds. A
// freestanding program gets a handful of services (bare.cc) and makes no system call. A hosted one
// is an unchanged Linux program, threads included, whose system calls the loader answers
// (system_calls.cc); it is there for tests that need a C library.
//
// A program's thread is a processor, and there are no more threads than processors. There are no
// files, no signals and no time slices. Freestanding code.

#ifndef TDP_BACKENDS_VTX_BOOT_LOADER_H_
#define TDP_BACKENDS_VTX_BOOT_LOADER_H_

#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace boot {

// Holds what the runner tells of the machine, and the program's arguments.
struct Machine {
  int processors = 1;
  uint64_t memory_bytes = 0;
  uint64_t ticks_per_second = 0;  // of the time-stamp counter: it counts instructions
  int argument_count = 0;
  const char* arguments = nullptr;  // one after another, each with its NUL
};

// --- Console (console.cc) ---
void Print(const char* text);
void PrintBytes(const char* text, size_t size);
void PrintHex(uint64_t value);
// Ends the run: prints "RESULT PASS" if `why` is null, else "RESULT FAIL " and `why`.
[[noreturn]] void Finish(const char* why);
[[noreturn]] void FinishWithNumber(const char* why, uint64_t number);

// --- Memory (memory.cc) ---
// Gives out [start, end), page by page.
void InitMemory(uint64_t start, uint64_t end);
// `size` bytes of zeros, page aligned; 0 if there is no such run of pages.
uint64_t AllocatePages(uint64_t size);
void FreePages(uint64_t start, uint64_t size);

// --- The kind of program (bare.cc or system_calls.cc: a loader has one of them) ---
struct Services;

// On each processor, before it runs anything of the program's.
void InitProgramProcessor();
// Before the program starts; its last segment ends at `program_end`. What it finds in RSI.
const Services* InitProgram(const Machine& machine, uint64_t program_end);

// Has the registers in the order in which ResumeFrame takes them from the stack.
struct RegisterFrame {
  uint64_t r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, rax, rcx, r11;
};
// Returns where a frame lies that ResumeFrame leaves with `stack` as the stack: below a red zone.
inline RegisterFrame* FrameBelow(uint64_t stack) {
  return reinterpret_cast<RegisterFrame*>(stack - 128 - sizeof(RegisterFrame));
}

// --- Processors (processors.cc) ---
// Returns the number of the processor this runs on: its local APIC's id.
int CurrentProcessor();
// Says what a new thread starts with: registers, thread pointer, and the word to clear at its end.
struct ThreadStart {
  RegisterFrame* frame = nullptr;
  uint64_t thread_pointer = 0;
  uint32_t* clear_at_exit = nullptr;
};
// Starts an idle processor among `processors`; its number, or -1 if none is idle.
int StartThread(int processors, const ThreadStart& start);
[[noreturn]] void ExitThread();
void SetClearAtExit(uint32_t* where);

inline uint64_t ReadMsr(uint32_t msr) {
  uint32_t low;
  uint32_t high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return low | uint64_t{high} << 32;
}
inline void WriteMsr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr" ::"c"(msr), "a"(static_cast<uint32_t>(value)),
               "d"(static_cast<uint32_t>(value >> 32)));
}
inline uint64_t ReadTimeStamp() {
  uint32_t low;
  uint32_t high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return low | uint64_t{high} << 32;
}
inline void Pause() { asm volatile("pause" ::: "memory"); }

inline constexpr uint32_t kMsrEfer = 0xc0000080;
inline constexpr uint32_t kMsrFsBase = 0xc0000100;

}  // namespace boot

// loader_entry.S has these.
extern "C" {
[[noreturn]] void StartProgram(uint64_t entry, uint64_t stack, const boot::Services* services);
// Goes to the frame's RCX with the frame's registers, R11 as RFLAGS, and the stack above the frame
// and 128 bytes more.
[[noreturn]] void ResumeFrame(boot::RegisterFrame* frame);
[[noreturn]] void StopProcessor(uint32_t* tid, uint32_t* busy);
extern const char exception_stubs[];
}

#endif  // TDP_BACKENDS_VTX_BOOT_LOADER_H_
