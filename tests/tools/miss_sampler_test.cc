// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests hold estimated miss curves beside those of every access.

#include "tdp/tools/replay/miss_sampler.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/page_filter.h"
#include "tdp/tools/replay/page_profile.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kOffset = 8;

TraceRecord Load(uint64_t page) {
  return TraceRecord::Make(Gva(page << 12 | kOffset), AccessKind::kLoad, 3);
}

using Program = std::function<uint64_t(uint64_t access, std::mt19937_64& random)>;

std::vector<TraceRecord> AccessesOf(const Program& program, size_t accesses) {
  std::mt19937_64 random(7);
  std::vector<TraceRecord> records;
  for (size_t i = 0; i < accesses; ++i) records.push_back(Load(program(i, random)));
  return records;
}

// Returns a page below `pages`, with a low number more often than not.
uint64_t Skewed(std::mt19937_64& random, uint64_t pages) {
  return random() % (1 + random() % (1 + random() % pages));
}

const std::vector<Program>& Programs() {
  static const std::vector<Program> programs = {
      // Touches anything in 64 MiB, and code.
      [](uint64_t i, std::mt19937_64& random) { return i % 2 == 0 ? 5 : 4096 + random() % 16384; },
      // Touches a few hot pages, and many cold ones.
      [](uint64_t, std::mt19937_64& random) { return Skewed(random, 3000); },
      // Goes round 1,000 pages, with 50 accesses to each, beside the stack.
      [](uint64_t i, std::mt19937_64&) { return i % 3 == 0 ? 90000 : i / 50 % 1000; },
      // Has phases of 300 pages each, of which a third is ever the same.
      [](uint64_t i, std::mt19937_64& random) {
        return random() % 3 == 0 ? random() % 100 : 1000 * (1 + i / 300000) + random() % 200;
      },
      // Goes all over 4 GiB, with pages of 2 MiB that are used for a while.
      [](uint64_t i, std::mt19937_64& random) {
        return (i / 700 * 0x9e3779b97f4a7c15 >> 53) * 512 + Skewed(random, 512);
      }};
  return programs;
}

// Returns the misses by the number of entries; past its end a curve stays as it is.
uint64_t MissesAt(const MissCurve& curve, uint64_t entries) {
  const auto place = std::find(curve.entries.begin(), curve.entries.end(), entries);
  return place == curve.entries.end() ? curve.misses.back()
                                      : curve.misses[place - curve.entries.begin()];
}

uint64_t Accesses(const DistanceCounts& counts) {
  uint64_t all = counts.cold;
  for (const uint64_t uses : counts.uses) all += uses;
  return all;
}

