// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/decode/control_words.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace tdp::tools {
namespace {

struct Bit {
  int position;
  const char* name;
};

struct WordFormat {
  const char* option;
  const char* title;
  absl::Span<const Bit> bits;
  const char* checks;   // the section with the rules of VM entry
  const char* defined;  // the section that lists the bits
  const char* msr;
};

constexpr Bit kPinBits[] = {{0, "external-interrupt exiting"},
                            {3, "NMI exiting"},
                            {5, "virtual NMIs"},
                            {6, "activate VMX-preemption timer"},
                            {7, "process posted interrupts"}};
constexpr Bit kPrimaryBits[] = {{2, "interrupt-window exiting"},
                                {3, "use TSC offsetting"},
                                {7, "HLT exiting"},
                                {9, "INVLPG exiting"},
                                {10, "MWAIT exiting"},
                                {11, "RDPMC exiting"},
                                {12, "RDTSC exiting"},
                                {15, "CR3-load exiting"},
                                {16, "CR3-store exiting"},
                                {17, "activate tertiary controls"},
                                {19, "CR8-load exiting"},
                                {20, "CR8-store exiting"},
                                {21, "use TPR shadow"},
                                {22, "NMI-window exiting"},
                                {23, "MOV-DR exiting"},
                                {24, "unconditional I/O exiting"},
                                {25, "use I/O bitmaps"},
                                {27, "monitor trap flag"},
                                {28, "use MSR bitmaps"},
                                {29, "MONITOR exiting"},
                                {30, "PAUSE exiting"},
                                {31, "activate secondary controls"}};
constexpr Bit kSecondaryBits[] = {{0, "virtualize APIC accesses"},
                                  {1, "enable EPT"},
                                  {2, "descriptor-table exiting"},
                                  {3, "enable RDTSCP"},
                                  {4, "virtualize x2APIC mode"},
                                  {5, "enable VPID"},
                                  {6, "WBINVD exiting"},
                                  {7, "unrestricted guest"},
                                  {8, "APIC-register virtualization"},
                                  {9, "virtual-interrupt delivery"},
                                  {10, "PAUSE-loop exiting"},
                                  {11, "RDRAND exiting"},
                                  {12, "enable INVPCID"},
                                  {13, "enable VM functions"},
                                  {14, "VMCS shadowing"},
                                  {15, "enable ENCLS exiting"},
                                  {16, "RDSEED exiting"},
                                  {17, "enable PML"},
                                  {18, "EPT-violation #VE"},
                                  {19, "conceal VMX from PT"},
                                  {20, "enable XSAVES/XRSTORS"},
                                  {21, "PASID translation"},
                                  {22, "mode-based execute control for EPT"},
                                  {23, "sub-page write permissions for EPT"},
                                  {24, "Intel PT uses guest physical addresses"},
                                  {25, "use TSC scaling"},
                                  {26, "enable user wait and pause"},
                                  {27, "enable PCONFIG"},
                                  {28, "enable ENCLV exiting"},
                                  {30, "VMM bus-lock detection"},
                                  {31, "instruction timeout"}};
constexpr Bit kTertiaryBits[] = {
    {0, "LOADIWKEY exiting"},        {1, "enable HLAT"},
    {2, "EPT paging-write control"}, {3, "guest-paging verification"},
    {4, "IPI virtualization"},       {6, "enable MSR-list instructions"},
    {7, "virtualize IA32_SPEC_CTRL"}};
constexpr Bit kExitBits[] = {{2, "save debug controls"},
                             {9, "host address-space size"},
                             {12, "load IA32_PERF_GLOBAL_CTRL"},
                             {15, "acknowledge interrupt on exit"},
                             {18, "save IA32_PAT"},
                             {19, "load IA32_PAT"},
                             {20, "save IA32_EFER"},
                             {21, "load IA32_EFER"},
                             {22, "save VMX-preemption timer value"},
                             {23, "clear IA32_BNDCFGS"},
                             {24, "conceal VMX from PT"},
                             {25, "clear IA32_RTIT_CTL"},
                             {26, "clear IA32_LBR_CTL"},
                             {27, "clear UINV"},
                             {28, "load CET state"},
                             {29, "load PKRS"},
                             {30, "save IA32_PERF_GLOBAL_CTRL"},
                             {31, "activate secondary controls"}};
constexpr Bit kEntryBits[] = {{2, "load debug controls"},
                              {9, "IA-32e mode guest"},
                              {10, "entry to SMM"},
                              {11, "deactivate dual-monitor treatment"},
                              {13, "load IA32_PERF_GLOBAL_CTRL"},
                              {14, "load IA32_PAT"},
                              {15, "load IA32_EFER"},
                              {16, "load IA32_BNDCFGS"},
                              {17, "conceal VMX from PT"},
                              {18, "load IA32_RTIT_CTL"},
                              {19, "load UINV"},
                              {20, "load CET state"},
                              {21, "load guest IA32_LBR_CTL"},
                              {22, "load PKRS"}};

constexpr char kExecutionChecks[] = "SDM vol. 3C, 27.2.1.1 \"VM-Execution Control Fields\"";
constexpr char kExitChecks[] = "SDM vol. 3C, 27.2.1.2 \"VM-Exit Control Fields\"";
constexpr char kEntryChecks[] = "SDM vol. 3C, 27.2.1.3 \"VM-Entry Control Fields\"";
constexpr char kPinControls[] = "SDM vol. 3C, 25.6.1 \"Pin-Based VM-Execution Controls\"";
constexpr char kProcessorControls[] =
    "SDM vol. 3C, 25.6.2 \"Processor-Based VM-Execution Controls\"";
constexpr char kExitControls[] = "SDM vol. 3C, 25.7.1 \"VM-Exit Controls\"";
constexpr char kEntryControls[] = "SDM vol. 3C, 25.8.1 \"VM-Entry Controls\"";

constexpr WordFormat kFormats[kControlWords] = {
    {"pin", "pin-based controls", kPinBits, kExecutionChecks, kPinControls,
     "IA32_VMX_TRUE_PINBASED_CTLS"},
    {"proc", "primary processor-based controls", kPrimaryBits, kExecutionChecks, kProcessorControls,
     "IA32_VMX_TRUE_PROCBASED_CTLS"},
    {"proc2", "secondary processor-based controls", kSecondaryBits, kExecutionChecks,
     kProcessorControls, "IA32_VMX_PROCBASED_CTLS2"},
    {"proc3", "tertiary processor-based controls", kTertiaryBits, kExecutionChecks,
     kProcessorControls, "IA32_VMX_PROCBASED_CTLS3"},
    {"exit", "VM-exit controls", kExitBits, kExitChecks, kExitControls, "IA32_VMX_TRUE_EXIT_CTLS"},
    {"entry", "VM-entry controls", kEntryBits, kEntryChecks, kEntryControls,
     "IA32_VMX_TRUE_ENTRY_CTLS"}};

const WordFormat& FormatOf(ControlWord word) { return kFormats[static_cast<size_t>(word)]; }

const char* NameOf(ControlWord word, int position) {
  for (const Bit& bit : FormatOf(word).bits) {
    if (bit.position == position) return bit.name;
  }
  return nullptr;
}

struct Control {
  ControlWord word;
  int position;
};

using enum ControlWord;

// `if_set` may be 1 only if `then` has the value `wanted`.
struct Implication {
  Control if_set;
  Control then;
  bool wanted = true;
  const char* rule = kExecutionChecks;
};

constexpr Control kEpt = {kSecondary, 1};
constexpr Implication kImplications[] = {
    {{kPin, 5}, {kPin, 3}},
    {{kPrimary, 22}, {kPin, 5}},
    {{kSecondary, 4}, {kPrimary, 21}},
    {{kSecondary, 8}, {kPrimary, 21}},
    {{kSecondary, 9}, {kPrimary, 21}},
    {{kSecondary, 4}, {kSecondary, 0}, false},
    {{kSecondary, 9}, {kPin, 0}},
    {{kPin, 7}, {kSecondary, 9}},
    {{kPin, 7}, {kExit, 15}},
    {{kSecondary, 7}, kEpt},
    {{kSecondary, 17}, kEpt},
    {{kSecondary, 22}, kEpt},
    {{kSecondary, 23}, kEpt},
    {{kSecondary, 24}, kEpt},
    {{kTertiary, 1}, kEpt},
    {{kTertiary, 2}, kEpt},
    {{kTertiary, 3}, kEpt},
    {{kTertiary, 4}, {kPrimary, 21}},
    {{kSecondary, 24}, {kEntry, 18}},
    {{kSecondary, 24}, {kExit, 25}},
    {{kExit, 22}, {kPin, 6}, true, kExitChecks},
    {{kEntry, 10}, {kEntry, 11}, false, kEntryChecks},
    {{kEntry, 9}, {kExit, 9}, true, "SDM vol. 3C, 27.2.4 \"Checks Related to Address-Space Size\""},
};

// Returns the value of a control; nothing if it is not known. A word that is not activated is 0.
std::optional<bool> ValueOf(const Controls& controls, Control control) {
  const auto& words = controls.words;
  const auto bit_of = [&words](ControlWord word, int position) -> std::optional<bool> {
    const auto& value = words[static_cast<size_t>(word)];
    if (!value.has_value()) return std::nullopt;
    return (*value >> position & 1) != 0;
  };
  if (control.word == kSecondary && bit_of(kPrimary, 31) == false) return false;
  if (control.word == kTertiary && bit_of(kPrimary, 17) == false) return false;
  return bit_of(control.word, control.position);
}

std::string Quoted(Control control) {
  return absl::StrCat("\"", NameOf(control.word, control.position), "\"");
}

void BlameImplications(const Controls& controls, ControlWord of, DecodedWord& word) {
  for (const Implication& rule : kImplications) {
    if (rule.if_set.word != of || ValueOf(controls, rule.if_set) != true) continue;
    const std::optional<bool> then = ValueOf(controls, rule.then);
    if (!then.has_value() || *then == rule.wanted) continue;
    word.Blame(absl::StrCat(Quoted(rule.if_set), " is 1, and so ", Quoted(rule.then), " (",
                            ControlWordName(rule.then.word), " bit ", rule.then.position,
                            ") must be ", rule.wanted ? 1 : 0),
               rule.rule);
  }
}

std::string NamesOf(ControlWord word, uint64_t mask) {
  std::string names;
  for (int position = 0; position < 64; ++position) {
    if ((mask >> position & 1) == 0) continue;
    const char* name = NameOf(word, position);
    absl::StrAppend(&names, names.empty() ? "" : ", ", "bit ", position);
    if (name != nullptr) absl::StrAppend(&names, " \"", name, "\"");
  }
  return names;
}

void BlameMsr(ControlWord of, uint64_t msr, DecodedWord& word) {
  const WordFormat& format = FormatOf(of);
  const bool wide = of == kTertiary;
  const uint64_t must = wide ? 0 : msr & 0xffffffff;
  const uint64_t may = wide ? msr : msr >> 32;
  if ((must & ~word.value) != 0) {
    word.Blame(absl::StrCat(NamesOf(of, must & ~word.value), " must be 1 by ", format.msr),
               format.checks);
  }
  if ((word.value & ~may) != 0) {
    word.Blame(absl::StrCat(NamesOf(of, word.value & ~may), " must be 0 by ", format.msr),
               format.checks);
  }
}

// Without the MSR only what no CPU has can be told: the bits that always were 1 (default1) are.
void BlameUndefined(ControlWord of, DecodedWord& word) {
  static constexpr uint64_t kDefault1[] = {0x16, 0x401e172, 0, 0, 0x36dff, 0x11ff};
  uint64_t known = kDefault1[static_cast<size_t>(of)];
  for (const Bit& bit : FormatOf(of).bits) known |= uint64_t{1} << bit.position;
  if ((word.value & ~known) == 0) return;
  word.Blame(absl::StrCat("bits ", BitsText(word.value & ~known), " are set, but not defined"),
             FormatOf(of).defined);
}

DecodedWord DecodeOne(const Controls& controls, ControlWord of) {
  const WordFormat& format = FormatOf(of);
  DecodedWord word;
  word.name = format.title;
  word.value = *controls.words[static_cast<size_t>(of)];
  for (const Bit& bit : format.bits) {
    if ((word.value >> bit.position & 1) != 0) word.Say(absl::StrCat(bit.position), bit.name);
  }
  word.summary = absl::StrCat(word.fields.size(), " of ", format.bits.size(), " controls are 1");
  if (const auto& msr = controls.msrs[static_cast<size_t>(of)]; msr.has_value()) {
    BlameMsr(of, *msr, word);
  } else {
    BlameUndefined(of, word);
  }
  BlameImplications(controls, of, word);
  return word;
}

}  // namespace

std::string_view ControlWordName(ControlWord word) { return FormatOf(word).option; }

std::vector<DecodedWord> DecodeControls(const Controls& controls) {
  std::vector<DecodedWord> decoded;
  for (size_t i = 0; i < kControlWords; ++i) {
    if (!controls.words[i].has_value()) continue;
    decoded.push_back(DecodeOne(controls, static_cast<ControlWord>(i)));
  }
  return decoded;
}

}  // namespace tdp::tools
