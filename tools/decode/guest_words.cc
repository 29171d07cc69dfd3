// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/decode/guest_words.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/sim/guest_rules.h"

namespace tdp::tools {
namespace {

using sim::kGuestAccessed;
using sim::kGuestDirty;
using sim::kGuestGlobal;
using sim::kGuestLargePage;
using sim::kGuestNoExecute;
using sim::kGuestPresent;
using sim::kGuestUser;
using sim::kGuestWrite;

constexpr char kPaging[] = "SDM vol. 3A, 4.5 \"4-Level Paging and 5-Level Paging\"";
constexpr char kPageFaults[] = "SDM vol. 3A, 4.7 \"Page-Fault Exceptions\"";
constexpr uint64_t kAddressMask = 0x000ffffffffff000;

constexpr uint64_t Bits(int high, int low) {
  return high < low ? 0 : (~uint64_t{0} >> (63 - high)) & (~uint64_t{0} << low);
}

void BlameBits(DecodedWord& word, uint64_t mask, std::string_view why) {
  if ((word.value & mask) == 0) return;
  word.Blame(absl::StrCat("bits ", BitsText(word.value & mask), " are set, but ", why), kPaging);
}

void BlameEntry(DecodedWord& word, int level, bool leaf, const GuestContext& context) {
  static constexpr std::string_view kPageSizes[] = {"", "4 KiB", "2 MiB", "1 GiB"};
  BlameBits(word, Bits(51, context.physical_address_bits),
            absl::StrCat("addresses have ", context.physical_address_bits, " bits (MAXPHYADDR)"));
  if (level > 3) BlameBits(word, kGuestLargePage, "there is no page of this level");
  if (leaf && level > 1) {
    // Bit 12 of a large page belongs to the PAT.
    BlameBits(word, Bits(11 + 9 * (level - 1), 13),
              absl::StrCat("a page of ", kPageSizes[level], " is aligned to its size"));
  }
  if (!context.no_execute) BlameBits(word, kGuestNoExecute, "reserved while EFER.NXE is 0");
}

void SayEntry(DecodedWord& word, int level, bool leaf) {
  const uint64_t entry = word.value;
  word.Say("1", (entry & kGuestWrite) != 0 ? "writable" : "read-only");
  word.Say("2", (entry & kGuestUser) != 0 ? "user mode" : "supervisor mode only");
  word.Say("63", (entry & kGuestNoExecute) != 0 ? "no execution" : "executable");
  const int pat_bit = level == 1 ? 7 : 12;
  uint64_t pat = entry >> 3 & 3;
  if (leaf) pat |= (entry >> pat_bit & 1) << 2;
  word.Say(leaf ? absl::StrCat(pat_bit, ", 4:3") : "4:3",
           absl::StrCat("entry ", pat, " of IA32_PAT"));
  word.Say("5", (entry & kGuestAccessed) != 0 ? "accessed" : "not accessed");
  if (!leaf) return;
  word.Say("6", (entry & kGuestDirty) != 0 ? "dirty" : "not dirty");
  if ((entry & kGuestGlobal) != 0) word.Say("8", "global, if CR4.PGE is 1");
  if ((entry >> 59 & 15) != 0) {
    word.Say("62:59", absl::StrCat("protection key ", entry >> 59 & 15));
  }
}

}  // namespace

std::string GuestRightsText(uint64_t entry) {
  return {'r', (entry & kGuestWrite) != 0 ? 'w' : '-', (entry & kGuestNoExecute) == 0 ? 'x' : '-',
          (entry & kGuestUser) != 0 ? 'u' : '-'};
}

DecodedWord DecodePagingEntry(uint64_t entry, int level, const GuestContext& context) {
  static constexpr std::string_view kNames[] = {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
  DecodedWord word{.name = std::string(kNames[level]), .value = entry};
  if ((entry & kGuestPresent) == 0) {
    word.summary = "not present: an access causes a page fault, and the other bits are ignored";
    return word;
  }
  const bool leaf = level == 1 || (level <= 3 && (entry & kGuestLargePage) != 0);
  const uint64_t offset = leaf ? Bits(11 + 9 * (level - 1), 0) : 0xfff;
  static constexpr const char* kWhat[] = {"", "maps a page of 4 KiB", "maps a page of 2 MiB",
                                          "maps a page of 1 GiB"};
  word.summary =
      absl::StrFormat("%s at guest-physical 0x%x", leaf ? kWhat[level] : "points to a table",
                      entry & kAddressMask & ~offset);
  SayEntry(word, level, leaf);
  BlameEntry(word, level, leaf, context);
  if (!word.faults.empty()) {
    word.summary += "; an access causes a page fault with RSVD in its error code";
  }
  return word;
}

DecodedWord DecodePageFault(uint64_t error_code) {
  static constexpr std::pair<const char*, const char*> kBits[] = {
      {"no entry was present", "a page-protection violation"},
      {"a read", "a write"},
      {"by supervisor mode", "by user mode"},
      {"", "a reserved bit is set in an entry"},
      {"", "an instruction fetch"},
      {"", "a protection key forbids it"},
      {"", "a shadow-stack access"},
      {"", "in a HLAT translation"}};
  DecodedWord word{.name = "page fault, error code", .value = error_code};
  word.summary = absl::StrCat((error_code & 16) != 0  ? "an instruction fetch "
                              : (error_code & 2) != 0 ? "a write "
                                                      : "a read ",
                              (error_code & 4) != 0 ? "by user mode" : "by supervisor mode",
                              (error_code & 1) != 0 ? "; a page is mapped" : "; nothing is mapped");
  for (size_t bit = 0; bit < std::size(kBits); ++bit) {
    const char* text = (error_code >> bit & 1) != 0 ? kBits[bit].second : kBits[bit].first;
    if (*text != '\0') word.Say(absl::StrCat(bit), text);
  }
  if ((error_code >> 15 & 1) != 0) word.Say("15", "by the rules of SGX");
  const auto blame = [&word](bool wrong, const char* what) {
    if (wrong) word.Blame(what, kPageFaults);
  };
  blame((error_code & ~uint64_t{0x80ff}) != 0, "bits other than 15 and 7:0 are set");
  blame((error_code & 8) != 0 && (error_code & 1) == 0,
        "RSVD (bit 3) is set without P (bit 0): a reserved bit counts in a present entry only");
  blame((error_code & 18) == 18, "it is a write and an instruction fetch at once (bits 4 and 1)");
  blame((error_code & 32) != 0 && (error_code & 1) == 0,
        "PK (bit 5) is set without P (bit 0): only a page that is mapped has a key");
  return word;
}

}  // namespace tdp::tools
