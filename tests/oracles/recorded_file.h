// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests keep recorded data as zstd-compressed files in tests/oracles/data.

#ifndef TDP_TESTS_ORACLES_RECORDED_FILE_H_
#define TDP_TESTS_ORACLES_RECORDED_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tdp::oracles {

// Returns the whole content of a file, decompressed if its name ends in ".zst". `path` is relative
// to tests/oracles/data.
absl::StatusOr<std::string> ReadRecordedFile(const std::string& path);

// Returns its lines without their ends.
absl::StatusOr<std::vector<std::string>> ReadRecordedLines(const std::string& path);

// Is one mapping of a kernel's tables, with the rights of the whole walk.
struct RecordedLeaf {
  uint64_t gva = 0;
  uint64_t gpa = 0;
  uint64_t size = 0;
  bool user = false;
  bool write = false;
  bool execute = false;
};

// Reads a line of a file of leaves, and checks it.
RecordedLeaf ParseLeaf(const std::string& line);

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_RECORDED_FILE_H_
