// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Steps that a contract allows, drawn by a seed, or from the bytes of a fuzzer.

#ifndef TDP_JUDGE_GENERATOR_H_
#define TDP_JUDGE_GENERATOR_H_

#include <cstdint>
#include <vector>

#include "tdp/judge/flat_map.h"
#include "tdp/judge/random.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

class Generator {
 public:
  // No page is mapped to where tables' frames are: [avoid, avoid + avoid_bytes).
  Generator(const tdpj_subject& subject, uint64_t seed, uint64_t avoid, uint64_t avoid_bytes);

  // Takes the regions that another seed would give.
  void SetRegions(uint64_t seed);

  // Makes a step that the contract allows of these tables. Returns false if none was found in many
  // tries.
  bool Next(const FlatMap& map, const RangeSet& logged, tdpj_step& step);

 private:
  void Draw(const FlatMap& map, const RangeSet& logged, tdpj_step& step);
  uint64_t DrawSize();
  uint64_t DrawGpa(uint64_t size);
  uint64_t DrawHpa(const tdpj_step& step, const FlatMap& map);

  const tdpj_subject& subject_;
  Random random_;
  const uint64_t avoid_;
  const uint64_t avoid_bytes_;
  std::vector<uint64_t> regions_;
  std::vector<int> kinds_;  // each as often as it is to be drawn
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_GENERATOR_H_
