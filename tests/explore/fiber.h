// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fiber is a thread of control with a stack of its own that runs only when it is switched to:
// many of them share one thread of the machine, so a program of fibers does the same each time.

#ifndef TDP_TESTS_EXPLORE_FIBER_H_
#define TDP_TESTS_EXPLORE_FIBER_H_

#include <ucontext.h>

#include <cstddef>
#include <functional>

namespace tdp::explore {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Lets the next `Resume` call `body` on an empty stack, whatever the fiber was in before. `body`
  // does not return: at its end it switches away for good.
  void Start(std::function<void()> body);

  // Suspends `from`, which is running, and goes on where `to` was suspended.
  static void Switch(Fiber& from, Fiber& to);

 private:
  static constexpr size_t kStackBytes = size_t{256} << 10;

  static void Enter();

  void* stack_;          // with a page below it that cannot be touched
  void* top_ = nullptr;  // of the suspended stack
  ucontext_t context_;   // where the machine's own switch is not written out here
  std::function<void()> body_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_FIBER_H_
