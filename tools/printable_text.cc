// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/printable_text.h"

#include <cstddef>

#include "absl/strings/str_format.h"

namespace tdp::tools {

// Control characters that take two bytes in UTF-8 (U+0080 to U+009F) are escaped as well.
std::string Printable(std::string_view text) {
  std::string printable;
  const auto byte_at = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto hide = [&](size_t i) { absl::StrAppendFormat(&printable, "\\x%02x", byte_at(i)); };
  for (size_t i = 0; i < text.size(); ++i) {
    if (byte_at(i) < 0x20 || byte_at(i) == 0x7f) {
      hide(i);
    } else if (byte_at(i) == 0xc2 && byte_at(i + 1) >= 0x80 && byte_at(i + 1) < 0xa0) {
      hide(i);
      hide(++i);
    } else {
      printable.push_back(text[i]);
    }
  }
  return printable;
}

}  // namespace tdp::tools
