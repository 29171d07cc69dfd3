// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/step_mode.h"

#include <signal.h>
#include <ucontext.h>

#include <cstdint>

#include "absl/strings/str_format.h"
#include "tdp/judge/session.h"

namespace tdp::judge {
namespace {

constexpr uint64_t kTrapFlag = 0x100;
constexpr uint64_t kWriteFault = 2;  // of a page-fault error code
bool g_step = false;
alignas(16) char g_stack[256 << 10];

[[noreturn]] void Crash(int signal, const siginfo_t* info, uint64_t pc) {
  Session* session = Session::current();
  if (session == nullptr) __builtin_trap();
  const char* name = signal == SIGSEGV  ? "SIGSEGV"
                     : signal == SIGBUS ? "SIGBUS"
                     : signal == SIGFPE ? "SIGFPE"
                     : signal == SIGILL ? "SIGILL"
                                        : "SIGABRT";
  const bool has_address = signal == SIGSEGV || signal == SIGBUS;
  session->Report("crash",
                  absl::StrFormat("the subject crashed with %s at address %#x", name,
                                  has_address ? reinterpret_cast<uint64_t>(info->si_addr) : pc),
                  pc);
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
    session->BeforeStore(info->si_addr, pc);
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
  registers[REG_EFL] &= ~static_cast<greg_t>(kTrapFlag);
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
