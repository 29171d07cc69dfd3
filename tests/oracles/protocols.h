// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The adapter speaks these protocols, one function each.

#ifndef TDP_TESTS_ORACLES_PROTOCOLS_H_
#define TDP_TESTS_ORACLES_PROTOCOLS_H_

#include <iosfwd>

namespace tdp::oracles {

// Answers EPT and guest walks. The flag --walker says which code answers. Returns the exit status.
int RunWalkProtocol(std::istream& in, std::ostream& out);

// Answers questions about memory slots, dirty logs and guest accesses. Returns the exit status.
int RunSlotsProtocol(std::istream& in, std::ostream& out);

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_PROTOCOLS_H_
