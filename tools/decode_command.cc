// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/decode_command.h"

#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/tools/command.h"
#include "tdp/tools/decode/control_words.h"
#include "tdp/tools/decode/decoded_word.h"
#include "tdp/tools/decode/ept_words.h"
#include "tdp/tools/decode/guest_words.h"
#include "tdp/tools/number_text.h"
#include "tdp/tools/options.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp decode [OPTION...] WORD=VALUE...\n\n"
    "Says in words what each VALUE means, and which rule of the SDM it breaks. Words given\n"
    "together judge each other: an EPTP and entries by the capabilities, the controls by each\n"
    "other and by the MSRs. Exit status 1 if a rule is broken. The words:\n"
    "  qualification        exit qualification of an EPT violation\n"
    "  ept-entry            entry of an EPT table, at --level\n"
    "  paging-entry         entry of a guest's page table (4-level, 5-level), at --level\n"
    "  page-fault           error code of a page fault\n"
    "  eptp                 EPT pointer\n"
    "  ept-cap              IA32_VMX_EPT_VPID_CAP\n"
    "  pin proc proc2 proc3 exit entry\n"
    "                       controls of a VMCS: pin-based, processor-based (primary, secondary,\n"
    "                       tertiary), VM-exit, VM-entry\n"
    "  pin-msr ... entry-msr  what the CPU allows for each of these\n\n";

struct DecodeOptions {
  uint64_t level = 1;
  uint64_t maxphyaddr = 52;
  bool mbec = false;
  bool paging_write = false;
  bool no_nxe = false;
  bool help = false;
};

OptionParser MakeParser(DecodeOptions* options) {
  OptionParser parser;
  parser.AddInteger("level", "of the table that an entry is in; 1 has pages of 4 KiB",
                    &options->level, 1, 5);
  parser.AddInteger("maxphyaddr", "bits of a physical address", &options->maxphyaddr, 32, 52);
  parser.AddSwitch("mbec", "\"mode-based execute control for EPT\" is 1", &options->mbec);
  parser.AddSwitch("paging-write", "\"EPT paging-write control\" is 1", &options->paging_write);
  parser.AddSwitch("no-nxe", "EFER.NXE is 0", &options->no_nxe);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

// The words of a command line, in their order.
class Words {
 public:
  explicit Words(const DecodeOptions& options) : options_(options) {
    ept_.physical_address_bits = static_cast<int>(options.maxphyaddr);
    ept_.mbec = options.mbec;
    ept_.paging_write = options.paging_write;
  }

  absl::Status Add(std::string_view argument) {
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    const auto wrong = [argument](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::CHexEscape(argument), "\": ", what));
    };
    if (equals == std::string_view::npos) return wrong("must be WORD=VALUE");
    const absl::StatusOr<uint64_t> value = ParseWord(argument.substr(equals + 1));
    if (!value.ok()) return wrong(value.status().message());
    for (size_t i = 0; i < kControlWords; ++i) {
      const std::string_view control = ControlWordName(static_cast<ControlWord>(i));
      if (name == control) return Set(controls_.words[i], *value, argument);
      if (name == absl::StrCat(control, "-msr")) return Set(controls_.msrs[i], *value, argument);
    }
    if (name == "eptp") ept_.accessed_dirty = (*value & ept::kEptpAccessedDirty) != 0;
    if (name == "ept-cap") ept_.capabilities = EptCapabilities(*value);
    for (const char* known :
         {"qualification", "ept-entry", "paging-entry", "page-fault", "eptp", "ept-cap"}) {
      if (name != known) continue;
      others_.emplace_back(name, *value);
      return absl::OkStatus();
    }
    return wrong("there is no such word; tdp decode --help lists them");
  }

  // Decodes after all have been added, since a word may judge one before it.
  std::vector<DecodedWord> Decode() const {
    std::vector<DecodedWord> decoded;
    for (const auto& [name, value] : others_) decoded.push_back(DecodeOne(name, value));
    for (DecodedWord& word : DecodeControls(controls_)) decoded.push_back(std::move(word));
    return decoded;
  }

 private:
  static absl::Status Set(std::optional<uint64_t>& word, uint64_t value,
                          std::string_view argument) {
    if (word.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("\"", argument, "\": it is there twice"));
    }
    word = value;
    return absl::OkStatus();
  }

  DecodedWord DecodeOne(std::string_view name, uint64_t value) const {
    const GuestContext guest = {ept_.physical_address_bits, !options_.no_nxe};
    const int level = static_cast<int>(options_.level);
    if (name == "qualification") return DecodeEptQualification(value, ept_);
    if (name == "ept-entry") return DecodeEptEntry(value, level, ept_);
    if (name == "paging-entry") return DecodePagingEntry(value, level, guest);
    if (name == "page-fault") return DecodePageFault(value);
    if (name == "eptp") return DecodeEptp(value, ept_);
    return DecodeEptCapabilities(value);
  }

  const DecodeOptions& options_;
  EptContext ept_;
  Controls controls_;
  std::vector<std::pair<std::string, uint64_t>> others_;
};

}  // namespace

absl::StatusOr<int> RunDecode(absl::Span<const std::string_view> arguments) {
  DecodeOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> texts, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (texts.empty()) {
    return absl::InvalidArgumentError("needs a WORD=VALUE; see tdp decode --help");
  }
  Words words(options);
  for (const std::string& text : texts) TDP_RETURN_IF_ERROR(words.Add(text));
  const std::vector<DecodedWord> decoded = words.Decode();
  if (decoded.empty()) {
    return absl::InvalidArgumentError("an MSR alone says nothing; give the controls too");
  }
  int status = kExitOk;
  for (const DecodedWord& word : decoded) {
    if (!word.faults.empty()) status = kExitMismatch;
    std::fputs(DecodedText(word).c_str(), stdout);
  }
  return status;
}

}  // namespace tdp::tools
