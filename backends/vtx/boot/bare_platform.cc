// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The platform of freestanding programs: mutexes that spin, and processors for threads. Nothing
// preempts a processor, and it has nothing else to do, so whoever waits looks again and again.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/backends/vtx/boot/bare_heap.h"
#include "tdp/backends/vtx/boot/services.h"
#include "tdp/base/platform.h"

namespace {

const boot::Services* services;
constinit tdp::vtx::BareHeap heap;

// Returns the first word of a mutex; the others are not in use.
std::atomic_ref<uintptr_t> IsHeld(TdpPlatformMutex* mutex) {
  return std::atomic_ref<uintptr_t>(mutex->words[0]);
}

}  // namespace

namespace tdp::vtx {

void Print(std::string_view text) { services->print(text.data(), text.size()); }

void FinishRun(const char* why) {
  services->finish(why);
  __builtin_unreachable();
}

void* TakeMemory(size_t bytes, size_t alignment) { return heap.TakeFresh(bytes, alignment); }

int ProcessorCount() { return services->processors; }

Arguments ProgramArguments() { return {services->arguments, services->argument_count}; }

struct Processor::Stack {
  alignas(16) unsigned char bytes[size_t{64} << 10];
  uint32_t is_busy = 1;
};

Processor::Processor(void (*run)(void*), void* argument) : stack_(new Stack) {
  const auto end = reinterpret_cast<uintptr_t>(stack_->bytes + sizeof(stack_->bytes));
  if (services->start_processor(run, argument, end, &stack_->is_busy) < 0) {
    FinishRun("no processor is idle");
  }
}

Processor::~Processor() {
  const std::atomic_ref<uint32_t> is_busy(stack_->is_busy);
  while (is_busy.load(std::memory_order_acquire) != 0) __builtin_ia32_pause();
  delete stack_;
}

}  // namespace tdp::vtx

extern "C" {

void* tdp_platform_allocate(size_t bytes, size_t alignment) { return heap.Take(bytes, alignment); }
void tdp_platform_free(void* memory) { heap.Return(memory); }

void tdp_platform_mutex_init(TdpPlatformMutex*) {}
void tdp_platform_mutex_destroy(TdpPlatformMutex*) {}
void tdp_platform_mutex_lock(TdpPlatformMutex* mutex) {
  while (IsHeld(mutex).exchange(1, std::memory_order_acquire) != 0) __builtin_ia32_pause();
}
void tdp_platform_mutex_unlock(TdpPlatformMutex* mutex) {
  IsHeld(mutex).store(0, std::memory_order_release);
}
// Ends at once: the caller looks again.
void tdp_platform_mutex_wait(TdpPlatformMutex* mutex) {
  tdp_platform_mutex_unlock(mutex);
  __builtin_ia32_pause();
  tdp_platform_mutex_lock(mutex);
}
void tdp_platform_mutex_wake(TdpPlatformMutex*) {}
void tdp_platform_yield() { __builtin_ia32_pause(); }

void tdp_platform_panic(const char* text) {
  tdp::vtx::Print(text);
  tdp::vtx::Print("\n");
  tdp::vtx::FinishRun("panic");
}

// The linker has put the constructors of global objects here.
extern void (*__init_array_start[])();
extern void (*__init_array_end[])();

[[noreturn]] void tdp_bare_start(const boot::Services* given) {
  services = given;
  heap.Init(given->memory, given->memory_end);
  for (auto** constructor = __init_array_start; constructor != __init_array_end; ++constructor) {
    (*constructor)();
  }
  tdp::vtx::FinishRun(main() == 0 ? nullptr : "main() returned an error");
}

// The loader's stack is aligned to 16 bytes, and RSI has its services.
asm(".globl _start\n_start: movq %rsi, %rdi\n call tdp_bare_start\n");

}  // extern "C"
