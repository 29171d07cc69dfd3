// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/exit_cost.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/mmu/machine_file.h"

namespace tdp::tools {
namespace {

// The way out and back, apart from what is done meanwhile: Landau et al., "SplitX", WIOV 2011, on a
// Xeon X5570 under KVM.
constexpr uint64_t kRoundTrip = 2000;

// `instructions`: of this library's host for such an exit while Linux boots.
ExitPrice Measured(uint64_t instructions) {
  return {kRoundTrip + instructions, absl::StrCat("measured: ", kRoundTrip, " out and back, and ",
                                                  instructions, " instructions of the host")};
}

ExitPrice Assumed(uint64_t cycles, std::string_view why) {
  return {cycles, absl::StrCat("assumed: ", why)};
}

}  // namespace

// The prices are those of docs/experiments.md, "A whole operating system". One instruction a cycle
// is assumed.
ExitPrices LinuxBootPrices() {
  ExitPrices prices;
  const auto at = [&prices](ExitCause cause) -> ExitPrice& {
    return prices[static_cast<size_t>(cause)];
  };
  const ExitPrice violation = Measured(995);
  at(ExitCause::kEptViolation) = violation;
  // The mean of all page faults there, the guest's own and writes to its tables among them.
  at(ExitCause::kShadowFault) = Measured(3554);
  at(ExitCause::kGuestFault) = Measured(3554);
  at(ExitCause::kTableWrite) = Measured(3554);
  at(ExitCause::kInvlpg) = Measured(1444);
  at(ExitCause::kCr3Write) = Measured(6409);
  at(ExitCause::kNestedViolation) = Assumed(violation.cycles, "as an EPT violation");
  at(ExitCause::kReflected) = {
      26'000,
      "measured: CPUID of L2 by way of L1, 16 vCPUs, KVM; Linux commit 14c07ad89f4d (2018)"};
  return prices;
}

const char* ExitCauseName(ExitCause cause) {
  static constexpr const char* kNames[kExitCauses] = {"EPT violation",
                                                      "shadow page fault",
                                                      "page fault given to guest",
                                                      "write to a guest table",
                                                      "INVLPG",
                                                      "MOV to CR3",
                                                      "violation by L2",
                                                      "violation reflected to L1"};
  return kNames[static_cast<size_t>(cause)];
}

ExitCounts CountByCause(const ViolationCounts& violations, const ShadowCounts& shadow,
                        const NestedCounts& nested) {
  return {violations.total(),
          shadow.fixed + shadow.spurious,
          shadow.guest_faults,
          shadow.table_writes,
          shadow.invalidations,
          shadow.cr3_writes,
          nested.fixed + nested.spurious,
          nested.reflected};
}

uint64_t CyclesOf(const ExitCounts& counts, const ExitPrices& prices) {
  uint64_t cycles = 0;
  for (size_t cause = 0; cause < kExitCauses; ++cause) {
    cycles += counts[cause] * prices[cause].cycles;
  }
  return cycles;
}

void AddExitCostOptions(OptionParser& parser, ExitCost* cost) {
  parser.AddInteger("exit-cycles",
                    "cycles of any VM exit with its handling; 0: what --exit-prices say",
                    &cost->cycles, 0, 1'000'000'000);
  parser.AddChoice("exit-prices",
                   "one price for all, from the file of --machine or else skylake's; or one by "
                   "cause, as docs/mmu.md lists them",
                   &cost->by_cause, {{"machine", false}, {"linux-boot", true}});
  parser.AddNumber("clock", "of the CPU, gigahertz", &cost->gigahertz, 0.001, 1000);
}

absl::StatusOr<ExitPrices> PricesOf(const ExitCost& cost, const ReplayOptions& options) {
  if (cost.cycles == 0 && cost.by_cause) return LinuxBootPrices();
  ExitPrice any = {cost.cycles, "--exit-cycles"};
  if (cost.cycles == 0) {
    const std::string machine = options.cache.machine.empty() ? "skylake" : options.cache.machine;
    TDP_ASSIGN_OR_RETURN(const sim::MmuConfig config, LoadMachine(machine));
    TDP_ASSIGN_OR_RETURN(std::string name, NameOfCost(machine, "vm-exit"));
    any = {config.vm_exit_cycles, std::move(name)};
  }
  ExitPrices prices;
  prices.fill(any);
  return prices;
}

absl::StatusOr<uint64_t> ExitCycles(const ExitCost& cost, const ReplayOptions& options) {
  TDP_ASSIGN_OR_RETURN(const ExitPrices prices, PricesOf(cost, options));
  return prices[static_cast<size_t>(ExitCause::kEptViolation)].cycles;
}

absl::StatusOr<double> ExitSeconds(const ExitCost& cost, const ReplayOptions& options) {
  TDP_ASSIGN_OR_RETURN(const uint64_t cycles, ExitCycles(cost, options));
  return static_cast<double>(cycles) / (cost.gigahertz * 1e9);
}

}  // namespace tdp::tools
