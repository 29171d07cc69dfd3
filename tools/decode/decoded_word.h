// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A word of the architecture in words: what each field says, and which rules the word breaks.

#ifndef TDP_TOOLS_DECODE_DECODED_WORD_H_
#define TDP_TOOLS_DECODE_DECODED_WORD_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tdp::tools {

struct DecodedWord {
  struct Field {
    std::string bits;  // "7", or "51:12"
    std::string text;
  };
  // A rule that the word breaks.
  struct Fault {
    std::string what;
    std::string rule;  // the section of the SDM, with its name
  };

  std::string name;
  uint64_t value = 0;
  std::string summary;  // one line
  std::vector<Field> fields;
  std::vector<Fault> faults;

  void Say(std::string bits, std::string text) {
    fields.push_back({std::move(bits), std::move(text)});
  }
  void Blame(std::string what, std::string rule) {
    faults.push_back({std::move(what), std::move(rule)});
  }
};

// Some lines: name, value and summary, a line for each field, a line for each fault.
std::string DecodedText(const DecodedWord& word);

// "3:0" for bits of a mask that stand together, "12, 9:7" for those that do not.
std::string BitsText(uint64_t mask);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DECODE_DECODED_WORD_H_
