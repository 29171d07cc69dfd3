// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The compressions that traces come in, each by its own library, behind one interface.

#ifndef TDP_TOOLS_TRACE_CODEC_H_
#define TDP_TOOLS_TRACE_CODEC_H_

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/types/span.h"

namespace tdp::tools {

// A stream of compressed bytes being unpacked.
class Codec {
 public:
  struct Step {
    size_t consumed = 0;
    size_t produced = 0;
    // The compressed bytes so far end inside a unit (a zstd frame, a gzip member, an xz stream):
    // without more of them the file is cut short.
    bool inside = true;
    const char* error = nullptr;  // what is wrong with the bytes, by the library's own words
  };

  virtual ~Codec() = default;

  // "zstd", "gzip", "xz".
  virtual const char* name() const = 0;
  // Unpacks what it can of `in` into `out`. `last`: no more follow `in`.
  virtual Step Decode(absl::Span<const char> in, absl::Span<char> out, bool last) = 0;
};

// The most bytes that `MakeCodec` and `NameOfMagic` want to see.
inline constexpr size_t kMagicBytes = 10;

// Returns the codec for a file that begins with `magic`; null if it is not compressed in a way that
// is read.
std::unique_ptr<Codec> MakeCodec(std::string_view magic);

// Returns what a file is that begins with `magic`, for files that are known and are no traces: "a
// PNG image", …; empty for others.
std::string_view NameOfMagic(std::string_view magic);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_CODEC_H_
