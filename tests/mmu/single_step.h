// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `SingleStep` stops a thread after each of its instructions, so that a test can do what another
// thread or a CPU would do there: between any two instructions of the code under test, and not by
// chance.

#ifndef TDP_TESTS_MMU_SINGLE_STEP_H_
#define TDP_TESTS_MMU_SINGLE_STEP_H_

#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <functional>

#include "tdp/base/check.h"

namespace tdp {

// Uses the trap flag of x86, which raises SIGTRAP after every instruction. A process has one at a
// time.
class SingleStep {
 public:
  // Runs `code`. After its instruction number i, from 1, `act(i)` is called in the signal handler:
  // the code is in the middle of whatever it does, so `act` takes no lock that the code may hold.
  // It returns false to let the rest run freely. Returns how many instructions were stepped.
  static uint64_t Run(const std::function<void()>& code, const std::function<bool(uint64_t)>& act) {
    struct sigaction before;
    struct sigaction handler = {};
    handler.sa_sigaction = &OnTrap;
    handler.sa_flags = SA_SIGINFO;
    sigemptyset(&handler.sa_mask);
    TDP_CHECK(sigaction(SIGTRAP, &handler, &before) == 0);
    act_ = &act;
    steps_ = 0;
    is_first_ = true;
    TDP_CHECK(raise(SIGTRAP) == 0);
    code();
    is_done_ = true;
    TDP_CHECK(raise(SIGTRAP) == 0);
    is_done_ = false;
    TDP_CHECK(sigaction(SIGTRAP, &before, nullptr) == 0);
    return steps_;
  }

 private:
  static constexpr uint64_t kTrapFlag = uint64_t{1} << 8;

  static void OnTrap(int, siginfo_t*, void* context) {
    auto& flags = reinterpret_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
    if (is_first_) {
      is_first_ = false;
      flags |= kTrapFlag;
    } else if (is_done_ || !(*act_)(++steps_)) {
      flags &= ~static_cast<greg_t>(kTrapFlag);
    }
  }

  static inline const std::function<bool(uint64_t)>* act_ = nullptr;
  static inline uint64_t steps_ = 0;
  static inline bool is_first_ = false;
  static inline bool is_done_ = false;
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_SINGLE_STEP_H_
