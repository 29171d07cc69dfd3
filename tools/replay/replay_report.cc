// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/replay_report.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/tools/printable_text.h"
#include "tdp/tools/replay/machine_report.h"
#include "tdp/tools/replay/option_use.h"
#include "tdp/tools/trace/skip_text.h"

namespace tdp::tools {
namespace {

double Ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }
double Percent(uint64_t part, uint64_t whole) {
  return 100 * Ratio(static_cast<double>(part), static_cast<double>(whole));
}
double PerWalk(uint64_t references, const ReplayReport& report) {
  return Ratio(static_cast<double>(references), static_cast<double>(report.cpu.walks));
}

std::string SizeText(ByteCount bytes) {
  if (bytes != 0 && bytes % GiB(1) == 0) return absl::StrCat(bytes / GiB(1), " GiB");
  if (bytes != 0 && bytes % MiB(1) == 0) return absl::StrCat(bytes / MiB(1), " MiB");
  return absl::StrCat(bytes / KiB(1), " KiB");
}

// One line: what it is about, then what there is to say.
template <typename... Args>
void Line(std::string& out, std::string_view title, const absl::FormatSpec<Args...>& format,
          const Args&... args) {
  absl::StrAppendFormat(&out, "%-12s", title);
  absl::StrAppendFormat(&out, format, args...);
  out += '\n';
}

// Returns whether the CPUs walk an EPT.
bool HasEpt(const ReplayOptions& options) {
  return options.paging == Paging::kEpt || options.paging == Paging::kNested;
}

void AddSetup(std::string& out, const ReplayReport& report) {
  const ReplayOptions& options = report.options;
  Line(out, "trace", "%s: %s accesses (%s fetches, %s loads, %s stores, %s modifies)",
       Printable(report.trace), WithCommas(report.accesses()), WithCommas(report.records[0]),
       WithCommas(report.records[1]), WithCommas(report.records[2]), WithCommas(report.records[3]));
  if (report.skipped.total() != 0) Line(out, "left out", "%s", SkipText(report.skipped));
  Line(out, "guest", "%s of RAM, pages up to %s, %d levels, frames %s", SizeText(options.ram),
       PageName(options.guest_page), options.guest_levels,
       options.shuffled ? "shuffled" : "in order");
  if (HasEpt(options)) {
    Line(out, "EPT", "pages up to %s, %d levels%s%s", PageName(options.ept_page),
         options.ept_levels, options.reverse_map ? ", with a reverse map" : "",
         options.paging == Paging::kNested ? ", of a hypervisor in the guest (EPT12)" : "");
  } else {
    Line(out, "EPT", "none");
  }
  for (const UnusedOption& option : UnusedOptions(options)) {
    if (option.given) Line(out, "not used", "--%s: %s", option.name, option.why);
  }
}

void AddWalks(std::string& out, const ReplayReport& report) {
  const sim::CpuCounters& cpu = report.cpu;
  Line(out, "TLB", "%s hits (%.2f %%), %s misses, caches \"%s\"", WithCommas(cpu.tlb_hits),
       Percent(cpu.tlb_hits, cpu.accesses()), WithCommas(cpu.tlb_misses()),
       report.options.cache.caches);
  if (report.records[0] != 0) {
    Line(out, "", "%.3f misses for each thousand instructions (MPKI)",
         report.misses_per_thousand_instructions());
  }
  Line(out, "", "%s walks more: %s of accesses begun again, %s for a dirty bit or a right",
       WithCommas(cpu.restarts + cpu.assists), WithCommas(cpu.restarts), WithCommas(cpu.assists));
  Line(out, "walks", "%.2f references each: %.2f to guest tables, %.2f to the EPT",
       report.references_per_walk(), PerWalk(cpu.references.guest_total(), report),
       PerWalk(cpu.references.ept_total(), report));
  if (cpu.walk_cycles != 0) {
    Line(out, "cycles", "%.2f a walk, %.3f an access (%s)", report.cycles_per_walk(),
         Ratio(static_cast<double>(cpu.walk_cycles), static_cast<double>(cpu.accesses())),
         report.options.cache.cost);
  }
}

void AddViolations(std::string& out, const ReplayReport& report) {
  const ViolationCounts& violations = report.violations;
  Line(out, "violations", "%s, %.0f ns each in the engine; %s spurious",
       WithCommas(violations.total()), report.nanoseconds_per_violation(),
       WithCommas(violations.spurious));
  Line(out, "", "%-12s %9s %9s %9s", "mapped as", "4 KiB", "2 MiB", "1 GiB");
  for (ViolationCause cause : kViolationCauses) {
    Line(out, "", "%-12s %9s %9s %9s", ViolationCauseName(cause),
         WithCommas(violations.fixed_by(cause, kLevel4K)),
         WithCommas(violations.fixed_by(cause, kLevel2M)),
         WithCommas(violations.fixed_by(cause, kLevel1G)));
  }
}

void AddShadowExits(std::string& out, const ReplayReport& report) {
  const ShadowCounts& exits = report.shadow_exits;
  Line(out, "exits", "%s: %s faults of the shadow, %s of the guest, %s table writes, %s INVLPG",
       WithCommas(exits.total()), WithCommas(exits.fixed + exits.spurious),
       WithCommas(exits.guest_faults), WithCommas(exits.table_writes),
       WithCommas(exits.invalidations));
}

void AddNestedExits(std::string& out, const ReplayReport& report) {
  const NestedCounts& exits = report.nested_exits;
  Line(out, "exits", "%s: %s reflected to the guest's hypervisor, %s fixed, %s spurious",
       WithCommas(exits.total()), WithCommas(exits.reflected), WithCommas(exits.fixed),
       WithCommas(exits.spurious));
}

void AddEptMaps(std::string& out, const ReplayReport& report) {
  const bool nested = report.options.paging == Paging::kNested;
  if (nested) {
    Line(out, "EPT12 maps", "%s pages of 4 KiB, %s of 2 MiB; %s of tables",
         WithCommas(report.ept12_leaves[0]), WithCommas(report.ept12_leaves[1]),
         SizeText(report.ept12_tables.bytes()));
  }
  Line(out, nested ? "EPT02 maps" : "EPT maps",
       "%s pages of 4 KiB, %s of 2 MiB, %s of 1 GiB; %s of tables",
       WithCommas(report.ept.leaves[0]), WithCommas(report.ept.leaves[1]),
       WithCommas(report.ept.leaves[2]), SizeText(report.ept.tables.bytes()));
}

void AddTables(std::string& out, const ReplayReport& report) {
  Line(out, "page faults", "%s in the guest", WithCommas(report.page_faults));
  if (report.options.paging == Paging::kEpt) AddViolations(out, report);
  if (report.options.paging == Paging::kShadow) AddShadowExits(out, report);
  if (report.options.paging == Paging::kNested) AddNestedExits(out, report);
  const uint64_t huge = report.guest_leaves[2];
  Line(out, "guest maps", "%s pages of 4 KiB, %s of 2 MiB%s; %s of tables",
       WithCommas(report.guest_leaves[0]), WithCommas(report.guest_leaves[1]),
       huge == 0 ? "" : absl::StrCat(", ", WithCommas(huge), " of 1 GiB"),
       SizeText(report.guest_tables.bytes()));
  if (HasEpt(report.options)) AddEptMaps(out, report);
}

void AddProcesses(std::string& out, const ReplayReport& report) {
  if (report.per_process.empty()) return;
  const ProcessCounts& counts = report.processes;
  Line(out, "processes", "%d; %s context switches, %s of them with a flush; %s kernel accesses",
       report.per_process.size(), WithCommas(counts.switches), WithCommas(counts.flushes),
       WithCommas(counts.kernel_accesses));
  Line(out, "", "%s shootdowns: %s interrupts, %s flushes put off", WithCommas(counts.shootdowns),
       WithCommas(counts.ipis), WithCommas(counts.deferred));
  constexpr size_t kMostLines = 16;
  for (size_t i = 0; i < report.per_process.size() && i < kMostLines; ++i) {
    const ProcessReport& process = report.per_process[i];
    Line(out, "", "%3d: %s accesses, %s TLB misses, %s page faults", i + 1,
         WithCommas(process.accesses), WithCommas(process.tlb_misses),
         WithCommas(process.page_faults));
  }
}

void AddResult(std::string& out, const ReplayReport& report) {
  const ColdCheck& check = report.check;
  Line(out, "time", "%.3f s, %s accesses a second", absl::ToDoubleSeconds(report.run_time),
       WithCommas(report.accesses_per_second()));
  Line(out, "check", "%s pages walked again from cold, %s accesses to ROM and MMIO: %s mismatches",
       WithCommas(check.pages), WithCommas(check.device_accesses), WithCommas(check.mismatches));
  if (check.mismatches != 0) Line(out, "", "the first: %s", check.first_mismatch);
}

}  // namespace

