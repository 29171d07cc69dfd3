// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The words of a guest's own paging, 4-level and 5-level.

#ifndef TDP_TOOLS_DECODE_GUEST_WORDS_H_
#define TDP_TOOLS_DECODE_GUEST_WORDS_H_

#include <cstdint>
#include <string>

#include "tdp/tools/decode/decoded_word.h"

namespace tdp::tools {

struct GuestContext {
  int physical_address_bits = 52;  // MAXPHYADDR
  bool no_execute = true;          // EFER.NXE
};

// Decodes an entry of a table of `level`, 1 to 5.
DecodedWord DecodePagingEntry(uint64_t entry, int level, const GuestContext& context);
// Decodes the error code of a page fault.
DecodedWord DecodePageFault(uint64_t error_code);

// "rwxu" with "-" for what is not there; u: user-mode accesses too.
std::string GuestRightsText(uint64_t entry);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DECODE_GUEST_WORDS_H_
