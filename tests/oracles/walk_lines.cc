// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/walk_lines.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"

namespace tdp::oracles {
namespace {

absl::StatusOr<uint64_t> Number(std::string_view word, int base = 16) {
  uint64_t value = 0;
  const bool ok = base == 16 ? absl::SimpleHexAtoi(word, &value) : absl::SimpleAtoi(word, &value);
  if (!ok) return absl::InvalidArgumentError(absl::StrCat("not a number: \"", word, "\""));
  return value;
}

absl::StatusOr<char> AccessOf(std::string_view word) {
  if (word == "r" || word == "w" || word == "x") return word[0];
  return absl::InvalidArgumentError(absl::StrCat("not an access: \"", word, "\""));
}

}  // namespace

void WalkLines::LoadRecords(std::string_view records) {
  constexpr size_t kRecord = sizeof(uint64_t) + kPageSize;
  for (; records.size() >= kRecord; records.remove_prefix(kRecord)) {
    uint64_t address = 0;
    std::memcpy(&address, records.data(), sizeof(address));
    StorePage(address & ~kPageOffsetMask, records.data() + sizeof(address));
  }
}

absl::Status WalkLines::LoadRecordFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  LoadRecords(
      std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()));
  return absl::OkStatus();
}

// Returns false if the line is no setting.
absl::StatusOr<bool> WalkLines::SetLine(const Words& words) {
  const std::string_view name = words[0];
  if (name == "reset") {
    Reset();
    return true;
  }
  if (name == "loadrec" && words.size() == 2) {
    TDP_RETURN_IF_ERROR(LoadRecordFile(std::string(words[1])));
    return true;
  }
  if (name == "mem" && words.size() == 3) {
    TDP_ASSIGN_OR_RETURN(const uint64_t address, Number(words[1]));
    TDP_ASSIGN_OR_RETURN(const uint64_t value, Number(words[2]));
    StoreWord(address, value);
    return true;
  }
  if (words.size() != 2 || name == "chkeptp") return false;
  TDP_ASSIGN_OR_RETURN(const uint64_t value, Number(words[1], name == "maxpa" ? 10 : 16));
  return Set(name, value);
}

std::string WalkLines::WithTail(std::string answer) { return answer + Tail(); }

absl::StatusOr<std::string> WalkLines::Ask(const Words& words, std::string_view line) {
  if (words[0] == "walk" && words.size() == 5) {
    TDP_ASSIGN_OR_RETURN(const uint64_t gpa, Number(words[1]));
    TDP_ASSIGN_OR_RETURN(const char access, AccessOf(words[2]));
    return WithTail(Walk({gpa, access, words[3] == "1", words[4] == "1"}));
  }
  if (words[0] == "lin" && words.size() == 4) {
    TDP_ASSIGN_OR_RETURN(const uint64_t gva, Number(words[1]));
    TDP_ASSIGN_OR_RETURN(const char access, AccessOf(words[2]));
    return WithTail(Linear({gva, access, words[3] == "1"}));
  }
  if (words[0] == "loadpdptr" && words.size() == 1) return WithTail(LoadPdptes());
  if (words[0] == "chkeptp" && words.size() == 2) {
    TDP_ASSIGN_OR_RETURN(const uint64_t eptp, Number(words[1]));
    return IsValidEptp(Eptp(eptp)) ? "valid" : "invalid";
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown line \"", line, "\""));
}

absl::StatusOr<std::string> WalkLines::Answer(std::string_view line) {
  const Words words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
  if (words.empty()) return std::string();
  TDP_ASSIGN_OR_RETURN(const bool is_setting, SetLine(words));
  if (is_setting) return std::string();
  return Ask(words, line);
}

}  // namespace tdp::oracles
