// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Declares what the loader does for a freestanding program, which finds the address of this in RSI
// where it starts. Plain enough for both sides, which are compiled apart.

#ifndef TDP_BACKENDS_VTX_BOOT_SERVICES_H_
#define TDP_BACKENDS_VTX_BOOT_SERVICES_H_

#include <cstddef>
#include <cstdint>

namespace boot {

struct Services {
  // Puts `size` bytes of `text` on the console. Any processor may.
  void (*print)(const char* text, size_t size);
  // Ends the run, which has passed if `why` is null.
  void (*finish)(const char* why);
  // A processor that does nothing runs `run(argument)` with its stack below `stack_end`, which is
  // aligned to 16 bytes, and is idle again when that returns: `*is_busy`, 1 before, is 0 then, and
  // the stack is not in use any more. Its number; -1 if none is idle.
  int (*start_processor)(void (*run)(void*), void* argument, uintptr_t stack_end,
                         uint32_t* is_busy);
  // Memory that nobody uses, zero and mapped to itself.
  uintptr_t memory;
  uintptr_t memory_end;
  int processors;
  // The program's arguments, of which the first is its name: one after another, each with its NUL.
  int argument_count;
  const char* arguments;
};

}  // namespace boot

#endif  // TDP_BACKENDS_VTX_BOOT_SERVICES_H_
