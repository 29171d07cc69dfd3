// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/contract.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tdp/judge/generator.h"
#include "tdp/judge/runner.h"

namespace tdp::judge {
namespace {

int Create() { return 0; }
uint64_t Root() { return 0; }
int Map(uint64_t, uint64_t, uint64_t, unsigned, unsigned) { return 0; }
int Change(uint64_t, uint64_t) { return 0; }

tdpj_subject GoodSubject() {
  tdpj_subject subject = {};
  subject.name = "good";
  subject.contract.rights_count = 2;
  subject.contract.rights[0] = TDPJ_R | TDPJ_W;
  subject.contract.rights[1] = TDPJ_R;
  subject.contract.gpa_limit = uint64_t{1} << 40;
  subject.contract.hpa_limit = uint64_t{1} << 40;
  subject.contract.max_order = 9;
  subject.create = Create;
  subject.eptp = Root;
  subject.map = Map;
  subject.unmap = Change;
  return subject;
}

TEST(Misuse, AGoodAdapterIsNone) {
  const tdpj_subject subject = GoodSubject();
  EXPECT_EQ(MisuseOf(&subject), "");
}

TEST(Misuse, IsToldInWordsThatNameTheField) {
  const struct {
    const char* says;
    std::function<void(tdpj_subject&)> spoil;
  } cases[] = {
      {"has no name", [](tdpj_subject& s) { s.name = nullptr; }},
      {"create is null", [](tdpj_subject& s) { s.create = nullptr; }},
      {"eptp is null", [](tdpj_subject& s) { s.eptp = nullptr; }},
      {"map is null", [](tdpj_subject& s) { s.map = nullptr; }},
      {"contract.rights_count is 0", [](tdpj_subject& s) { s.contract.rights_count = 0; }},
      {"contract.rights[1] is 9", [](tdpj_subject& s) { s.contract.rights[1] = 9; }},
      {"W without R", [](tdpj_subject& s) { s.contract.rights[0] = TDPJ_W; }},
      {"contract.type_count is 7", [](tdpj_subject& s) { s.contract.type_count = 7; }},
      {"contract.types[0] is 3",
       [](tdpj_subject& s) {
         s.contract.type_count = 1;
         s.contract.types[0] = 3;
       }},
      {"contract.gpa_limit is 0", [](tdpj_subject& s) { s.contract.gpa_limit = 0; }},
      {"contract.hpa_limit", [](tdpj_subject& s) { s.contract.hpa_limit = ~uint64_t{0}; }},
      {"contract.max_order is 19", [](tdpj_subject& s) { s.contract.max_order = 19; }},
      {"contract.range is 5", [](tdpj_subject& s) { s.contract.range = 5; }},
      {"contract.unmap_hole is 2", [](tdpj_subject& s) { s.contract.unmap_hole = 2; }},
      {"contract.claims", [](tdpj_subject& s) { s.contract.claims = 1u << 20; }},
      {"TDPJ_DEMAND, but fault is null", [](tdpj_subject& s) { s.contract.claims = TDPJ_DEMAND; }},
      {"before_entry is null", [](tdpj_subject& s) { s.contract.flush = TDPJ_FLUSH_BY_ENTRY; }},
      {"dirty logging needs both", [](tdpj_subject& s) { s.dirty_start = Change; }},
      {"dirty_start is null", [](tdpj_subject& s) { s.contract.claims = TDPJ_LOGS_ALL; }},
      {"contract.identity_map is 2", [](tdpj_subject& s) { s.contract.identity_map = 2; }},
      {"contract.min_order is 10", [](tdpj_subject& s) { s.contract.min_order = 10; }},
      {"contract.gpa_limit is 0x1000",
       [](tdpj_subject& s) {
         s.contract.min_order = 1;
         s.contract.gpa_limit = 0x1000;
       }},
      {"contract.initial_size is 0x800", [](tdpj_subject& s) { s.contract.initial_size = 0x800; }},
      {"contract.initial_holes[0] is {0x2000, 0x1000}",
       [](tdpj_subject& s) {
         s.contract.min_order = 1;
         s.contract.initial_size = 0x8000;
         s.contract.initial_holes[0] = {0x2000, 0x1000};
       }},
      {"nothing is ever mapped", [](tdpj_subject& s) { s.contract.map_over = TDPJ_OVER_ONLY; }},
  };
  for (const auto& test : cases) {
    tdpj_subject subject = GoodSubject();
    test.spoil(subject);
    EXPECT_NE(MisuseOf(&subject).find(test.says), std::string::npos)
        << test.says << ": " << MisuseOf(&subject);
  }
  EXPECT_NE(MisuseOf(nullptr), "");
}

TEST(Contract, ForbidsWhatItDoesNotAllow) {
  tdpj_subject subject = GoodSubject();
  FlatMap map;
  map.Map({0x4000, 0x8000, 0, 3, 6, 0x4000, 0x8000}, false);
  const RangeSet logged;
  const auto why = [&](int kind, uint64_t gpa, uint64_t size) {
    const tdpj_step step = {.kind = kind,
                            .gpa = gpa,
                            .hpa = 0,
                            .size = size,
                            .rights = TDPJ_R,
                            .memory_type = 0,
                            .fail_at = 0,
                            .seed = 0};
    const char* text = WhyForbidden(subject, map, logged, step);
    return std::string(text == nullptr ? "" : text);
  };
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0x8000, 0x1000), "");
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0x7000, 0x2000), "something is mapped there");
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0x8000, 0), "not whole pages");
  EXPECT_EQ(why(TDPJ_STEP_MAP, uint64_t{1} << 40, 0x1000), "beyond gpa_limit");
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0, uint64_t{513} << 12), "more pages than max_order says");
  EXPECT_EQ(why(TDPJ_STEP_UNMAP, 0x4000, 0x4000), "");
  EXPECT_EQ(why(TDPJ_STEP_UNMAP, 0x4000, 0x5000), "it meets what is not mapped");
  EXPECT_EQ(why(TDPJ_STEP_UNMAP, 0x4000, 0x1000), "it cuts a mapping");
  subject.contract.unmap_part = 1;
  EXPECT_EQ(why(TDPJ_STEP_UNMAP, 0x4000, 0x1000), "");
  subject.contract.range = TDPJ_RANGE_ORDER;
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0x9000, 0x2000), "gpa is not aligned to the size");
  EXPECT_EQ(why(TDPJ_STEP_MAP, 0x9000, 0x3000), "not 2^n pages");
  EXPECT_EQ(why(TDPJ_STEP_PROTECT, 0x4000, 0x4000), "protect is null");
  EXPECT_EQ(why(TDPJ_STEP_HARVEST, 0x4000, 0x4000), "it is not logged");
}