uint64_t ReplayReport::accesses_per_second() const {
  return static_cast<uint64_t>(
      Ratio(static_cast<double>(accesses()), absl::ToDoubleSeconds(run_time)));
}

double ReplayReport::references_per_walk() const { return PerWalk(cpu.references.total(), *this); }

double ReplayReport::cycles_per_walk() const { return PerWalk(cpu.walk_cycles, *this); }

double ReplayReport::misses_per_thousand_instructions() const {
  return Ratio(1000 * static_cast<double>(cpu.tlb_misses()), static_cast<double>(records[0]));
}

double ReplayReport::nanoseconds_per_violation() const {
  return Ratio(absl::ToDoubleNanoseconds(violations.time), static_cast<double>(violations.total()));
}

std::string ReportText(const ReplayReport& report) {
  std::string out;
  AddSetup(out, report);
  if (report.machine.name.empty()) {
    AddWalks(out, report);
  } else {
    out += MachineText(report);
  }
  out += ObservationsText(report);
  AddTables(out, report);
  AddProcesses(out, report);
  AddResult(out, report);
  return out;
}

std::string WithCommas(uint64_t n) {
  std::string text = absl::StrCat(n);
  for (ptrdiff_t i = static_cast<ptrdiff_t>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(static_cast<size_t>(i), 1, ',');
  }
  return text;
}

}  // namespace tdp::tools
