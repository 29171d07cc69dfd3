// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For freestanding programs: the services that take the place of an operating system.

#include "loader.h"
#include "services.h"

namespace boot {
namespace {

constexpr uint64_t kStackBytes = 4 << 20;  // left to the loader for the first processor's stack
constexpr uint64_t kPage = 4096;

int processors;
Services services;

// Is where a processor's work returns to.
void EndWork() { ExitThread(); }

// `run` begins with the address that it returns to on its stack, as after a call.
int StartProcessor(void (*run)(void*), void* argument, uintptr_t stack_end, uint32_t* is_busy) {
  constexpr uint64_t kFlags = 2;
  auto* return_address = reinterpret_cast<uint64_t*>(stack_end) - 1;
  *return_address = reinterpret_cast<uint64_t>(&EndWork);
  RegisterFrame* const frame = FrameBelow(reinterpret_cast<uint64_t>(return_address));
  *frame = {};
  frame->rdi = reinterpret_cast<uint64_t>(argument);
  frame->rcx = reinterpret_cast<uint64_t>(run);
  frame->r11 = kFlags;
  return StartThread(processors, {frame, 0, is_busy});
}

}  // namespace

void InitProgramProcessor() {}

const Services* InitProgram(const Machine& machine, uint64_t program_end) {
  const uint64_t start = (program_end + kPage - 1) & ~(kPage - 1);
  const uint64_t memory = start + kStackBytes;
  if (memory >= machine.memory_bytes) Finish("the program does not fit into memory");
  InitMemory(start, memory);
  processors = machine.processors;
  services.print = PrintBytes;
  services.finish = Finish;
  services.start_processor = StartProcessor;
  services.memory = memory;
  services.memory_end = machine.memory_bytes;
  services.processors = machine.processors;
  services.argument_count = machine.argument_count;
  services.arguments = machine.arguments;
  return &services;
}

}  // namespace boot
