// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/recorded_file.h"

#include <zstd.h>

#include <fstream>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::oracles {
namespace {

absl::StatusOr<std::string> Decompress(const std::string& path, const std::string& compressed) {
  const unsigned long long size = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN) {
    return absl::DataLossError(absl::StrCat(path, " is no zstd file of known size"));
  }
  std::string content(size, '\0');
  const size_t got =
      ZSTD_decompress(content.data(), content.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(got) || got != size) {
    return absl::DataLossError(absl::StrCat(path, " does not decompress"));
  }
  return content;
}

}  // namespace

absl::StatusOr<std::string> ReadRecordedFile(const std::string& path) {
  std::ifstream file("tests/oracles/data/" + path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("no recorded file ", path));
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!absl::EndsWith(path, ".zst")) return content;
  return Decompress(path, content);
}

absl::StatusOr<std::vector<std::string>> ReadRecordedLines(const std::string& path) {
  TDP_ASSIGN_OR_RETURN(const std::string content, ReadRecordedFile(path));
  return std::vector<std::string>(absl::StrSplit(content, '\n', absl::SkipEmpty()));
}

RecordedLeaf ParseLeaf(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  RecordedLeaf leaf;
  TDP_CHECK(words.size() >= 4 && absl::SimpleHexAtoi(words[0], &leaf.gva) &&
            absl::SimpleHexAtoi(words[1], &leaf.gpa) && absl::SimpleHexAtoi(words[2], &leaf.size));
  leaf.user = absl::StrContains(words[3], 'u');
  leaf.write = absl::StrContains(words[3], 'w');
  leaf.execute = absl::StrContains(words[3], 'x');
  return leaf;
}

}  // namespace tdp::oracles
