// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// x86 memory types as encoded in EPT leaves, MTRRs and the PAT (SDM vol. 3A, table 12-2).

#ifndef TDP_MMU_FORMAT_MEMORY_TYPE_H_
#define TDP_MMU_FORMAT_MEMORY_TYPE_H_

#include <cstdint>

namespace tdp {

// The encodings 2, 3 and 7 are reserved; in an EPT leaf they are a misconfiguration.
enum class MemoryType : uint8_t {
  kUncacheable = 0,
  kWriteCombining = 1,
  kWriteThrough = 4,
  kWriteProtected = 5,
  kWriteBack = 6,
};

constexpr bool IsValidMemoryType(uint64_t encoding) {
  return encoding <= 6 && encoding != 2 && encoding != 3;
}

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_MEMORY_TYPE_H_
