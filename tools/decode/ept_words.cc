// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/decode/ept_words.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::tools {
namespace {

constexpr char kMisconfigurations[] = "SDM vol. 3C, 29.3.3.1 \"EPT Misconfigurations\"";
constexpr char kEntryFormat[] = "SDM vol. 3C, 29.3.2 \"EPT Translation Mechanism\"";
constexpr char kEptpChecks[] = "SDM vol. 3C, 27.2.1.1 \"VM-Execution Control Fields\"";
constexpr char kEptpFormat[] = "SDM vol. 3C, 25.6.11 \"Extended-Page-Table Pointer (EPTP)\"";
constexpr char kCapabilities[] = "SDM vol. 3D, A.10 \"VPID and EPT Capabilities\"";
constexpr char kQualification[] = "SDM vol. 3C, 28.2.1 \"Basic VM-Exit Information\"";

constexpr std::string_view kPageSizes[] = {"", "4 KiB", "2 MiB", "1 GiB"};

bool IsLeafAt(uint64_t entry, int level) {
  return level == 1 || (level <= 3 && (entry & ept::kLargePage) != 0);
}

uint64_t PresentMask(const EptContext& context) {
  return ept::kRightsMask | (context.mbec ? ept::kUserExecute : 0);
}

void BlameBits(DecodedWord& word, uint64_t mask, std::string_view why, const char* rule) {
  if ((word.value & mask) == 0) return;
  word.Blame(absl::StrCat("bits ", BitsText(word.value & mask), " are set, but ", why), rule);
}

void BlameRights(DecodedWord& word, const EptContext& context) {
  const uint64_t entry = word.value;
  if ((entry & ept::kRead) != 0) return;
  if ((entry & ept::kWrite) != 0) {
    word.Blame("it has W (bit 1) without R (bit 0)", kMisconfigurations);
  }
  const uint64_t execute = ept::kExecute | (context.mbec ? ept::kUserExecute : 0);
  if ((entry & execute) != 0 && !context.capabilities.execute_only()) {
    word.Blame(
        "it has X without R, and the CPU has no execute-only pages (bit 0 of the "
        "capabilities)",
        kMisconfigurations);
  }
}

void BlameAddress(DecodedWord& word, const EptContext& context) {
  BlameBits(word, ept::Bits(ept::kAddressHighBit, context.physical_address_bits),
            absl::StrCat("addresses have ", context.physical_address_bits, " bits (MAXPHYADDR)"),
            kMisconfigurations);
}

void BlameTable(DecodedWord& word, int level) {
  BlameBits(word, ept::kTableReservedLow | (level > 3 ? ept::kLargePage : 0),
            "reserved in an entry that points to a table", kMisconfigurations);
}

void BlameLeaf(DecodedWord& word, int level, const EptContext& context) {
  const uint64_t entry = word.value;
  if (!context.capabilities.OffersLeafAt(Level(level))) {
    word.Blame(absl::StrCat("bit 7 maps a page of ", kPageSizes[level],
                            ", which the CPU does not "
                            "have (bits 17:16 of the capabilities)"),
               kMisconfigurations);
  }
  if (level > 1) {
    BlameBits(word, ept::Bits(11 + 9 * (level - 1), 12),
              absl::StrCat("a page of ", kPageSizes[level], " is aligned to its size"),
              kMisconfigurations);
  }
  const uint64_t type = (entry & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift;
  if (type == 2 || type == 3 || type == 7) {
    word.Blame(absl::StrCat("memory type ", type, " (bits 5:3) is reserved"), kMisconfigurations);
  }
  if (context.paging_write && (entry & (ept::kPagingWrite | ept::kRead)) == ept::kPagingWrite) {
    word.Blame("it has paging-write (bit 58) without R", kMisconfigurations);
  }
}

void SayLeaf(DecodedWord& word, const EptContext& context) {
  const uint64_t entry = word.value;
  word.Say("5:3", absl::StrCat("memory type ", EptTypeText(entry >> ept::kMemoryTypeShift & 7)));
  word.Say("6", (entry & ept::kIgnorePat) != 0 ? "the guest's PAT is ignored"
                                               : "the guest's PAT has its say");
  if (context.accessed_dirty) {
    word.Say("9", (entry & ept::kDirty) != 0 ? "dirty" : "not dirty");
  }
  if (context.paging_write && (entry & ept::kPagingWrite) != 0) {
    word.Say("58", "guest page tables in it may be written (paging-write)");
  }
  if ((entry & ept::kSupervisorShadowStack) != 0) {
    word.Say("60", "supervisor shadow stack, if EPTP bit 7 is set");
  }
  if ((entry & ept::kSubPageWrite) != 0) {
    word.Say("61", "sub-page write permissions, if the control is on");
  }
}

void SayRights(DecodedWord& word, const EptContext& context) {
  word.Say(context.mbec ? "10, 2:0" : "2:0",
           absl::StrCat("rights ", EptRightsText(word.value, context.mbec)));
}

// A bit that hardware ignores and that is set all the same is somebody's own bookkeeping.
void SayIgnored(DecodedWord& word, uint64_t known, const EptContext& context) {
  uint64_t ignored = word.value & ~known & ~ept::kAddressMask;
  if (!context.mbec) ignored &= ~ept::kUserExecute;
  if (ignored != 0) word.Say(BitsText(ignored), "set, and ignored by hardware");
}

std::string_view WhoseLevel(int level) {
  static constexpr std::string_view kNames[] = {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
  return kNames[level];
}

std::string MissingRights(uint64_t missing) {
  std::vector<std::string_view> names;
  if ((missing & 1) != 0) names.push_back("R");
  if ((missing & 2) != 0) names.push_back("W");
  if ((missing & 4) != 0) names.push_back("X");
  return absl::StrJoin(names, " and ");
}

std::string AccessText(uint64_t qualification) {
  std::vector<std::string_view> kinds;
  if ((qualification & ept::kQualRead) != 0) kinds.push_back("read");
  if ((qualification & ept::kQualWrite) != 0) kinds.push_back("write");
  if ((qualification & ept::kQualFetch) != 0) kinds.push_back("instruction fetch");
  return kinds.empty() ? "no access" : absl::StrJoin(kinds, " and ");
}

std::string QualificationSummary(uint64_t q) {
  const uint64_t rights = q >> ept::kQualRightsShift & 7;
  const uint64_t missing = (q & 7) & ~rights;
  std::string text = AccessText(q);
  if ((q & ept::kQualLinearAddressValid) != 0) {
    absl::StrAppend(&text, (q & ept::kQualFinalAddress) != 0
                               ? " at the translation of a linear address"
                               : " of a guest paging structure");
  }
  if (rights == 0) return text + "; nothing is mapped there";
  if (missing == 0) return text + "; the rights would allow it";
  return absl::StrCat(text, "; the page is mapped without ", MissingRights(missing));
}

void SayAdvanced(DecodedWord& word) {
  const uint64_t q = word.value;
  word.Say("9", (q & ept::kQualUserAddress) != 0 ? "the linear address is a user-mode one"
                                                 : "the linear address is a supervisor-mode one");
  word.Say("10", (q & ept::kQualGuestWritable) != 0
                     ? "the guest's tables let it be written"
                     : "the guest's tables do not let it be written");
  word.Say("11", (q & ept::kQualGuestNoExecute) != 0 ? "the guest's tables do not let it execute"
                                                     : "the guest's tables let it execute");
}

void BlameQualification(DecodedWord& word) {
  const uint64_t q = word.value;
  if ((q & ~ept::kQualDefined) != 0) {
    word.Say(BitsText(q & ~ept::kQualDefined), "set; no CPU that is documented sets them");
  }
  const bool data = (q & (ept::kQualRead | ept::kQualWrite)) != 0;
  const bool fetch = (q & ept::kQualFetch) != 0;
  if (!data && !fetch && (q & ept::kQualAsynchronous) == 0) {
    word.Blame("no kind of access is named (bits 2:0)", kQualification);
  }
  if (data && fetch) {
    word.Blame("it is an instruction fetch and a data access at once (bits 2:0)", kQualification);
  }
  if ((q & ept::kQualFinalAddress) != 0 && (q & ept::kQualLinearAddressValid) == 0) {
    word.Blame("bit 8 (translated address) is set without bit 7 (linear address valid)",
               kQualification);
  }
}

}  // namespace

std::string EptRightsText(uint64_t entry, bool mbec) {
  std::string text = {(entry & ept::kRead) != 0 ? 'r' : '-', (entry & ept::kWrite) != 0 ? 'w' : '-',
                      (entry & ept::kExecute) != 0 ? 'x' : '-'};
  if (mbec) text += (entry & ept::kUserExecute) != 0 ? 'u' : '-';
  return text;
}

std::string EptTypeText(uint64_t type) {
  static constexpr const char* kNames[] = {"UC", "WC", "", "", "WT", "WP", "WB", ""};
  return *kNames[type] != '\0' ? kNames[type] : absl::StrCat("reserved type ", type);
}

DecodedWord DecodeEptEntry(uint64_t entry, int level, const EptContext& context) {
  DecodedWord word{.name = absl::StrCat("EPT ", WhoseLevel(level)), .value = entry};
  if ((entry & PresentMask(context)) == 0) {
    word.summary = "not present: an access causes an EPT violation";
    if ((entry & ept::kSuppressVe) != 0) word.Say("63", "the violation is not made a #VE");
    SayIgnored(word, ept::kSuppressVe, context);
    return word;
  }
  const bool leaf = IsLeafAt(entry, level);
  const uint64_t offset = leaf ? ept::Bits(11 + 9 * (level - 1), 0) : 0xfff;
  word.summary =
      absl::StrFormat(leaf ? "maps a page of %s at host-physical 0x%x"
                           : "points to a table%s at host-physical 0x%x",
                      leaf ? kPageSizes[level] : "", entry & ept::kAddressMask & ~offset);
  SayRights(word, context);
  if (leaf) SayLeaf(word, context);
  if (context.accessed_dirty) {
    word.Say("8", (entry & ept::kAccessed) != 0 ? "accessed" : "not accessed");
  }
  uint64_t known = ept::kRightsMask | ept::kAccessed | ept::kUserExecute;
  known |= leaf ? ept::kHardwareLeafBits : ept::kTableReservedLow | ept::kLargePage;
  SayIgnored(word, known, context);
  BlameRights(word, context);
  BlameAddress(word, context);
  if (leaf) {
    BlameLeaf(word, level, context);
  } else {
    BlameTable(word, level);
  }
  if ((entry & (ept::kRightsMask)) == ept::kMmioPattern) {
    word.Say("2:0", "W and X without R: how KVM and this library mark MMIO on purpose");
  }
  if (!word.faults.empty()) word.summary += "; an access causes an EPT misconfiguration";
  return word;
}

DecodedWord DecodeEptp(uint64_t eptp, const EptContext& context) {
  DecodedWord word{.name = "EPTP", .value = eptp};
  const uint64_t levels = ((eptp & ept::kEptpLevelsMask) >> ept::kEptpLevelsShift) + 1;
  const uint64_t type = eptp & ept::kEptpMemoryTypeMask;
  word.summary =
      absl::StrFormat("%d levels, root at host-physical 0x%x", levels, eptp & ept::kAddressMask);
  word.Say("2:0", absl::StrCat("the tables' memory type is ", EptTypeText(type)));
  word.Say("5:3", absl::StrCat("a walk reads ", levels, " levels"));
  word.Say("6", (eptp & ept::kEptpAccessedDirty) != 0 ? "accessed and dirty flags are on"
                                                      : "accessed and dirty flags are off");
  if ((eptp & ept::kEptpSupervisorShadowStack) != 0) {
    word.Say("7", "supervisor shadow-stack pages are told apart");
  }
  const EptCapabilities& offers = context.capabilities;
  if (!(type == 0 && offers.uncacheable_tables()) && !(type == 6 && offers.write_back_tables())) {
    word.Blame(absl::StrCat("memory type ", type, " is not one that the CPU has for tables"),
               kEptpChecks);
  }
  if (!(levels == 4 && offers.walk_4()) && !(levels == 5 && offers.walk_5())) {
    word.Blame(absl::StrCat("the CPU has no walk of ", levels,
                            " levels (bits 5:3 hold the levels "
                            "less one)"),
               kEptpChecks);
  }
  if ((eptp & ept::kEptpAccessedDirty) != 0 && !offers.accessed_dirty()) {
    word.Blame("the CPU has no accessed and dirty flags for EPT", kEptpChecks);
  }
  if ((eptp & ept::kEptpSupervisorShadowStack) != 0 && !offers.supervisor_shadow_stack()) {
    word.Blame("the CPU has no supervisor shadow-stack control for EPT", kEptpFormat);
  }
  BlameBits(word, ept::kEptpReserved, "reserved", kEptpChecks);
  BlameBits(word, ~ept::Bits(context.physical_address_bits - 1, 0),
            absl::StrCat("addresses have ", context.physical_address_bits, " bits (MAXPHYADDR)"),
            kEptpChecks);
  return word;
}

DecodedWord DecodeEptCapabilities(uint64_t value) {
  static constexpr std::pair<uint64_t, const char*> kBits[] = {
      {ept::kCapExecuteOnly, "execute-only pages"},
      {ept::kCapWalk4, "walks of 4 levels"},
      {ept::kCapWalk5, "walks of 5 levels"},
      {ept::kCapUncacheable, "tables in UC memory"},
      {ept::kCapWriteBack, "tables in WB memory"},
      {ept::kCap2M, "pages of 2 MiB"},
      {ept::kCap1G, "pages of 1 GiB"},
      {ept::kCapInvept, "INVEPT"},
      {ept::kCapAccessedDirty, "accessed and dirty flags"},
      {ept::kCapAdvancedExitInformation, "advanced exit information: bits 11:9 of qualifications"},
      {ept::kCapSupervisorShadowStack, "supervisor shadow-stack control"},
      {ept::kCapInveptSingle, "INVEPT of one context"},
      {ept::kCapInveptAll, "INVEPT of all contexts"},
      {ept::kCapInvvpid, "INVVPID"},
      {ept::kCapInvvpidAddress, "INVVPID of one address"},
      {ept::kCapInvvpidSingle, "INVVPID of one VPID"},
      {ept::kCapInvvpidAll, "INVVPID of all VPIDs"},
      {ept::kCapInvvpidSingleKeepGlobals, "INVVPID of one VPID, global pages kept"}};
  DecodedWord word{.name = "IA32_VMX_EPT_VPID_CAP", .value = value};
  uint64_t known = 0;
  for (const auto& [bit, name] : kBits) {
    known |= bit;
    if ((value & bit) != 0) word.Say(BitsText(bit), name);
  }
  word.summary = absl::StrCat(word.fields.size(), " of ", std::size(kBits), " capabilities");
  // Bits 53:48 say how far HLAT prefixes reach, which is no matter of EPT.
  known |= ept::Bits(53, 48);
  BlameBits(word, ~known, "not defined", kCapabilities);
  const auto blame_alone = [&word](uint64_t types, uint64_t instruction, const char* name) {
    if ((word.value & types) == 0 || (word.value & instruction) != 0) return;
    word.Blame(absl::StrCat("types of ", name, " without ", name, " itself (bit ",
                            BitsText(instruction), ")"),
               kCapabilities);
  };
  blame_alone(ept::kCapInveptSingle | ept::kCapInveptAll, ept::kCapInvept, "INVEPT");
  blame_alone(ept::Bits(43, 40), ept::kCapInvvpid, "INVVPID");
  return word;
}

DecodedWord DecodeEptQualification(uint64_t q, const EptContext& context) {
  DecodedWord word{.name = "EPT violation, exit qualification", .value = q};
  word.summary = QualificationSummary(q);
  word.Say("2:0", AccessText(q));
  word.Say("5:3",
           absl::StrCat("the walk allowed ", EptRightsText(q >> ept::kQualRightsShift, false)));
  if (context.mbec) {
    word.Say("6", (q & ept::kQualUserExecutable) != 0 ? "the walk allowed user-mode fetches"
                                                      : "the walk allowed no user-mode fetch");
  }
  if ((q & ept::kQualLinearAddressValid) != 0) {
    word.Say("7", "the guest-linear address field is valid");
    const bool final_address = (q & ept::kQualFinalAddress) != 0;
    word.Say("8", final_address ? "the access was to the translated address"
                                : "the access was to a guest paging structure on the way");
    if (final_address && context.capabilities.advanced_exit_information()) SayAdvanced(word);
  } else {
    word.Say("7", "the guest-linear address field is not valid");
  }
  if ((q & ept::kQualNmiUnblocked) != 0)
    word.Say("12", "the instruction was an IRET that unblocked NMIs");
  if ((q & ept::kQualShadowStackAccess) != 0) word.Say("13", "a shadow-stack access");
  if ((q & ept::kQualSupervisorShadowStack) != 0)
    word.Say("14", "the page is a supervisor shadow stack");
  if ((q & ept::kQualGuestPagingVerification) != 0)
    word.Say("15", "guest-paging verification failed");
  if ((q & ept::kQualAsynchronous) != 0) {
    word.Say("16", "asynchronous to the instruction, as by a trace");
  }
  BlameQualification(word);
  return word;
}

}  // namespace tdp::tools
