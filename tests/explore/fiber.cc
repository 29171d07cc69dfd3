// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "tdp/base/check.h"

#if defined(__x86_64__)
// Saves the registers that a call preserves, exchanges the stacks and returns on the other one.
extern "C" void tdp_explore_switch(void** save, void* load);
asm(R"(
    .text
    .globl tdp_explore_switch
    .type tdp_explore_switch, @function
tdp_explore_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size tdp_explore_switch, . - tdp_explore_switch
)");
#endif

namespace tdp::explore {
namespace {

constexpr size_t kGuardBytes = 4096;
Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() {
  stack_ = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TDP_CHECK(stack_ != MAP_FAILED);
  TDP_CHECK_EQ(mprotect(stack_, kGuardBytes, PROT_NONE), 0);
}

Fiber::~Fiber() { munmap(stack_, kGuardBytes + kStackBytes); }

void Fiber::Enter() {
  starting->body_();
  TDP_CHECK(false);
}

#if defined(__x86_64__)

void Fiber::Start(std::function<void()> body) {
  body_ = std::move(body);
  // The switch pops six registers, the address that it returns to, and one word more, so that the
  // stack is aligned there as after a call.
  constexpr int kWords = 8;
  auto* words =
      reinterpret_cast<uintptr_t*>(static_cast<char*>(stack_) + kGuardBytes + kStackBytes);
  words -= kWords;
  for (int i = 0; i < kWords; ++i) words[i] = 0;
  words[6] = reinterpret_cast<uintptr_t>(&Fiber::Enter);
  top_ = words;
}

void Fiber::Switch(Fiber& from, Fiber& to) {
  starting = &to;
  tdp_explore_switch(&from.top_, to.top_);
}

#else

void Fiber::Start(std::function<void()> body) {
  body_ = std::move(body);
  TDP_CHECK_EQ(getcontext(&context_), 0);
  context_.uc_stack.ss_sp = static_cast<char*>(stack_) + kGuardBytes;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::Enter, 0);
}

void Fiber::Switch(Fiber& from, Fiber& to) {
  starting = &to;
  TDP_CHECK_EQ(swapcontext(&from.context_, &to.context_), 0);
}

#endif

}  // namespace tdp::explore
