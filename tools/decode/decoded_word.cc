// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/decode/decoded_word.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::tools {

std::string BitsText(uint64_t mask) {
  std::string text;
  for (int high = 63; high >= 0; --high) {
    if ((mask >> high & 1) == 0) continue;
    int low = high;
    while (low > 0 && (mask >> (low - 1) & 1) != 0) --low;
    absl::StrAppend(&text, text.empty() ? "" : ", ", high);
    if (low != high) absl::StrAppend(&text, ":", low);
    high = low;
  }
  return text;
}

std::string DecodedText(const DecodedWord& word) {
  std::string text = absl::StrFormat("%s 0x%x%s%s\n", word.name, word.value,
                                     word.summary.empty() ? "" : ": ", word.summary);
  size_t width = 0;
  for (const DecodedWord::Field& field : word.fields) width = std::max(width, field.bits.size());
  for (const DecodedWord::Field& field : word.fields) {
    absl::StrAppendFormat(&text, "  %*s  %s\n", static_cast<int>(width), field.bits, field.text);
  }
  for (const DecodedWord::Fault& fault : word.faults) {
    absl::StrAppend(&text, "  wrong: ", fault.what, " (", fault.rule, ")\n");
  }
  return text;
}

}  // namespace tdp::tools
