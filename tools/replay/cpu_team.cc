// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cpu_team.h"

#include <algorithm>

#include "tdp/base/status_macros.h"

namespace tdp::tools {

CpuTeam::CpuTeam(Machine& machine)
    : quantum_(machine.options().quantum), random_(machine.options().seed) {
  for (int i = 0; i < machine.cpus(); ++i) {
    runners_.push_back(std::make_unique<CpuRunner>(machine, i));
  }
}

absl::Status CpuTeam::Run(const Round& round) {
  return runners_.size() == 1 ? runners_[0]->Run(round[0]) : RunInTurns(round);
}

absl::Status CpuTeam::RunInTurns(const Round& round) {
  std::vector<absl::Span<const TraceRecord>> left(round.begin(), round.end());
  std::vector<size_t> busy;  // CPUs with records left
  for (size_t cpu = 0; cpu < left.size(); ++cpu) {
    if (!left[cpu].empty()) busy.push_back(cpu);
  }
  while (!busy.empty()) {
    const size_t choice = random_() % busy.size();
    absl::Span<const TraceRecord>& records = left[busy[choice]];
    const size_t stretch = std::min<uint64_t>(records.size(), 1 + random_() % (2 * quantum_ - 1));
    TDP_RETURN_IF_ERROR(runners_[busy[choice]]->Run(records.first(stretch)));
    records.remove_prefix(stretch);
    if (records.empty()) busy.erase(busy.begin() + static_cast<ptrdiff_t>(choice));
  }
  return absl::OkStatus();
}

}  // namespace tdp::tools
