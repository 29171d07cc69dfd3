// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For freestanding programs: what the runner told them. Its arguments are words NAME=VALUE.

#ifndef TDP_BACKENDS_VTX_BOOT_BARE_ARGUMENTS_H_
#define TDP_BACKENDS_VTX_BOOT_BARE_ARGUMENTS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::vtx {

// Finds the program's arguments. Of two with one name the first counts.
class Arguments {
 public:
  // `count` words from `words` on, one after another, each with its NUL, of which the first is the
  // program's name. They outlive this.
  Arguments(const char* words, int count) : words_(words), count_(count) {}

  // Returns the value of NAME=VALUE; `otherwise` if no argument has that name.
  std::string_view Find(std::string_view name, std::string_view otherwise) const;
  // Returns the value as a decimal number. InvalidArgument for what is none, or is beyond 64 bits.
  absl::StatusOr<uint64_t> FindNumber(std::string_view name, uint64_t otherwise) const;
  // Returns the file that the runner has put into memory under that name (`--needs`), and of which
  // it says NAME=ADDRESS,BYTES, hexadecimal and decimal. NotFound if there is none.
  absl::StatusOr<absl::Span<const uint8_t>> FindFile(std::string_view name) const;

 private:
  const char* words_;
  int count_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_BOOT_BARE_ARGUMENTS_H_
