// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Gives VM exits a price, so that counts of them become time.

#ifndef TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_
#define TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/nested_counts.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/shadow_counts.h"
#include "tdp/tools/replay/violation_counts.h"

namespace tdp::tools {

// Every exit that a replay counts is of one of these.
enum class ExitCause : uint8_t {
  kEptViolation,
  kShadowFault,      // a page fault that the shadow answers
  kGuestFault,       // a page fault that is the guest's own
  kTableWrite,       // of a shadowed guest's kernel
  kInvlpg,           // under a shadow
  kCr3Write,         // under a shadow
  kNestedViolation,  // that EPT02 answers
  kReflected,        // a violation given to the hypervisor in the guest
};
inline constexpr size_t kExitCauses = 8;
const char* ExitCauseName(ExitCause cause);

using ExitCounts = std::array<uint64_t, kExitCauses>;
// The sum is that of the three totals.
ExitCounts CountByCause(const ViolationCounts& violations, const ShadowCounts& shadow,
                        const NestedCounts& nested);

struct ExitPrice {
  uint64_t cycles = 0;  // of the way out and back, and of what the host does meanwhile
  std::string source;
};
using ExitPrices = std::array<ExitPrice, kExitCauses>;

// Cycles of all the exits together.
uint64_t CyclesOf(const ExitCounts& counts, const ExitPrices& prices);

struct ExitCost {
  uint64_t cycles = 0;     // of any exit with its handling; 0: what `prices` say
  bool by_cause = false;   // the preset "linux-boot"; else what the machine file says, for any
  double gigahertz = 3.0;  // of the CPU's clock
};

// Returns the preset "linux-boot".
ExitPrices LinuxBootPrices();

// Declares --exit-cycles, --exit-prices and --clock.
void AddExitCostOptions(OptionParser& parser, ExitCost* cost);

// The price of each cause: the one number given, or a preset's, or what the file of the replay's
// machine, else Skylake's, says of any exit. The errors of `LoadMachine`.
absl::StatusOr<ExitPrices> PricesOf(const ExitCost& cost, const ReplayOptions& options);

// Returns the cycles of an EPT violation.
absl::StatusOr<uint64_t> ExitCycles(const ExitCost& cost, const ReplayOptions& options);
absl::StatusOr<double> ExitSeconds(const ExitCost& cost, const ReplayOptions& options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_
