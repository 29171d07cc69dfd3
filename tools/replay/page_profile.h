// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The stack distances at which the pages of a program are used, for pages of 4 KiB, 2 MiB and 1 GiB
// in one pass.

#ifndef TDP_TOOLS_REPLAY_PAGE_PROFILE_H_
#define TDP_TOOLS_REPLAY_PAGE_PROFILE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "tdp/tools/replay/distance_counts.h"
#include "tdp/tools/replay/lru_stack.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Profiles the pages of one CPU.
class PageProfile {
 public:
  static constexpr size_t kSizes = 3;  // 4 KiB, 2 MiB, 1 GiB

  PageProfile() {
    for (std::vector<uint64_t>& histogram : histograms_) histogram.assign(2, 0);
  }

  // Counts the accesses of `records`, each by the page of its first byte. Most programs go back and
  // forth between two pages, which costs two compares here.
  void Add(absl::Span<const TraceRecord> records);
  // Takes what the quick part still holds into the counts. Called before they are read.
  void Settle();
  // Forgets counts and distances, and remembers the order of the pages: after a warm-up.
  void ClearCounts();

  DistanceCounts counts(size_t size) const {
    return {histograms_[size], cold_[size], stacks_[size].pages()};
  }
  // Adds those of the pages of a size that were touched.
  void AddPageNumbers(size_t size, absl::flat_hash_set<uint64_t>& numbers) const;

 private:
  // Holds what is known of a 4 KiB page that was used.
  struct Page {
    uint64_t number = 0;
    std::array<uint32_t, kSizes> ids{};  // of the pages of each size that it is in, in their stacks
  };
  static constexpr uint32_t kNoPage = ~uint32_t{0};

  void AddSlowly(uint64_t number);
  void AddDistances(uint32_t last, uint32_t page);
  // Uses of pages that were on top, or next to it, are in plain counts until somebody asks.
  void SettleDistances();
  void Count(size_t size, uint64_t distance);
  void NotePair();
  // Returns the place of a page in `pages_`.
  uint32_t Find(uint64_t number);
  uint32_t FindInMap(uint64_t number);

  std::vector<Page> pages_;                         // in the order of their first use
  absl::flat_hash_map<uint64_t, uint32_t> places_;  // in `pages_`, by number
  std::array<absl::flat_hash_map<uint64_t, uint32_t>, kSizes> ids_;  // but for the smallest size
  // Holds the place of a page used lately; these stand by the low bits of their numbers.
  struct Recent {
    uint64_t number = ~uint64_t{0};
    uint32_t place = 0;
  };
  static constexpr size_t kRecent = 1024;
  std::vector<Recent> recent_ = std::vector<Recent>(kRecent);

  // The two pages used last, the uses of both since they came here, and the changes between them.
  std::array<uint64_t, 2> pair_ = {~uint64_t{0}, ~uint64_t{0}};
  std::array<uint32_t, 2> pair_places_ = {kNoPage, kNoPage};
  uint64_t uses_ = 0;
  uint64_t changes_ = 0;
  bool changed_ = false;  // since the pair is one
  size_t current_ = 0;
  std::array<LruStack, kSizes> stacks_;
  std::array<std::vector<uint64_t>, kSizes> histograms_;
  std::array<bool, kSizes> apart_{};      // the pair is of two pages of this size
  uint64_t on_pair_ = 0;                  // uses of the pair's pages so far
  std::array<uint64_t, kSizes> ones_{};   // of them at distance 1; the others are at 0
  std::array<uint64_t, kSizes> zeros_{};  // other uses at distance 0
  std::array<uint64_t, kSizes> cold_{};
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PAGE_PROFILE_H_
