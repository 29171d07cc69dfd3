// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#ifndef TDP_EXAMPLES_FREESTANDING_MACHINE_H_
#define TDP_EXAMPLES_FREESTANDING_MACHINE_H_

#include <cstddef>

// Returns memory, or null if there is none left. `alignment` is a power of two.
void* Allocate(size_t bytes, size_t alignment);
void Print(const char* text);
[[noreturn]] void Exit(int status);

#endif  // TDP_EXAMPLES_FREESTANDING_MACHINE_H_
