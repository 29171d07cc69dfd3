// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what a run of a subject leaves for whoever started it, in memory that outlives the process.

#ifndef TDP_JUDGE_FINDING_H_
#define TDP_JUDGE_FINDING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

inline constexpr size_t kMaxSteps = 512;

struct Finding {
  // class[.detail].operation: the same fault has the same signature in every run.
  char signature[96];
  char sentence[640];
  // The instruction behind it, a store or a crash, and the call that led to its function; 0: not
  // known.
  uint64_t pc;
  uint64_t caller;
  // The adapter is at fault, not the subject.
  bool misuse;
};

// Written by a process that runs a subject, read by its parent after it ended, however it ended.
struct Record {
  std::atomic<uint64_t> operations;
  std::atomic<uint64_t> sequences;
  std::atomic<uint64_t> looks;          // exact walks
  std::atomic<uint64_t> store_looks;    // of these, between stores
  std::atomic<uint64_t> stores;         // seen stores to linked tables
  std::atomic<uint64_t> unseen_stores;  // found by comparison only
  std::atomic<uint64_t> announced;      // stores to any frame that a hook or a trap told of
  std::atomic<bool> in_subject;
  std::atomic<bool> has_finding;
  std::atomic<bool> finished;     // the process came to the end of what it was to run
  std::atomic<uint64_t> hung_at;  // the instruction at which a step was given up; 0: none was
  Finding finding;
  // Steps of a replay that were not run: how many, and the first of them (counted from 1) with why.
  size_t left_out;
  size_t first_left_out;
  char why_left_out[96];
  // The sequence under way, and how many steps of it were begun.
  size_t count;
  tdpj_step steps[kMaxSteps];
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_FINDING_H_
