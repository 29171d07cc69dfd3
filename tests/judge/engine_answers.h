// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Subjects tell the judge the engine's answers by these functions.

#ifndef TDP_TESTS_JUDGE_ENGINE_ANSWERS_H_
#define TDP_TESTS_JUDGE_ENGINE_ANSWERS_H_

#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge_test {

// Ends the run unless the call has succeeded: nothing but a fault of the engine can make it fail.
inline void Expect(const absl::Status& status) {
  if (!status.ok()) tdpj_fatal(status.ToString().c_str());
}

// Returns whether the guest may try again after this answer to its fault. The host may refuse a
// page; any other error is the engine's.
template <typename Result>
bool MayTryAgain(const Result& result) {
  using Outcome = decltype(result.outcome);
  if (!absl::IsNotFound(result.status) && !absl::IsPermissionDenied(result.status)) {
    Expect(result.status);
  }
  return result.outcome == Outcome::kFixed || result.outcome == Outcome::kSpurious ||
         result.outcome == Outcome::kRetry;
}

// Shows the pages of `dirty` that lie in [gpa, gpa + size) and takes them out.
inline void HarvestFrom(std::set<uint64_t>& dirty, uint64_t gpa, uint64_t size,
                        void (*page)(uint64_t)) {
  const auto begin = dirty.lower_bound(gpa);
  const auto end = dirty.lower_bound(gpa + size);
  for (auto at = begin; at != end; ++at) page(*at);
  dirty.erase(begin, end);
}

}  // namespace tdp::judge_test

#endif  // TDP_TESTS_JUDGE_ENGINE_ANSWERS_H_
