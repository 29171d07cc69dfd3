// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Answers EPT violations of L2, the guest of a hypervisor in the guest, as the host's hypervisor
// does.

#ifndef TDP_TOOLS_REPLAY_NESTED_EXIT_H_
#define TDP_TOOLS_REPLAY_NESTED_EXIT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "tdp/tools/replay/machine.h"

namespace tdp::tools {

enum class NestedAnswer : uint8_t {
  kFixed,      // by the engine
  kSpurious,   // nothing was to be done
  kReflected,  // L1 got it, has mapped the page, and runs L2 again
  kDevice,     // L1 got it, and its device model has to do the access
};

// Answers the violation that CPU `index` of the nested `machine` ended with. What L1 does happens
// before this returns. Internal for what cannot be, ResourceExhausted, and the engine's errors.
absl::StatusOr<NestedAnswer> AnswerNestedViolation(Machine& machine, int index);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_NESTED_EXIT_H_
