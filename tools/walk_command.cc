// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/walk_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/decode/ept_words.h"
#include "tdp/tools/decode/guest_words.h"
#include "tdp/tools/image/memory_image.h"
#include "tdp/tools/image/table_walk.h"
#include "tdp/tools/image_options.h"
#include "tdp/tools/number_text.h"
#include "tdp/tools/options.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp walk [OPTION...] IMAGE ADDRESS...\n\n"
    "Walks each ADDRESS through the page tables that lie in IMAGE, the memory of a machine: raw,\n"
    "or an ELF core with physical addresses as QEMU's dump-guest-memory writes; zstd, gzip and xz\n"
    "are looked through. With --cr3, or the registers of a QEMU dump, an ADDRESS is linear; with\n"
    "--eptp alone it is guest-physical; with both the walk has two dimensions. Every reference is\n"
    "shown, then where the address leads, or which exit or fault comes of it. Exit status 1 if an\n"
    "address leads nowhere.\n\n";

struct WalkOptions {
  ImageOptions image;
  WalkAccess access = WalkAccess::kRead;
  bool user = false;
  bool help = false;
};

OptionParser MakeParser(WalkOptions* options) {
  OptionParser parser;
  AddImageOptions(parser, &options->image);
  parser.AddChoice(
      "access", "what is tried", &options->access,
      {{"read", WalkAccess::kRead}, {"write", WalkAccess::kWrite}, {"fetch", WalkAccess::kFetch}});
  parser.AddSwitch("user", "in user mode", &options->user);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

// "PML4E" of a level.
const char* EntryName(int level) {
  static constexpr const char* kNames[] = {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
  return kNames[level];
}

const char* PageName(int level, int shift) {
  if (level == 2 && shift == 22) return "4 MiB";
  static constexpr const char* kNames[] = {"", "4 KiB", "2 MiB", "1 GiB"};
  return kNames[level];
}

std::string StepText(const WalkStep& step, const TableWalker& walker) {
  if (step.is_ept) {
    const std::string rights = EptRightsText(step.entry, walker.roots().mbec);
    return absl::StrFormat("    EPT   %-5s at 0x%012x  0x%016x  %s\n", EntryName(step.level),
                           step.address, step.entry, rights);
  }
  const std::string where =
      walker.roots().eptp.has_value() ? absl::StrFormat(", gpa 0x%x", step.guest_address) : "";
  return absl::StrFormat("  guest   %-5s at 0x%012x  0x%016x  %s%s\n", EntryName(step.level),
                         step.address, step.entry,
                         (step.entry & 1) != 0 ? GuestRightsText(step.entry) : "----", where);
}

std::string MappedText(const TableWalk& walk, const TableWalker& walker) {
  std::string text;
  if (walk.guest_level != 0) {
    absl::StrAppendFormat(&text, "guest page of %s, %s",
                          PageName(walk.guest_level, walker.guest_rules().shift(walk.guest_level)),
                          GuestRightsText(walk.guest_leaf));
  }
  if (walk.ept_level != 0) {
    absl::StrAppendFormat(
        &text, "%sEPT page of %s, %s, %s", text.empty() ? "" : "; ", PageName(walk.ept_level, 0),
        EptRightsText(walk.ept_leaf, walker.roots().mbec), EptTypeText(walk.ept_leaf >> 3 & 7));
  }
  return text;
}

std::string EndText(const TableWalk& walk, const TableWalker& walker) {
  const TableRoots& roots = walker.roots();
  switch (walk.end) {
    case WalkEnd::kMapped:
      return absl::StrFormat("%s0x%x  (%s)",
                             roots.guest.has_value() && roots.eptp.has_value()
                                 ? absl::StrFormat("gpa 0x%x -> ", walk.gpa)
                                 : "",
                             walk.hpa, MappedText(walk, walker));
    case WalkEnd::kNotCanonical:
      return "not a canonical address: #GP";
    case WalkEnd::kPageFault:
      return absl::StrFormat("#PF, error code 0x%x: %s", walk.error_code,
                             DecodePageFault(walk.error_code).summary);
    case WalkEnd::kViolation:
      return absl::StrFormat("EPT violation at gpa 0x%x, exit qualification 0x%x: %s", walk.gpa,
                             walk.qualification,
                             DecodeEptQualification(walk.qualification, {}).summary);
    case WalkEnd::kMisconfiguration: {
      EptContext context;
      context.physical_address_bits = roots.physical_address_bits;
      context.mbec = roots.mbec;
      const DecodedWord word =
          DecodeEptEntry(walk.steps.back().entry, walk.steps.back().level, context);
      return absl::StrFormat("EPT misconfiguration at gpa 0x%x: %s (%s)", walk.gpa,
                             word.faults[0].what, word.faults[0].rule);
    }
    case WalkEnd::kOutsideImage:
      return absl::StrFormat("0x%x is not in the image", walk.hpa);
  }
  return "";
}

std::string WalkText(uint64_t address, const TableWalk& walk, const TableWalker& walker) {
  std::string text =
      absl::StrFormat("%s 0x%x\n", walker.roots().guest.has_value() ? "gva" : "gpa", address);
  for (const WalkStep& step : walk.steps) absl::StrAppend(&text, StepText(step, walker));
  absl::StrAppendFormat(&text, "  -> %s; %d references\n", EndText(walk, walker),
                        walk.steps.size());
  return text;
}

absl::StatusOr<std::vector<uint64_t>> ParseAddresses(const std::vector<std::string>& texts) {
  std::vector<uint64_t> addresses;
  for (size_t i = 1; i < texts.size(); ++i) {
    const absl::StatusOr<uint64_t> address = ParseWord(texts[i]);
    if (!address.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("address \"", absl::CHexEscape(texts[i]),
                                                     "\": ", address.status().message()));
    }
    addresses.push_back(*address);
  }
  return addresses;
}

}  // namespace

absl::StatusOr<int> RunWalk(absl::Span<const std::string_view> arguments) {
  WalkOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> texts, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (texts.size() < 2) {
    return absl::InvalidArgumentError("needs an IMAGE and an ADDRESS; see tdp walk --help");
  }
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> addresses, ParseAddresses(texts));
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<MemoryImage> image,
                       MemoryImage::Open(texts[0], options.image.base.value_or(0)));
  TDP_ASSIGN_OR_RETURN(const TableRoots roots, RootsOf(options.image, *image));
  const TableWalker walker(*image, roots);
  std::string text = absl::StrCat(RootsText(roots), "\n");
  int status = kExitOk;
  for (uint64_t address : addresses) {
    const TableWalk walk = walker.WalkLinear(address, options.access, options.user);
    if (walk.end != WalkEnd::kMapped) status = kExitMismatch;
    absl::StrAppend(&text, WalkText(address, walk, walker));
  }
  std::fputs(text.c_str(), stdout);
  return status;
}

}  // namespace tdp::tools
