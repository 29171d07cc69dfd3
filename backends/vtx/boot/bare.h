// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For freestanding programs under the ring-0 loader: the machine as they see it. bare_platform.cc
// has what tdp/base/platform.h asks for, and what every program without a C library has to bring.

#ifndef TDP_BACKENDS_VTX_BOOT_BARE_H_
#define TDP_BACKENDS_VTX_BOOT_BARE_H_

#include <cstddef>
#include <string_view>

#include "tdp/backends/vtx/boot/bare_arguments.h"

namespace tdp::vtx {

// Prints `text`. Any processor may, also in an interrupt handler that did not interrupt this.
void Print(std::string_view text);

// Ends the run: it has failed, for `why`, or has passed if that is null.
[[noreturn]] void FinishRun(const char* why);

// Zeroed memory for good, aligned to `alignment`, a power of two; null if there is none.
void* TakeMemory(size_t bytes, size_t alignment);

// Returns how many processors the machine has, this one included.
int ProcessorCount();

// Returns what the program was started with.
Arguments ProgramArguments();

// A processor of the machine that runs `run(argument)`: a thread, where there is no operating
// system to have any.
class Processor {
 public:
  // Ends the run if no processor is idle.
  Processor(void (*run)(void*), void* argument);
  // Waits for the end of `run`.
  ~Processor();

  Processor(const Processor&) = delete;
  Processor& operator=(const Processor&) = delete;

 private:
  struct Stack;
  Stack* const stack_;
};

}  // namespace tdp::vtx

// The program defines it; it returns 0 if the run has passed.
int main();

#endif  // TDP_BACKENDS_VTX_BOOT_BARE_H_
