// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The parsers of lines share this: it takes words and numbers off the front of a line.

#ifndef TDP_TOOLS_TRACE_LINE_CURSOR_H_
#define TDP_TOOLS_TRACE_LINE_CURSOR_H_

#include <cstdint>
#include <string_view>

namespace tdp::tools {

class LineCursor {
 public:
  explicit LineCursor(std::string_view line) : rest_(line) {}

  std::string_view rest() const { return rest_; }
  bool at_end() const { return rest_.empty(); }
  void SkipBlanks();
  // Takes `word`, exactly, if it stands there.
  bool Take(std::string_view word);
  // Takes what stands before the next blank, with the blanks behind it; empty at the end.
  std::string_view Word();

 private:
  std::string_view rest_;
};

// Reads all of `text` as a number of `base`; hexadecimal with or without "0x". Digits that are too
// many for 64 bits are the highest number, which is no user address.
bool ParseWholeNumber(std::string_view text, int base, uint64_t& number);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_LINE_CURSOR_H_
