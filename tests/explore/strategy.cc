// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/strategy.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/check.h"

namespace tdp::explore {
namespace {

// Returns the `n`th thread of `set`.
int NthOf(ThreadSet set, uint64_t n) {
  for (; n > 0; --n) set &= set - 1;
  return std::countr_zero(set);
}

// Returns how old a value a load sees: three loads of four see the newest; an old one is more often
// the one before it.
int RandomAge(Random& random, int values) {
  if (random.Below(4) != 0) return 0;
  return 1 + static_cast<int>(std::min(random.Below(static_cast<uint64_t>(values - 1)),
                                       random.Below(static_cast<uint64_t>(values - 1))));
}

}  // namespace

std::string Schedule::ToCpp() const {
  std::string cpp = "{.turns = {";
  const char* comma = "";
  for (const Turn& turn : turns) {
    absl::StrAppend(&cpp, comma, "{", turn.step, ", ", turn.thread, "}");
    comma = ", ";
  }
  absl::StrAppend(&cpp, "}");
  if (!old_reads.empty()) {
    absl::StrAppend(&cpp, ", .old_reads = {");
    comma = "";
    for (const OldRead& read : old_reads) {
      absl::StrAppend(&cpp, comma, "{", read.step, ", ", read.age, "}");
      comma = ", ";
    }
    absl::StrAppend(&cpp, "}");
  }
  return absl::StrCat(cpp, "}");
}

int DefaultThread(const Situation& situation) {
  if (situation.current_is_able()) return situation.current;
  const ThreadSet after = situation.able & (~ThreadSet{1} << situation.current);
  return std::countr_zero(after != 0 ? after : situation.able);
}

int ReplayStrategy::Choose(const Situation& situation) {
  const auto& turns = schedule_.turns;
  while (turn_ < turns.size() && turns[turn_].step < situation.step) ++turn_;
  if (turn_ < turns.size() && turns[turn_].step == situation.step) {
    const int thread = turns[turn_++].thread;
    if ((situation.able >> thread & 1) != 0) return thread;
  }
  return DefaultThread(situation);
}

int ReplayStrategy::ChooseAge(uint64_t step, int values) {
  const auto& reads = schedule_.old_reads;
  while (read_ < reads.size() && reads[read_].step < step) ++read_;
  if (read_ == reads.size() || reads[read_].step != step) return 0;
  return std::min(reads[read_].age, values - 1);
}

RandomWalk::RandomWalk(uint64_t seed, uint64_t steps, uint64_t switches)
    : random_(seed), gap_(std::max<uint64_t>(1, 2 * steps / std::max<uint64_t>(1, switches))) {
  next_ = 1 + random_.Below(gap_);
}

int RandomWalk::Choose(const Situation& situation) {
  const auto others = situation.able & ~(ThreadSet{1} << situation.current);
  if (situation.current_is_able()) {
    if (situation.step < next_) return situation.current;
    next_ = situation.step + 1 + random_.Below(gap_);
    if (others == 0) return situation.current;
  }
  return NthOf(others, random_.Below(static_cast<uint64_t>(std::popcount(others))));
}

int RandomWalk::ChooseAge(uint64_t /*step*/, int values) { return RandomAge(random_, values); }

Pct::Pct(uint64_t seed, int threads, const StepCounts& expected, int changes) : random_(seed) {
  for (int i = 0; i < threads; ++i) priority_[i] = i;
  for (int i = threads - 1; i > 0; --i) {
    std::swap(priority_[i], priority_[random_.Below(static_cast<uint64_t>(i) + 1)]);
  }
  std::vector<Step> kinds;
  for (size_t kind = 0; kind < expected.size(); ++kind) {
    if (expected[kind] != 0) kinds.push_back(static_cast<Step>(kind));
  }
  for (int i = 0; i < changes && !kinds.empty(); ++i) {
    const Step kind = kinds[random_.Below(kinds.size())];
    changes_.push_back({kind, 1 + random_.Below(expected[static_cast<size_t>(kind)])});
  }
}

int Pct::Choose(const Situation& situation) {
  const uint64_t count = ++seen_[static_cast<size_t>(situation.kind)];
  // A thread that waits for others lets them finish: a spin must not starve what it waits for.
  bool falls = situation.kind == Step::kPause;
  for (const ChangePoint& change : changes_) {
    falls |= change.kind == situation.kind && change.count == count;
  }
  if (falls) priority_[situation.current] = --lowest_;
  int best = std::countr_zero(situation.able);
  for (ThreadSet rest = situation.able; rest != 0; rest &= rest - 1) {
    const int thread = std::countr_zero(rest);
    if (priority_[thread] > priority_[best]) best = thread;
  }
  return best;
}

int Pct::ChooseAge(uint64_t /*step*/, int values) { return RandomAge(random_, values); }

}  // namespace tdp::explore
