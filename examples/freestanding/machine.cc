// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The machine: what tdp/base/platform.h asks for, and what every program without a C library has to
// bring. One CPU without threads or interrupts, whose screen is Linux's write(2).

#include "machine.h"

#include <cstddef>

#include "tdp/base/platform.h"

namespace {

alignas(1 << 20) unsigned char arena[8 << 20];
size_t used = 0;

void SystemCall(long number, long a, const void* b, size_t c) {
  asm volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
}

}  // namespace

void* Allocate(size_t bytes, size_t alignment) {
  const size_t start = (used + alignment - 1) / alignment * alignment;
  if (start + bytes > sizeof(arena)) return nullptr;
  used = start + bytes;
  return arena + start;
}

void Print(const char* text) {
  for (; *text != 0; ++text) SystemCall(1, 1, text, 1);  // write
}

void Exit(int status) {
  for (;;) SystemCall(231, status, nullptr, 0);  // exit_group
}

extern "C" {

// A program that makes one VM and ends needs nothing back. A hypervisor has an allocator here.
void* tdp_platform_allocate(size_t bytes, size_t alignment) { return Allocate(bytes, alignment); }
void tdp_platform_free(void*) {}

// With one thread, a mutex that is taken twice would be waited for for ever.
void tdp_platform_mutex_init(TdpPlatformMutex*) {}
void tdp_platform_mutex_destroy(TdpPlatformMutex*) {}
void tdp_platform_mutex_lock(TdpPlatformMutex* mutex) {
  if (mutex->words[0]++ != 0) tdp_platform_panic("a mutex is taken twice");
}
void tdp_platform_mutex_unlock(TdpPlatformMutex* mutex) { mutex->words[0] = 0; }
void tdp_platform_mutex_wait(TdpPlatformMutex*) { tdp_platform_panic("nobody to wait for"); }
void tdp_platform_mutex_wake(TdpPlatformMutex*) {}
void tdp_platform_yield() { tdp_platform_panic("nobody to wait for"); }

void tdp_platform_panic(const char* text) {
  Print(text);
  Print("\n");
  Exit(2);
}

// Volatile, or compilers see a memcpy in the loop of memcpy and call it.
void* memcpy(void* to, const void* from, size_t n) {
  for (size_t i = 0; i < n; ++i)
    static_cast<volatile char*>(to)[i] = static_cast<const char*>(from)[i];
  return to;
}
void* memmove(void* to, const void* from, size_t n) {
  if (to <= from) return memcpy(to, from, n);
  while (n-- != 0) static_cast<volatile char*>(to)[n] = static_cast<const char*>(from)[n];
  return to;
}
void* memset(void* to, int value, size_t n) {
  for (size_t i = 0; i < n; ++i) static_cast<volatile char*>(to)[i] = static_cast<char>(value);
  return to;
}
int memcmp(const void* a, const void* b, size_t n) {
  const auto* x = static_cast<const volatile unsigned char*>(a);
  const auto* y = static_cast<const volatile unsigned char*>(b);
  while (n != 0 && *x == *y) --n, ++x, ++y;
  return n == 0 ? 0 : *x - *y;
}

asm(".globl _start\n_start: call Main\n");  // with the stack aligned to 16 bytes

}  // extern "C"
