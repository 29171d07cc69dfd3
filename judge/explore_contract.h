// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Finds out what a subject does with what its contract forbids: a help in setting the knobs.

#ifndef TDP_JUDGE_EXPLORE_CONTRACT_H_
#define TDP_JUDGE_EXPLORE_CONTRACT_H_

#include "tdp/judge/session.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

// Does each forbidden thing once, in a process of its own, and prints what came of it: an error,
// a success with the tables as before or as after, a finding, a crash.
void ExploreContract(const tdpj_subject& subject, StoreView view);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_EXPLORE_CONTRACT_H_
