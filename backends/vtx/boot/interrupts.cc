// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/boot/interrupts.h"

#include <cstdint>

#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {

// A gate keeps bits 15:0 of its handler in bits 15:0, 31:16 in 63:48, 63:32 in the next word.
void SetInterruptHandler(uint8_t vector, void (*handler)()) {
  uint64_t tables[2];
  tdp_read_table_bases(tables);
  auto* gate = reinterpret_cast<uint64_t*>(tables[1]) + 2 * vector;
  const auto address = reinterpret_cast<uint64_t>(handler);
  constexpr uint64_t kKept = 0x0000ffffffff0000;
  gate[0] = (gate[0] & kKept) | (address & 0xffff) | (address >> 16 & 0xffff) << 48;
  gate[1] = address >> 32;
}

}  // namespace tdp::vtx
