// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For hosted programs: the Linux system calls that a static C++ program makes before main(), for
// its memory, its output, its threads and its end. Anything else is ENOSYS, which the C library
// knows how to take.

#include <asm/prctl.h>
#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/time.h>

#include "loader.h"

// system_call_entry.S has it.
extern "C" void system_call_entry();

namespace boot {
namespace {

constexpr uint32_t kMsrStar = 0xc0000081;
constexpr uint32_t kMsrLstar = 0xc0000082;
constexpr uint32_t kMsrSfmask = 0xc0000084;
constexpr uint64_t kEferSystemCall = 1;
constexpr uint64_t kFlagsToClear = 0x700;  // TF, IF, DF

constexpr uint64_t kNanosecondsPerSecond = 1000000000;
constexpr uint64_t kHeapBytes = 16 << 20;
constexpr int kTid = 100;  // of the first thread; others follow by processor

Machine machine;
uint64_t heap_start;
uint64_t heap_now;
uint64_t heap_end;

// Returns the time. The emulator counts instructions; so many a second make them time.
uint64_t Now() {
  const uint64_t ticks = ReadTimeStamp();
  const uint64_t seconds = ticks / machine.ticks_per_second;
  const uint64_t rest = ticks % machine.ticks_per_second;
  return seconds * kNanosecondsPerSecond + rest * kNanosecondsPerSecond / machine.ticks_per_second;
}

uint64_t Brk(uint64_t wanted) {
  if (wanted >= heap_start && wanted <= heap_end) heap_now = wanted;
  return heap_now;
}

int64_t Mmap(uint64_t size, uint64_t flags) {
  constexpr uint64_t kAnonymous = 0x20;
  if ((flags & kAnonymous) == 0) return -ENODEV;
  const uint64_t start = AllocatePages(size);
  return start != 0 ? static_cast<int64_t>(start) : -ENOMEM;
}

int64_t ArchPrctl(uint64_t code, uint64_t value) {
  if (code != ARCH_SET_FS) return -EINVAL;
  WriteMsr(kMsrFsBase, value);
  return 0;
}

int64_t Write(uint64_t text, uint64_t size) {
  PrintBytes(reinterpret_cast<const char*>(text), size);
  return static_cast<int64_t>(size);
}

int64_t WriteVector(uint64_t vector, uint64_t count) {
  const auto* pairs = reinterpret_cast<const uint64_t*>(vector);
  int64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) total += Write(pairs[2 * i], pairs[2 * i + 1]);
  return total;
}

// Says that it is a terminal, as far as stdio asks: that then writes line by line.
int64_t Fstat(uint64_t where) {
  auto* out = reinterpret_cast<struct stat*>(where);
  *out = {};
  out->st_mode = 0020620;
  out->st_rdev = 136 << 8;
  return 0;
}

int64_t ClockGetTime(uint64_t where) {
  auto* out = reinterpret_cast<uint64_t*>(where);
  out[0] = Now() / kNanosecondsPerSecond;
  out[1] = Now() % kNanosecondsPerSecond;
  return 0;
}

uint64_t Nanoseconds(uint64_t where) {
  const auto* time = reinterpret_cast<const uint64_t*>(where);
  return time[0] * kNanosecondsPerSecond + time[1];
}

int64_t SleepUntil(uint64_t end) {
  while (Now() < end) Pause();
  return 0;
}

// A waiter looks again and again: its processor has nothing else to do. Waking is thus nothing.
int64_t Futex(const RegisterFrame& frame) {
  const auto* word = reinterpret_cast<volatile uint32_t*>(frame.rdi);
  const uint64_t operation = frame.rsi & FUTEX_CMD_MASK;
  if (operation != FUTEX_WAIT && operation != FUTEX_WAIT_BITSET) return 0;
  if (*word != static_cast<uint32_t>(frame.rdx)) return -EAGAIN;
  uint64_t end = ~uint64_t{0};
  if (frame.r10 != 0) end = Nanoseconds(frame.r10) + (operation == FUTEX_WAIT ? Now() : 0);
  while (*word == static_cast<uint32_t>(frame.rdx)) {
    if (Now() >= end) return -ETIMEDOUT;
    Pause();
  }
  return 0;
}

int64_t GetRandom(uint64_t where, uint64_t size) {
  static uint64_t state = 0x9e3779b97f4a7c15;
  for (uint64_t i = 0; i < size; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    reinterpret_cast<uint8_t*>(where)[i] = static_cast<uint8_t>(state >> 56);
  }
  return static_cast<int64_t>(size);
}

// clone(flags, stack, parent_tid, child_tid, tls), for threads alone. The child's frame lies where
// system_call_entry would have put it.
int64_t Clone(const RegisterFrame& frame) {
  constexpr uint64_t kThread = 0x10000;
  if ((frame.rdi & kThread) == 0) return -ENOSYS;
  RegisterFrame* const child = FrameBelow(frame.rsi);
  *child = frame;
  child->rax = 0;
  const int processor =
      StartThread(machine.processors, {child, frame.r8, reinterpret_cast<uint32_t*>(frame.r10)});
  if (processor < 0) return -EAGAIN;
  *reinterpret_cast<uint32_t*>(frame.rdx) = kTid + processor;
  return kTid + processor;
}

int64_t SchedGetAffinity(uint64_t size, uint64_t where) {
  if (size < 8) return -EINVAL;
  *reinterpret_cast<uint64_t*>(where) = (uint64_t{1} << machine.processors) - 1;
  return 8;
}

int64_t GetCwd(uint64_t where) {
  auto* out = reinterpret_cast<char*>(where);
  out[0] = '/';
  out[1] = 0;
  return 2;
}

int64_t PrLimit(uint64_t where) {
  if (where == 0) return 0;
  auto* out = reinterpret_cast<uint64_t*>(where);
  out[0] = out[1] = 2 << 20;  // what the loader gives the main stack
  return 0;
}

[[noreturn]] void ExitGroup(uint64_t status) {
  if (status == 0) Finish(nullptr);
  FinishWithNumber("the program's exit status", status);
}

int64_t Dispatch(const RegisterFrame& f) {
  switch (f.rax) {
    case __NR_write:
      return Write(f.rsi, f.rdx);
    case __NR_writev:
      return WriteVector(f.rsi, f.rdx);
    case __NR_fstat:
      return Fstat(f.rsi);
    case __NR_newfstatat:
      return f.rdi <= 2 ? Fstat(f.rdx) : -ENOENT;
    case __NR_open:
    case __NR_openat:
    case __NR_readlink:
    case __NR_readlinkat:
    case __NR_access:
    case __NR_stat:
    case __NR_lstat:
      return -ENOENT;
    case __NR_ioctl:
      return -ENOTTY;
    case __NR_brk:
      return static_cast<int64_t>(Brk(f.rdi));
    case __NR_mmap:
      return Mmap(f.rsi, f.r10);
    case __NR_munmap:
      FreePages(f.rdi, f.rsi);
      return 0;
    case __NR_mprotect:  // protection would need page tables of 4 KiB; guard pages do not guard
    case __NR_madvise:
    case __NR_rt_sigaction:
    case __NR_rt_sigprocmask:
    case __NR_sigaltstack:
    case __NR_set_robust_list:
    case __NR_sched_yield:
      return 0;
    case __NR_arch_prctl:
      return ArchPrctl(f.rdi, f.rsi);
    case __NR_set_tid_address:
      SetClearAtExit(reinterpret_cast<uint32_t*>(f.rdi));
      return kTid + CurrentProcessor();
    case __NR_sched_getparam:  // of the default policy, which has no priorities
      *reinterpret_cast<int*>(f.rsi) = 0;
      return 0;
    case __NR_sched_getscheduler:
      return SCHED_NORMAL;
    case __NR_getpid:
      return kTid;
    case __NR_gettid:
      return kTid + CurrentProcessor();
    case __NR_clone:
      return Clone(f);
    case __NR_futex:
      return Futex(f);
    case __NR_sched_getaffinity:
      return SchedGetAffinity(f.rsi, f.rdx);
    case __NR_clock_gettime:
      return ClockGetTime(f.rsi);
    case __NR_nanosleep:
      return SleepUntil(Now() + Nanoseconds(f.rdi));
    case __NR_clock_nanosleep:
      return SleepUntil(Nanoseconds(f.rdx) + (f.rsi == 0 ? Now() : 0));
    case __NR_getrandom:
      return GetRandom(f.rdi, f.rsi);
    case __NR_getcwd:
      return GetCwd(f.rdi);
    case __NR_prlimit64:
      return PrLimit(f.r10);
    case __NR_tgkill:
    case __NR_kill:
      FinishWithNumber("killed by signal", f.rax == __NR_kill ? f.rsi : f.rdx);
    case __NR_exit:
      ExitThread();
    case __NR_exit_group:
      ExitGroup(f.rdi);
    default:
      return -ENOSYS;
  }
}

}  // namespace

void InitProgramProcessor() {
  WriteMsr(kMsrEfer, ReadMsr(kMsrEfer) | kEferSystemCall);
  WriteMsr(kMsrStar, uint64_t{CODE_SELECTOR} << 32);  // and DATA_SELECTOR, the next one
  WriteMsr(kMsrLstar, reinterpret_cast<uint64_t>(&system_call_entry));
  WriteMsr(kMsrSfmask, kFlagsToClear);
}

const Services* InitProgram(const Machine& m, uint64_t program_end) {
  machine = m;
  heap_start = heap_now = (program_end + 4095) & ~uint64_t{4095};
  heap_end = heap_start + kHeapBytes;
  if (heap_end >= machine.memory_bytes) Finish("the program does not fit into memory");
  InitMemory(heap_end, machine.memory_bytes);
  return nullptr;
}

}  // namespace boot

extern "C" void SystemCall(boot::RegisterFrame* frame) {
  frame->rax = static_cast<uint64_t>(boot::Dispatch(*frame));
}
