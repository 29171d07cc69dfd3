// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests make these trace files.

#ifndef TDP_TESTS_TOOLS_TRACE_FILES_H_
#define TDP_TESTS_TOOLS_TRACE_FILES_H_

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace/trace_record.h"
#include "zstd.h"

namespace tdp::tools {

// Writes `bytes` to a file of this test's own and returns its path.
inline std::string WriteFile(const std::string& name, std::string_view bytes) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const std::string path =
      testing::TempDir() + "/" + test->test_suite_name() + "." + test->name() + "." + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

inline std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string Words(const std::vector<TraceRecord>& records) {
  return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(TraceRecord)};
}

// Writes a trace that goes `rounds` times round `pages` pages, an access of `kind` to each, and
// returns its path. Every such program has the same addresses.
inline std::string WriteRounds(int pages, int rounds, sim::AccessKind kind) {
  std::vector<TraceRecord> records;
  for (int i = 0; i < pages * rounds; ++i) {
    const Gva gva(0x400000 + uint64_t{0x1000} * static_cast<uint64_t>(i % pages));
    records.push_back(TraceRecord::Make(gva, kind, 3));
  }
  return WriteFile("rounds" + std::to_string(pages) + "x" + std::to_string(rounds), Words(records));
}

inline std::string Zstd(std::string_view bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 1));
  return out;
}

// Returns everything that is left in `reader`, read in pieces of `batch`.
inline absl::StatusOr<std::vector<TraceRecord>> ReadAll(TraceReader& reader, size_t batch = 1000) {
  std::vector<TraceRecord> all;
  std::vector<TraceRecord> piece(batch);
  while (true) {
    absl::StatusOr<size_t> got = reader.Read(absl::MakeSpan(piece));
    if (!got.ok()) return got.status();
    if (*got == 0) return all;
    all.insert(all.end(), piece.begin(), piece.begin() + static_cast<ptrdiff_t>(*got));
  }
}

}  // namespace tdp::tools

#endif  // TDP_TESTS_TOOLS_TRACE_FILES_H_
