// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/explore_contract.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "tdp/judge/contract.h"
#include "tdp/judge/runner.h"

namespace tdp::judge {
namespace {

struct Question {
  const char* what;
  const char* knob;  // and what it would be set to
  bool asked;        // the contract forbids it today
  tdpj_contract contract;
  std::vector<tdpj_step> steps;
};

// Where the questions are asked, so that the rest of the contract allows it.
struct Places {
  explicit Places(const tdpj_contract& contract)
      : unit(kPage << contract.min_order),
        units(contract.range == TDPJ_RANGE_PAGE || contract.max_order < contract.min_order + 2
                  ? 1
                  : 4) {
    const uint64_t apart = 4 * unit;
    // The range that is mapped from the start is left alone, unless nothing else may be mapped.
    const uint64_t taken = contract.map_over == TDPJ_OVER_ONLY ? 0 : contract.initial_size;
    gpa = (taken + 2 * apart - 1) / apart * apart;
    hole = gpa + 2 * apart;
    const uint64_t far = std::max(kPage2M, apart) + apart;
    const bool is_far = far < contract.hpa_limit && contract.hpa_limit - far >= 5 * apart;
    hpa = contract.identity_map != 0 ? gpa : is_far ? far : apart;
    other_hpa = contract.identity_map != 0 ? gpa : hpa + 4 * apart;
  }

  uint64_t unit;   // bytes
  uint64_t units;  // in a range
  uint64_t gpa = 0;
  uint64_t hole = 0;
  uint64_t hpa = 0;
  uint64_t other_hpa = 0;
};

tdpj_step StepOf(int kind, uint64_t gpa, uint64_t hpa, uint64_t bytes, unsigned rights,
                 unsigned type) {
  return {.kind = kind,
          .gpa = gpa,
          .hpa = hpa,
          .size = bytes,
          .rights = rights,
          .memory_type = type,
          .fail_at = 0,
          .seed = 1};
}

// Returns the questions, about a range of four units of the contract, or of what it lets a range
// be.
std::vector<Question> QuestionsFor(const tdpj_subject& subject) {
  const tdpj_contract& now = subject.contract;
  const unsigned rights = now.rights[0];
  const unsigned type = now.type_count == 0 ? 6 : now.types[0];
  const auto [unit, units, gpa, hole, hpa, other_hpa] = Places(now);
  const uint64_t bytes = units * unit;
  const tdpj_step map = StepOf(TDPJ_STEP_MAP, gpa, hpa, bytes, rights, type);
  const auto with = [&now](auto edit) {
    tdpj_contract contract = now;
    edit(contract);
    return contract;
  };
  const tdpj_step again = StepOf(TDPJ_STEP_MAP, gpa, other_hpa, bytes, rights, type);
  const auto over = [&](int value) {
    return with([value](tdpj_contract& c) { c.map_over = value; });
  };
  const auto may = [&](int tdpj_contract::*knob) {
    return with([knob](tdpj_contract& c) { c.*knob = 1; });
  };
  const bool over_asked = now.map_over == TDPJ_OVER_FORBIDDEN;
  const bool unmaps = subject.unmap != nullptr;
  const bool protects = subject.protect != nullptr;
  const auto change = [&](int kind, uint64_t at, uint64_t size) {
    return StepOf(kind, at, 0, size, rights, type);
  };
  return {
      {"map over a mapping replaces it",
       "map_over = TDPJ_OVER_REPLACES",
       over_asked,
       over(TDPJ_OVER_REPLACES),
       {map, again}},
      {"map over a mapping keeps it",
       "map_over = TDPJ_OVER_KEEPS",
       over_asked,
       over(TDPJ_OVER_KEEPS),
       {map, again}},
      {"map over a mapping is an error",
       "map_over = TDPJ_OVER_ERROR",
       over_asked,
       over(TDPJ_OVER_ERROR),
       {map, again}},
      {"unmap of what is not mapped",
       "unmap_hole = 1",
       unmaps && now.unmap_hole == 0,
       may(&tdpj_contract::unmap_hole),
       {map, change(TDPJ_STEP_UNMAP, hole, bytes)}},
      {"unmap of a part of a mapping",
       "unmap_part = 1",
       unmaps && now.unmap_part == 0 && units > 1,
       may(&tdpj_contract::unmap_part),
       {map, change(TDPJ_STEP_UNMAP, gpa, unit)}},
      {"protect of what is not mapped",
       "protect_hole = 1",
       protects && now.protect_hole == 0,
       may(&tdpj_contract::protect_hole),
       {map, change(TDPJ_STEP_PROTECT, hole, bytes)}},
      {"protect of a part of a mapping",
       "protect_part = 1",
       protects && now.protect_part == 0 && units > 1,
       may(&tdpj_contract::protect_part),
       {map, change(TDPJ_STEP_PROTECT, gpa, unit)}},
      {"a range of three pages",
       "range = TDPJ_RANGE_ANY",
       now.range != TDPJ_RANGE_ANY,
       with([](tdpj_contract& c) {
         c.range = TDPJ_RANGE_ANY;
         c.max_order = std::max(c.max_order, c.min_order + 2);
       }),
       {StepOf(TDPJ_STEP_MAP, gpa + unit, hpa + unit, 3 * unit, rights, type)}},
  };
}

}  // namespace

void ExploreContract(const tdpj_subject& subject, StoreView view) {
  bool any = false;
  for (const Question& question : QuestionsFor(subject)) {
    if (!question.asked) continue;
    any = true;
    tdpj_subject asked = subject;
    asked.contract = question.contract;
    Runner runner(asked, view);
    const Verdict verdict = runner.Replay(question.steps);
    // A step that something else in the contract forbids does not run.
    const bool has_run = runner.record().count == question.steps.size();
    std::printf("%-34s %-32s %s\n", question.what, question.knob,
                verdict.found ? (verdict.signature + ": " + verdict.sentence).c_str()
                : has_run     ? "works: the knob may be set"
                              : "not asked: the limits of the contract leave no room for it");
  }
  if (!any) std::printf("the contract forbids nothing\n");
}

}  // namespace tdp::judge
