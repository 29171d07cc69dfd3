// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Programs that nobody had to record: the access patterns of well-known kernels over any footprint.

#ifndef TDP_TOOLS_TRACE_GENERATOR_H_
#define TDP_TOOLS_TRACE_GENERATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

// Names that begin with this are generators, not files.
inline constexpr std::string_view kGeneratorPrefix = "generate:";

enum class GeneratorKind : uint8_t {
  kGups,    // HPCC RandomAccess: an 8-byte word anywhere is read and written
  kChase,   // a chain of pointers through all lines of 64 bytes in random order, for ever
  kStride,  // loads at equal distances, round and round
  kBfs,     // breadth-first search of a random graph: queue, offsets, 16 edges a vertex, marks
  kJoin,    // a hash join: a table is built from one relation, then probed by another
};

struct GeneratorSpec {
  GeneratorKind kind = GeneratorKind::kGups;
  ByteCount footprint = MiB(256);     // of the data
  uint64_t accesses = 10'000'000;     // the instruction fetches among them
  uint64_t base = uint64_t{1} << 40;  // address of the first byte of data, a page's
  ByteCount stride = 64;              // of kStride
  uint64_t seed = 1;
};

// "generate:KIND[,footprint=SIZE][,base=0xADDRESS][,accesses=N][,stride=SIZE][,seed=N]", where
// sizes and numbers may end in k, m, g or t. InvalidArgument, in one line, for anything else.
absl::StatusOr<GeneratorSpec> ParseGenerator(std::string_view text);

// Makes a reader whose records are the same for the same spec on every machine. Each data access
// comes after the fetch of the instruction that makes it; the code is one page at 0x400000, the
// data lie together.
std::unique_ptr<TraceReader> MakeGenerator(std::string name, const GeneratorSpec& spec);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_GENERATOR_H_
