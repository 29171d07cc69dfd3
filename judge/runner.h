// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Runs a subject in processes of their own, so that a crash and a hang are findings too, and makes
// sequences short.

#ifndef TDP_JUDGE_RUNNER_H_
#define TDP_JUDGE_RUNNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tdp/judge/finding.h"
#include "tdp/judge/session.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

// A finding as it is told.
struct Verdict {
  bool found = false;
  bool misuse = false;
  std::string signature;
  std::string sentence;
  std::string place;  // "file:line (function)" of the store or crash; empty: not known
  std::vector<tdpj_step> steps;
};

struct RunLimits {
  uint64_t operations = ~uint64_t{0};
  double seconds = 1e9;
};

class Runner {
 public:
  Runner(const tdpj_subject& subject, StoreView view);

  // Random sequences from `seed` on until something is found or a limit is reached. `next_seed` is
  // where to go on.
  Verdict Explore(uint64_t seed, const RunLimits& limits, uint64_t& next_seed);
  // These steps alone.
  Verdict Replay(const std::vector<tdpj_step>& steps);
  // Returns a shorter and simpler sequence of the same signature.
  Verdict Shrink(Verdict verdict);

  const Record& record() const { return *record_; }

 private:
  template <typename Body>
  Verdict InChild(Body body);
  Verdict TakeVerdict(int status, bool hung);

  const tdpj_subject& subject_;
  const StoreView view_;
  Record* record_;
  bool quiet_ = false;  // what subjects print is dropped
};

// Runs random sequences in this process until a limit.
void RunSequences(Session& session, Record& record, uint64_t seed, const RunLimits& limits);

// Returns the source of an instruction of this program, by addr2line if there is one.
std::string PlaceOf(uint64_t pc);

// Returns the steps as C, to paste into a test.
std::string StepsAsC(const std::vector<tdpj_step>& steps);
// Reads what `StepsAsC` wrote, and whatever stands around it.
std::vector<tdpj_step> ParseSteps(const std::string& text);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_RUNNER_H_
