// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The words of extended page tables: entries, EPTP, capabilities, exit qualification.

#ifndef TDP_TOOLS_DECODE_EPT_WORDS_H_
#define TDP_TOOLS_DECODE_EPT_WORDS_H_

#include <cstdint>
#include <string>

#include "tdp/mmu/format/ept_capabilities.h"
#include "tdp/tools/decode/decoded_word.h"

namespace tdp::tools {

// Holds what decides whether a word is right.
struct EptContext {
  EptCapabilities capabilities = EptCapabilities::All();
  int physical_address_bits = 52;  // MAXPHYADDR
  bool accessed_dirty = true;      // EPTP bit 6
  bool mbec = false;               // mode-based execute control for EPT
  bool paging_write = false;       // the control of bit 58
};

// Decodes an entry of a table of `level`, 1 to 5.
DecodedWord DecodeEptEntry(uint64_t entry, int level, const EptContext& context);
DecodedWord DecodeEptp(uint64_t eptp, const EptContext& context);
DecodedWord DecodeEptCapabilities(uint64_t word);
// Decodes the qualification of an EPT violation.
DecodedWord DecodeEptQualification(uint64_t qualification, const EptContext& context);

// "rwx", with "-" for a right that is not there; with `mbec` a fourth letter, u.
std::string EptRightsText(uint64_t entry, bool mbec);
// "WB" and so on; "reserved type 2" for what is none.
std::string EptTypeText(uint64_t type);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DECODE_EPT_WORDS_H_
