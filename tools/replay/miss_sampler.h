// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Stack distances estimated from parts of a run, for pages of 4 KiB, 2 MiB and 1 GiB.
//
// Short distances are frequent, and show in a few thousand accesses: some stretches of the run are
// counted exactly. What a stretch sees of a page for the first time has a distance of at least the
// pages seen in it so far, a value censored by chance, for which Kaplan and Meier's estimator is
// made ("Nonparametric Estimation from Incomplete Observations", JASA 1958).
//
// Long distances are rare, but span many pages: there one page in eight stands for all of them, at
// an eighth of the distance (Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST
// 2015).

#ifndef TDP_TOOLS_REPLAY_MISS_SAMPLER_H_
#define TDP_TOOLS_REPLAY_MISS_SAMPLER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "tdp/tools/replay/distance_counts.h"
#include "tdp/tools/replay/lru_stack.h"
#include "tdp/tools/replay/page_profile.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Samples the accesses of one CPU. What it answers is exact for a run of at most `kFirstStretch`
// accesses.
class MissSampler {
 public:
  static constexpr uint64_t kFirstStretch = uint64_t{1} << 16;

  explicit MissSampler(uint64_t seed) : random_(seed) {}

  void Add(absl::Span<const TraceRecord> records);
  // Forgets what was counted, and remembers the order of the chosen pages: after a warm-up.
  void ClearCounts();
  // Ends the current stretch. Called before `Estimate`.
  void Settle();

  // Returns whether every access was looked at.
  bool is_exact() const { return stretches_ == 0 && from_start_; }
  // The sum of all uses and first uses is the number of accesses.
  DistanceCounts Estimate(size_t size) const;

 private:
  static constexpr size_t kSizes = PageProfile::kSizes;
  static constexpr uint64_t kStretch = uint64_t{1} << 13;
  // One stretch of this many is looked at in the end; more in the beginning, so that a short run
  // has some, too.
  static constexpr uint64_t kMostApart = 64;
  // Pages of 2 MiB that a program has before it is worth while to choose among them.
  static constexpr size_t kManyLargePages = 32;

  // Holds what the stretches say of a page size, each access counted as often as there are accesses
  // that it stands for.
  struct Near {
    std::vector<uint64_t> uses;      // by distance
    std::vector<uint64_t> censored;  // by the least that the distance can be
    uint64_t endless = 0;            // first uses in the run
    uint64_t all = 0;
    absl::flat_hash_set<uint64_t> pages;
  };
  // Holds what the chosen pages say.
  struct Far {
    struct Recent {
      uint64_t page = ~uint64_t{0};
      uint32_t id = 0;
    };
    absl::flat_hash_map<uint64_t, uint32_t> ids;  // in the stack, by number of the page
    std::array<Recent, 256> recent{};             // some of them, by the low bits of the number
    LruStack stack;
    std::vector<uint64_t> uses;  // by distance among the chosen
    uint64_t cold = 0;
    uint64_t last = ~uint64_t{0};  // the page used last
  };

  static uint32_t IdOf(Far& far, uint64_t page);
  static void TouchFar(Far& far, uint64_t page);
  void AddToStretch(absl::Span<const TraceRecord> records);
  void BeginStretch();
  void EndStretch();

  std::mt19937_64 random_;
  uint64_t accesses_ = 0;
  uint64_t stretches_ = 0;
  uint64_t apart_ = 1;             // accesses for which one of the current stretch stands
  bool from_start_ = true;         // the current stretch is the first one of the run
  uint64_t before_ = 0;            // accesses to be passed over before the current stretch
  uint64_t left_ = kFirstStretch;  // of the current stretch
  uint64_t after_ = 0;             // to be passed over after it
  std::optional<PageProfile> stretch_;
  std::array<Near, kSizes> near_;
  std::array<Far, 2> far_;  // of 4 KiB and of 2 MiB
  bool chooses_large_ = false;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_MISS_SAMPLER_H_