TEST(Contract, LetsAMapReachTheLimitsAndHaveWhatIsListed) {
  tdpj_subject subject = GoodSubject();
  subject.contract.gpa_limit = 0x10000;
  subject.contract.hpa_limit = 0x20000;
  subject.contract.type_count = 1;
  subject.contract.types[0] = 6;
  FlatMap map;
  const auto why = [&](uint64_t gpa, uint64_t hpa, unsigned rights, unsigned type) {
    const tdpj_step step = {.kind = TDPJ_STEP_MAP,
                            .gpa = gpa,
                            .hpa = hpa,
                            .size = 0x2000,
                            .rights = rights,
                            .memory_type = type,
                            .fail_at = 0,
                            .seed = 0};
    const char* text = WhyForbidden(subject, map, RangeSet(), step);
    return std::string(text == nullptr ? "" : text);
  };
  EXPECT_EQ(why(0xe000, 0x1e000, TDPJ_R | TDPJ_W, 6), "");
  EXPECT_EQ(why(0xe000, 0x1e000, TDPJ_R, 6), "") << "the second of the rights";
  EXPECT_EQ(why(0xf000, 0, TDPJ_R, 6), "beyond gpa_limit");
  EXPECT_EQ(why(0, 0x1f000, TDPJ_R, 6), "beyond hpa_limit");
  EXPECT_EQ(why(0, 0, TDPJ_R | TDPJ_X, 6), "rights that the contract does not list");
  EXPECT_EQ(why(0, 0, TDPJ_R, 0), "a memory type that the contract does not list");
  // Two mappings are not one, nor is what is left of one.
  map.Map({0, 0x1000, 0, 3, 6, 0, 0x1000}, false);
  map.Map({0x1000, 0x2000, 0, 3, 6, 0x1000, 0x2000}, false);
  const tdpj_step both = {.kind = TDPJ_STEP_UNMAP,
                          .gpa = 0,
                          .hpa = 0,
                          .size = 0x2000,
                          .rights = 0,
                          .memory_type = 0,
                          .fail_at = 0,
                          .seed = 0};
  EXPECT_STREQ(WhyForbidden(subject, map, RangeSet(), both), "it is not one mapping");
}

