// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/step_mode.h"

#include <link.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/str_format.h"
#include "tdp/judge/session.h"

// glibc and some others have it; it is null in a C library without it.
extern "C" int backtrace(void** calls, int most) __attribute__((weak));

namespace tdp::judge {
namespace {

constexpr greg_t kTrapFlag = 0x100;
constexpr uint64_t kWriteFault = 2;  // of a page-fault error code
bool g_step = false;
alignas(16) char g_stack[256 << 10];

// Returns whether the program's own code is at `pc`, not that of a shared library.
bool IsInProgram(uint64_t pc) {
  const auto look = [](dl_phdr_info* info, size_t, void* data) {
    uint64_t& at = *static_cast<uint64_t*>(data);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr)& part = info->dlpi_phdr[i];
      if (part.p_type == PT_LOAD && at - info->dlpi_addr - part.p_vaddr < part.p_memsz) {
        at = 0;
        return 1;
      }
    }
    return 1;  // the program is the first of all objects
  };
  dl_iterate_phdr(look, &pc);
  return pc == 0;
}

// Returns where the program's own code called what crashed at `pc`; `pc` if that is not known.
uint64_t PlaceInProgram(uint64_t pc) {
  if (IsInProgram(pc)) return pc;
  if (backtrace == nullptr) return pc;
  void* calls[64];
  const int count = backtrace(calls, 64);
  void** const end = calls + count;
  void** call = std::find(calls, end, reinterpret_cast<void*>(pc));
  call =
      std::find_if(call, end, [](void* at) { return IsInProgram(reinterpret_cast<uint64_t>(at)); });
  return call == end ? pc : reinterpret_cast<uint64_t>(*call) - 1;
}

[[noreturn]] void Crash(int signal, const siginfo_t* info, uint64_t pc) {
  Session* session = Session::current();
  if (session == nullptr) __builtin_trap();
  const char* name = signal == SIGSEGV  ? "SIGSEGV"
                     : signal == SIGBUS ? "SIGBUS"
                     : signal == SIGFPE ? "SIGFPE"
                     : signal == SIGILL ? "SIGILL"
                                        : "SIGABRT";
  const uint64_t place = PlaceInProgram(pc);
  if (signal == SIGABRT) {
    session->Report("crash",
                    absl::StrFormat("%s ends in abort(): an assertion, or an exception that "
                                    "nobody catches",
                                    session->Asked()),
                    place);
  }
  const bool has_address = signal == SIGSEGV || signal == SIGBUS;
  session->Report("crash",
                  absl::StrFormat("%s crashes with %s at address %#x", session->Asked(), name,
                                  has_address ? reinterpret_cast<uint64_t>(info->si_addr) : pc),
                  place);
}

void OnFault(int signal, siginfo_t* info, void* context) {
  auto* machine = static_cast<ucontext_t*>(context);
  Session* session = Session::current();
#if defined(__x86_64__)
  auto& registers = machine->uc_mcontext.gregs;
  const auto pc = static_cast<uint64_t>(registers[REG_RIP]);
  const bool is_store = (static_cast<uint64_t>(registers[REG_ERR]) & kWriteFault) != 0;
  if (g_step && signal == SIGSEGV && is_store && session != nullptr && session->in_subject() &&
      session->frames().IsInside(info->si_addr)) {
    // An instruction can store as many bytes; those count that are in the page.
    constexpr uint64_t kMostBytes = 64;
    const auto at = reinterpret_cast<uint64_t>(info->si_addr);
    session->BeforeStore(info->si_addr, std::min(kMostBytes, kPageSize - at % kPageSize), pc);
    session->frames().Protect(false);
    registers[REG_EFL] |= kTrapFlag;
    return;
  }
#else
  const uint64_t pc = 0;
  (void)machine;
#endif
  (void)session;
  Crash(signal, info, pc);
}

#if defined(__x86_64__)
void OnTrap(int, siginfo_t*, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  registers[REG_EFL] &= ~kTrapFlag;
  Session* session = Session::current();
  session->AfterStore();
  session->frames().Protect(true);
}
#endif

}  // namespace

void InstallFaultHandlers(bool step) {
  g_step = step;
  stack_t stack = {};
  stack.ss_sp = g_stack;
  stack.ss_size = sizeof g_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    sigaction(signal, &action, nullptr);
  }
#if defined(__x86_64__)
  if (!step) return;
  action.sa_sigaction = OnTrap;
  sigaction(SIGTRAP, &action, nullptr);
#endif
}

}  // namespace tdp::judge
