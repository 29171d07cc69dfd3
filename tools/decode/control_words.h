// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The control words of a VMCS, each against the MSR that says what the CPU has, and against each
// other.

#ifndef TDP_TOOLS_DECODE_CONTROL_WORDS_H_
#define TDP_TOOLS_DECODE_CONTROL_WORDS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tdp/tools/decode/decoded_word.h"

namespace tdp::tools {

enum class ControlWord { kPin, kPrimary, kSecondary, kTertiary, kExit, kEntry };
inline constexpr size_t kControlWords = 6;

// Holds the controls of one VMCS, as far as they are known.
struct Controls {
  std::array<std::optional<uint64_t>, kControlWords> words;
  // Each says what the CPU has: bit n of the low half set means that control n must be 1, bit n of
  // the high half clear that it must be 0. That of the tertiary controls says with its whole word
  // which of them may be 1.
  std::array<std::optional<uint64_t>, kControlWords> msrs;
};

// Names on the command line: pin, proc, proc2, proc3, exit, entry.
std::string_view ControlWordName(ControlWord word);

// Each word that is known. A rule between two words is broken only where both are known.
std::vector<DecodedWord> DecodeControls(const Controls& controls);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DECODE_CONTROL_WORDS_H_