TEST(Contract, CanConfineMapToWhatIsMappedAndToIdentityAndToUnits) {
  tdpj_subject subject = GoodSubject();
  subject.contract.initial_size = 0x8000;
  FlatMap map;
  map.Map({0, 0x8000, 0, 3, 6, 0, 0x8000}, false);
  const auto why = [&](uint64_t gpa, uint64_t hpa, uint64_t size) {
    const tdpj_step step = {.kind = TDPJ_STEP_MAP,
                            .gpa = gpa,
                            .hpa = hpa,
                            .size = size,
                            .rights = TDPJ_R,
                            .memory_type = 0,
                            .fail_at = 0,
                            .seed = 0};
    const char* text = WhyForbidden(subject, map, RangeSet(), step);
    return std::string(text == nullptr ? "" : text);
  };
  subject.contract.map_over = TDPJ_OVER_ONLY;
  EXPECT_EQ(why(0x7000, 0, 0x1000), "");
  EXPECT_EQ(why(0x7000, 0, 0x2000), "it meets what is not mapped");
  subject.contract.identity_map = 1;
  EXPECT_EQ(why(0x7000, 0x7000, 0x1000), "");
  EXPECT_EQ(why(0x7000, 0x8000, 0x1000), "hpa is not gpa");
  subject.contract.identity_map = 0;
  subject.contract.min_order = 1;
  EXPECT_EQ(why(0x4000, 0x2000, 0x2000), "");
  EXPECT_EQ(why(0x4000, 0x2000, 0x1000), "not whole units of min_order");
  EXPECT_EQ(why(0x5000, 0x2000, 0x2000), "not whole units of min_order");
  EXPECT_EQ(why(0x4000, 0x1000, 0x2000), "hpa is not aligned to min_order");
}

TEST(Contract, LogsEverythingOrNothingWhereItSaysSo) {
  tdpj_subject subject = GoodSubject();
  subject.contract.claims = TDPJ_LOGS_ALL;
  subject.dirty_start = Change;
  const uint64_t all = subject.contract.gpa_limit;
  RangeSet logged;
  const auto why = [&](int kind, uint64_t size) {
    const tdpj_step step = {.kind = kind,
                            .gpa = 0,
                            .hpa = 0,
                            .size = size,
                            .rights = 0,
                            .memory_type = 0,
                            .fail_at = 0,
                            .seed = 0};
    const char* text = WhyForbidden(subject, FlatMap(), logged, step);
    return std::string(text == nullptr ? "" : text);
  };
  EXPECT_EQ(why(TDPJ_STEP_DIRTY_START, 0x1000), "it is not everything");
  EXPECT_EQ(why(TDPJ_STEP_DIRTY_START, all), "");
  EXPECT_EQ(why(TDPJ_STEP_HARVEST, all), "it is not logged");
  logged.Add(0, all);
  EXPECT_EQ(why(TDPJ_STEP_DIRTY_START, all), "it is logged");
  EXPECT_EQ(why(TDPJ_STEP_HARVEST, all), "");
  EXPECT_EQ(why(TDPJ_STEP_DIRTY_STOP, all), "dirty_stop is null");
}

TEST(Generator, DrawsOnlyWhatTheContractAllowsAndTheSameFromTheSameSeed) {
  const tdpj_subject subject = GoodSubject();
  Generator one(subject, 7, 0, 0);
  Generator other(subject, 7, 0, 0);
  FlatMap map;
  const RangeSet logged;
  int made = 0;
  for (int i = 0; i < 500; ++i) {
    tdpj_step step;
    tdpj_step same;
    if (!one.Next(map, logged, step)) break;
    ASSERT_TRUE(other.Next(map, logged, same));
    EXPECT_EQ(StepsAsC({step}), StepsAsC({same}));
    ASSERT_EQ(WhyForbidden(subject, map, logged, step), nullptr);
    const uint64_t end = step.gpa + step.size;
    if (step.kind == TDPJ_STEP_MAP) {
      map.Map({step.gpa, end, step.hpa, step.rights, 0, step.gpa, end}, false);
    }
    if (step.kind == TDPJ_STEP_UNMAP) map.Unmap(step.gpa, end);
    ++made;
  }
  EXPECT_GT(made, 50);
}

TEST(StepsText, IsReadBackAsItWasWritten) {
  const std::vector<tdpj_step> steps = {{.kind = TDPJ_STEP_MAP,
                                         .gpa = 0x1000,
                                         .hpa = 0x200000,
                                         .size = 0x3000,
                                         .rights = 5,
                                         .memory_type = 6,
                                         .fail_at = 2,
                                         .seed = 0xffffffffffffffff},
                                        {.kind = TDPJ_STEP_DIRTY_STOP,
                                         .gpa = 0x1000,
                                         .hpa = 0,
                                         .size = 0x1000,
                                         .rights = 0,
                                         .memory_type = 0,
                                         .fail_at = 0,
                                         .seed = 3},
                                        {.kind = TDPJ_STEP_TOUCH,
                                         .gpa = 0x2000,
                                         .hpa = 0,
                                         .size = 0x1000,
                                         .rights = 2,
                                         .memory_type = 0,
                                         .fail_at = 0,
                                         .seed = 4}};
  const std::vector<tdpj_step> read = ParseSteps("a finding\n" + StepsAsC(steps));
  ASSERT_EQ(read.size(), steps.size());
  EXPECT_EQ(StepsAsC(read), StepsAsC(steps));
}

}  // namespace
}  // namespace tdp::judge

// The binary has to have a subject, but no test here runs it.
const tdpj_subject* tdpj_get_subject(void) { return nullptr; }
