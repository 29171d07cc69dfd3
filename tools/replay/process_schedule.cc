// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/process_schedule.h"

#include <algorithm>

namespace tdp::tools {

ProcessSchedule::ProcessSchedule(const Options& options)
    : options_(options), random_(options.seed), cpus_(options.cpus), left_(options.processes, 0) {
  for (size_t process = 0; process < options.processes; ++process) waiting_.push_back(process);
}

void ProcessSchedule::BeginRound(absl::Span<const uint64_t> accesses) {
  left_.assign(accesses.begin(), accesses.end());
}

std::deque<size_t>::iterator ProcessSchedule::FirstWaiting() {
  return std::find_if(waiting_.begin(), waiting_.end(),
                      [this](size_t process) { return HasWork(process); });
}

std::optional<ProcessSchedule::Turn> ProcessSchedule::Next() {
  auto next = FirstWaiting();
  std::vector<size_t> ready;
  for (size_t cpu = 0; cpu < cpus_.size(); ++cpu) {
    if (next != waiting_.end() || HasWork(cpus_[cpu].process)) ready.push_back(cpu);
  }
  if (ready.empty()) return std::nullopt;
  Turn turn;
  turn.cpu = ready[ready.size() == 1 ? 0 : random_() % ready.size()];
  CpuState& cpu = cpus_[turn.cpu];
  if (!HasWork(cpu.process) || (cpu.slice == 0 && next != waiting_.end())) {
    const size_t taken = *next;
    waiting_.erase(next);
    if (cpu.process != kNobody) waiting_.push_back(cpu.process);
    cpu.process = taken;
    cpu.slice = 0;
    turn.switched = true;
  }
  if (cpu.slice == 0) cpu.slice = Draw(options_.timeslice);
  turn.process = cpu.process;
  turn.accesses = std::min(left_[cpu.process], cpu.slice);
  if (cpus_.size() > 1) turn.accesses = std::min(turn.accesses, Draw(options_.quantum));
  left_[cpu.process] -= turn.accesses;
  cpu.slice -= turn.accesses;
  return turn;
}

}  // namespace tdp::tools
