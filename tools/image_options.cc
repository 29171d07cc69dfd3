// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image_options.h"

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/number_text.h"

namespace tdp::tools {
namespace {

constexpr std::pair<std::string_view, sim::PagingMode> kModes[] = {
    {"none", sim::PagingMode::kNone},
    {"32bit", sim::PagingMode::k32Bit},
    {"pae", sim::PagingMode::kPae},
    {"4-level", sim::PagingMode::k4Level},
    {"5-level", sim::PagingMode::k5Level}};

// A dump says nothing of EFER. A CPU with PAE is taken to be in long mode if its CR3 has bits that
// the other mode does not have, or the file is of a machine in long mode, as most are today.
sim::PagingMode ModeOf(const MemoryImage::CpuRegisters& cpu) {
  if ((cpu.cr0 & sim::kCr0Pg) == 0) return sim::PagingMode::kNone;
  if ((cpu.cr4 & sim::kCr4Pae) == 0) return sim::PagingMode::k32Bit;
  return (cpu.cr4 & sim::kCr4La57) != 0 ? sim::PagingMode::k5Level : sim::PagingMode::k4Level;
}

absl::Status CheckEptp(const ImageOptions& options) {
  const absl::Status status =
      Eptp(*options.eptp).Check(EptCapabilities::All(), static_cast<int>(options.maxphyaddr));
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("--eptp: ", status.message()));
}

absl::StatusOr<sim::Registers> GuestOf(const ImageOptions& options, const MemoryImage& image) {
  if (options.cr3.has_value()) {
    return GuestRegisters(options.guest_paging.value_or(sim::PagingMode::k4Level), *options.cr3);
  }
  if (options.cpu >= image.cpus().size()) {
    return absl::InvalidArgumentError(
        image.cpus().empty()
            ? absl::StrCat("needs --cr3 or --eptp; ", image.name(), " says nothing of registers")
            : absl::StrCat("--cpu ", options.cpu, ": ", image.name(), " notes ",
                           image.cpus().size(), " CPUs, from 0"));
  }
  const MemoryImage::CpuRegisters& cpu = image.cpus()[options.cpu];
  sim::Registers registers = GuestRegisters(options.guest_paging.value_or(ModeOf(cpu)), cpu.cr3);
  constexpr uint64_t kRules = sim::kCr4Smep | sim::kCr4Smap;
  registers.cr4 |= cpu.cr4 & kRules;
  if (registers.cr0 & sim::kCr0Pg)
    registers.cr0 = (registers.cr0 & ~sim::kCr0Wp) | (cpu.cr0 & sim::kCr0Wp);
  return registers;
}

}  // namespace

void AddImageOptions(OptionParser& parser, ImageOptions* options) {
  AddWord(parser, "eptp", "EPT pointer; without it guest-physical addresses are the image's",
          &options->eptp);
  AddWord(parser, "cr3", "of the guest; without --cr3 and --eptp that of --cpu in a QEMU dump",
          &options->cr3);
  std::string form;
  for (const auto& mode : kModes) absl::StrAppend(&form, form.empty() ? "" : "|", mode.first);
  parser.Add("guest-paging", form, "the guest's paging; else as the dump says, or 4-level", "",
             [options, form](std::string_view text) -> absl::Status {
               for (const auto& [name, mode] : kModes) {
                 if (text != name) continue;
                 options->guest_paging = mode;
                 return absl::OkStatus();
               }
               return absl::InvalidArgumentError("must be " + form);
             });
  parser.AddInteger("cpu", "whose registers of a QEMU dump count", &options->cpu, 0, 65535);
  AddWord(parser, "base", "physical address of the first byte of a raw image", &options->base);
  parser.AddSwitch("mbec", "\"mode-based execute control for EPT\" is 1", &options->mbec);
  parser.AddInteger("maxphyaddr", "bits of a physical address", &options->maxphyaddr, 32, 52);
}

absl::StatusOr<TableRoots> RootsOf(const ImageOptions& options, const MemoryImage& image) {
  TableRoots roots;
  roots.mbec = options.mbec;
  roots.physical_address_bits = static_cast<int>(options.maxphyaddr);
  if (options.eptp.has_value()) {
    TDP_RETURN_IF_ERROR(CheckEptp(options));
    roots.eptp = Eptp(*options.eptp);
  }
  if (options.cr3.has_value() || !options.eptp.has_value()) {
    TDP_ASSIGN_OR_RETURN(roots.guest, GuestOf(options, image));
  }
  return roots;
}

std::string RootsText(const TableRoots& roots) {
  std::string text;
  if (roots.guest.has_value()) {
    const sim::PagingMode mode = sim::PagingModeOf(*roots.guest);
    absl::StrAppendFormat(&text, "CR3 0x%x (%s)", roots.guest->cr3,
                          kModes[static_cast<size_t>(mode)].first);
  }
  if (roots.eptp.has_value()) {
    absl::StrAppendFormat(&text, "%sEPTP 0x%x", text.empty() ? "" : ", ", roots.eptp->raw());
  }
  return text;
}

}  // namespace tdp::tools
