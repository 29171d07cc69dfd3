// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/exit_qualification.h"

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp {

absl::Status ExitQualification::Check() const {
  const auto bad = [this](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrFormat("exit qualification 0x%x: %s", raw_, why));
  };
  if (access().is_empty() && !asynchronous()) return bad("names no kind of access");
  if (is_fetch() && (is_read() || is_write())) return bad("is a fetch and a data access at once");
  if (final_address() && !linear_address_valid()) {
    return bad("has bit 8 (final address) without bit 7 (linear address valid)");
  }
  return absl::OkStatus();
}

std::string ExitQualification::DebugString() const {
  std::string text;
  if (is_read()) text += "read ";
  if (is_write()) text += "write ";
  if (is_fetch()) text += "fetch ";
  absl::StrAppend(&text, "to ", ToString(allowed()));
  if (linear_address_valid()) text += final_address() ? ", final address" : ", guest table";
  return text;
}

}  // namespace tdp
