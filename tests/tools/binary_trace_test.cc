// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/binary_trace.h"

#include <cstddef>
#include <cstdint>
#include <ios>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

TEST(BinaryTrace, TheQuickLooksAtManyRecordsRefuseWhatOneByOneIsRefused) {
  // At the edges of every field, wherever in a batch the record stands.
  std::vector<uint64_t> addresses;
  for (const int bits : {12, 32, 46, 47, 55, 56}) {
    for (const int64_t off : {-4097, -4096, -4095, -128, -8, -1, 0, 1}) {
      addresses.push_back((uint64_t{1} << bits) + static_cast<uint64_t>(off));
    }
  }
  const auto good = TraceRecord::Make(Gva(0x7ffe'0000'1000), AccessKind::kModify, 12);
  size_t place = 0;
  for (const uint64_t address : addresses) {
    for (uint64_t size = 0; size < 16; ++size) {
      for (uint64_t kind = 0; kind < 16; ++kind) {
        const TraceRecord record(kind << 60 | size << 56 | (address & ((uint64_t{1} << 56) - 1)));
        std::vector<TraceRecord> records(21, good);
        records[place++ % records.size()] = record;
        const std::string bytes = Words(records);
        for (const int bits : {47, 56}) {
          const auto reader = MakeBinaryTraceReader(OpenBytes("trace", bytes).value(), bits);
          EXPECT_EQ(ReadAll(*reader).ok(), IsUserRecord(record, bits))
              << std::hex << record.raw() << " with " << std::dec << bits << " bits";
        }
      }
    }
  }
}

}  // namespace
}  // namespace tdp::tools
