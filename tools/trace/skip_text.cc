// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/skip_text.h"

#include <cstdint>
#include <string_view>

#include "absl/strings/str_format.h"

namespace tdp::tools {
namespace {

void Add(std::string& text, uint64_t count, std::string_view one, std::string_view many) {
  if (count == 0) return;
  absl::StrAppendFormat(&text, "%s%d %s", text.empty() ? "" : ", ", count, count == 1 ? one : many);
}

}  // namespace

std::string SkipText(const SkipCounts& skipped) {
  std::string text;
  Add(text, skipped.foreign, "foreign line", "foreign lines");
  Add(text, skipped.kernel, "kernel address", "kernel addresses");
  Add(text, skipped.bad_address, "address that is not canonical",
      "addresses that are not canonical");
  Add(text, skipped.bad_size, "access of no size or over 4096 bytes",
      "accesses of no size or over 4096 bytes");
  Add(text, skipped.no_access, "record that accesses nothing", "records that access nothing");
  return text;
}

}  // namespace tdp::tools