TEST(MissSampler, IsNearTheExactCurveForProgramsOfEveryKind) {
  constexpr size_t kAccesses = 2'000'000;
  for (size_t number = 0; number < Programs().size(); ++number) {
    const std::vector<TraceRecord> records = AccessesOf(Programs()[number], kAccesses);
    PageProfile profile;
    MissSampler sampler(/*seed=*/1);
    for (size_t first = 0; first < records.size(); first += 10'007) {
      profile.Add(absl::MakeConstSpan(records).subspan(first, 10'007));
      sampler.Add(absl::MakeConstSpan(records).subspan(first, 10'007));
    }
    profile.Settle();
    sampler.Settle();
    EXPECT_FALSE(sampler.is_exact());
    for (size_t size = 0; size < PageProfile::kSizes; ++size) {
      const MissCurve exact = MakeMissCurve(4096, profile.counts(size));
      const DistanceCounts estimate = sampler.Estimate(size);
      EXPECT_EQ(Accesses(estimate), kAccesses);
      const MissCurve sampled = MakeMissCurve(4096, estimate);
      for (size_t i = 0; i < exact.entries.size(); ++i) {
        const auto want = static_cast<double>(exact.misses[i]);
        const auto got = static_cast<double>(MissesAt(sampled, exact.entries[i]));
        // An eighth of the pages stands for all where a distance is long.
        EXPECT_NEAR(got, want, 0.15 * want + 0.001 * kAccesses)
            << "program " << number << ", size " << size << ", " << exact.entries[i] << " entries";
      }
    }
  }
}

TEST(MissSampler, IsExactForAShortRun) {
  for (const Program& program : Programs()) {
    const std::vector<TraceRecord> records = AccessesOf(program, MissSampler::kFirstStretch);
    PageProfile profile;
    MissSampler sampler(/*seed=*/1);
    profile.Add(records);
    sampler.Add(absl::MakeConstSpan(records).first(100));
    sampler.Add(absl::MakeConstSpan(records).subspan(100));
    profile.Settle();
    sampler.Settle();
    for (size_t size = 0; size < PageProfile::kSizes; ++size) {
      const MissCurve exact = MakeMissCurve(4096, profile.counts(size));
      const MissCurve sampled = MakeMissCurve(4096, sampler.Estimate(size));
      EXPECT_EQ(sampled.pages, exact.pages);
      for (const uint64_t entries : exact.entries) {
        EXPECT_EQ(MissesAt(sampled, entries), MissesAt(exact, entries)) << entries;
      }
    }
  }
}

TEST(MissSampler, CountsNothingOfAWarmUp) {
  const std::vector<TraceRecord> records = AccessesOf(Programs()[1], 600'000);
  MissSampler sampler(/*seed=*/1);
  sampler.Add(absl::MakeConstSpan(records).first(200'000));
  sampler.ClearCounts();
  sampler.Add(absl::MakeConstSpan(records).subspan(200'000));
  sampler.Settle();
  const DistanceCounts counts = sampler.Estimate(0);
  EXPECT_EQ(Accesses(counts), 400'000u);
  EXPECT_FALSE(sampler.is_exact());
}

TEST(MissSampler, AnswersTheSameForTheSameSeed) {
  const std::vector<TraceRecord> records = AccessesOf(Programs()[3], 500'000);
  std::vector<std::vector<uint64_t>> answers;
  for (const uint64_t seed : {1, 1, 2}) {
    MissSampler sampler(seed);
    sampler.Add(records);
    sampler.Settle();
    answers.push_back(sampler.Estimate(0).uses);
  }
  EXPECT_EQ(answers[0], answers[1]);
  EXPECT_NE(answers[0], answers[2]);
}

TEST(MissSampler, SaysNothingOfARunWithoutAccesses) {
  MissSampler sampler(/*seed=*/1);
  sampler.Settle();
  EXPECT_EQ(Accesses(sampler.Estimate(0)), 0u);
}

// The filter that looks at sixteen records at once must choose as the one that looks at one.
TEST(PageFilter, ChoosesTheSameOneByOneAndTogether) {
  std::mt19937_64 random(1);
  std::vector<TraceRecord> records;
  for (int i = 0; i < 100'000; ++i) records.push_back(Load(random() >> 20));
  for (const size_t count : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, records.size()}) {
    const auto some = absl::MakeConstSpan(records).first(count);
    std::vector<uint64_t> small;
    std::vector<uint64_t> large;
    PageFilter<12>::ForEach(some, [&small](uint64_t page) { small.push_back(page); });
    PageFilter<21>::ForEach(some, [&large](uint64_t page) { large.push_back(page); });
    std::vector<uint64_t> want_small;
    std::vector<uint64_t> want_large;
    for (const TraceRecord record : some) {
      const uint64_t gva = record.gva().raw();
      if (PageFilter<12>::Chooses(gva >> 12)) want_small.push_back(gva >> 12);
      if (PageFilter<21>::Chooses(gva >> 21)) want_large.push_back(gva >> 21);
    }
    EXPECT_EQ(small, want_small);
    EXPECT_EQ(large, want_large);
  }
}

TEST(PageFilter, ChoosesAnEighthOfPagesAtAnyStride) {
  constexpr uint64_t kPages = 100'000;
  for (const uint64_t stride : {1, 2, 3, 16, 64, 100, 512, 4096, 65536}) {
    uint64_t chosen = 0;
    for (uint64_t i = 0; i < kPages; ++i) {
      chosen += PageFilter<12>::Chooses(0x7f0000000 + i * stride) ? 1 : 0;
    }
    EXPECT_NEAR(static_cast<double>(chosen) / kPages, 1.0 / PageFilter<12>::kOneOf, 0.02) << stride;
  }
}

}  // namespace
}  // namespace tdp::tools
