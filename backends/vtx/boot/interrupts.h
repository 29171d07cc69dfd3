// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For programs under the ring-0 loader: interrupt gates of their own.

#ifndef TDP_BACKENDS_VTX_BOOT_INTERRUPTS_H_
#define TDP_BACKENDS_VTX_BOOT_INTERRUPTS_H_

#include <cstdint>

namespace tdp::vtx {

inline constexpr uint8_t kNmiVector = 2;

// Replaces the handler of `vector` (below 32) on all CPUs. It keeps the stack the loader chose.
void SetInterruptHandler(uint8_t vector, void (*handler)());

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_BOOT_INTERRUPTS_H_
