// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The CPUs of a replay, one after the other on one thread, in an order that a seed decides.

#ifndef TDP_TOOLS_REPLAY_CPU_TEAM_H_
#define TDP_TOOLS_REPLAY_CPU_TEAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"

namespace tdp::tools {

// Used by one thread at a time. The same rounds, options and seed give the same counts every time:
// what one CPU does to the tables of all happens at the same place in the run of every other.
class CpuTeam {
 public:
  // `machine` outlives the team.
  explicit CpuTeam(Machine& machine);

  // Makes all accesses of `round`. A CPU that is chosen makes 1 to 2 * quantum - 1 of them, less at
  // the end of its batch; with one CPU there is nothing to choose. Errors are those of
  // `CpuRunner::Run`.
  absl::Status Run(const Round& round);

  int size() const { return static_cast<int>(runners_.size()); }
  const CpuRunner& runner(int cpu) const { return *runners_[static_cast<size_t>(cpu)]; }

 private:
  absl::Status RunInTurns(const Round& round);

  const uint64_t quantum_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<CpuRunner>> runners_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CPU_TEAM_H_
