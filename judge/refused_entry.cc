// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/refused_entry.h"

#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"

namespace tdp::judge {
namespace {

constexpr uint64_t kLarge = uint64_t{1} << 7;

// Says why an entry is refused by rules that both formats have; empty if it is not.
std::string WhyAddressRefused(uint64_t entry, int level, bool leaf, int width) {
  if ((entry & kAddressBits) >> width != 0) {
    return absl::StrFormat("its address has more than the CPU's %d bits", width);
  }
  if (level >= 4 && (entry & kLarge) != 0) {
    return absl::StrFormat("bit 7, a large page, is reserved at level %d", level);
  }
  const uint64_t offset = (kPage << (9 * (level - 1))) - kPage;
  if (leaf && level > 1 && (entry & kAddressBits & offset) != 0) {
    return absl::StrFormat("the address of a page of %#x bytes has bits %#x below it",
                           kPage << (9 * (level - 1)), entry & kAddressBits & offset);
  }
  return "";
}

std::string WhyEptRefused(uint64_t entry, bool leaf) {
  if ((entry & 3) == 2) return "it gives W without R";
  if ((entry & 3) == 0) return "it gives X without R, which this CPU does not offer";
  if (!leaf) return "bits 6:3 of an entry that leads to a table are reserved";
  return absl::StrFormat("memory type %d is reserved", static_cast<int>(entry >> 3 & 7));
}

}  // namespace

std::string WhyRefused(uint64_t entry, int level, bool linear, int width) {
  const bool leaf = level == 1 || (level <= 3 && (entry & kLarge) != 0);
  // Bit 12 of a large page in CR3's format is one of its PAT index.
  constexpr uint64_t kPat = uint64_t{1} << 12;
  const bool has_pat = linear && leaf && level > 1;
  if (std::string why = WhyAddressRefused(has_pat ? entry & ~kPat : entry, level, leaf, width);
      !why.empty()) {
    return why;
  }
  return linear ? "it sets a reserved bit" : WhyEptRefused(entry, leaf);
}

}  // namespace tdp::judge
