// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/explore_contract.h"

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

tdpj_step StepOf(int kind, uint64_t gpa, uint64_t hpa, uint64_t pages, unsigned rights,
                 unsigned type) {
  return {.kind = kind,
          .gpa = gpa,
          .hpa = hpa,
          .size = pages * kPage,
          .rights = rights,
          .memory_type = type,
          .fail_at = 0,
          .seed = 1};
}

// Returns the questions, about a range of four pages, or of what the contract lets a range be.
std::vector<Question> QuestionsFor(const tdpj_subject& subject) {
  const tdpj_contract& now = subject.contract;
  const unsigned rights = now.rights[0];
  const unsigned type = now.type_count == 0 ? 6 : now.types[0];
  const uint64_t pages = now.range == TDPJ_RANGE_PAGE || now.max_order < 2 ? 1 : 4;
  const uint64_t gpa = 4 * kPage;
  const uint64_t hpa = kPage2M + 4 * kPage;
  const tdpj_step map = StepOf(TDPJ_STEP_MAP, gpa, hpa, pages, rights, type);
  const auto with = [&now](auto edit) {
    tdpj_contract contract = now;
    edit(contract);
    return contract;
  };
  const tdpj_step again = StepOf(TDPJ_STEP_MAP, gpa, 2 * hpa, pages, rights, type);
  const auto over = [&](int value) {
    return with([value](tdpj_contract& c) { c.map_over = value; });
  };
  const auto may = [&](int tdpj_contract::*knob) {
    return with([knob](tdpj_contract& c) { c.*knob = 1; });
  };
  const bool over_asked = now.map_over == TDPJ_OVER_FORBIDDEN;
  const bool unmaps = subject.unmap != nullptr;
  const bool protects = subject.protect != nullptr;
  const auto change = [&](int kind, uint64_t at, uint64_t n) {
    return StepOf(kind, at, 0, n, rights, type);
  };
  const uint64_t hole = 64 * kPage;
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
       {map, change(TDPJ_STEP_UNMAP, hole, pages)}},
      {"unmap of a part of a mapping",
       "unmap_part = 1",
       unmaps && now.unmap_part == 0 && pages > 1,
       may(&tdpj_contract::unmap_part),
       {map, change(TDPJ_STEP_UNMAP, gpa, 1)}},
      {"protect of what is not mapped",
       "protect_hole = 1",
       protects && now.protect_hole == 0,
       may(&tdpj_contract::protect_hole),
       {map, change(TDPJ_STEP_PROTECT, hole, pages)}},
      {"protect of a part of a mapping",
       "protect_part = 1",
       protects && now.protect_part == 0 && pages > 1,
       may(&tdpj_contract::protect_part),
       {map, change(TDPJ_STEP_PROTECT, gpa, 1)}},
      {"a range of three pages",
       "range = TDPJ_RANGE_ANY",
       now.range != TDPJ_RANGE_ANY,
       with([](tdpj_contract& c) {
         c.range = TDPJ_RANGE_ANY;
         if (c.max_order < 2) c.max_order = 2;
       }),
       {StepOf(TDPJ_STEP_MAP, gpa + kPage, hpa + kPage, 3, rights, type)}},
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
    std::printf("%-34s %-32s %s\n", question.what, question.knob,
                verdict.found ? (verdict.signature + ": " + verdict.sentence).c_str()
                              : "works: the knob may be set");
  }
  if (!any) std::printf("the contract forbids nothing\n");
}

}  // namespace tdp::judge
