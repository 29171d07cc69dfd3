// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which of the things that an embedder may ask of a `Vm` go together. One table says so of every
// pair: a pair works, or is refused by both names. docs/options.md shows it, and a test walks it.

#ifndef TDP_MMU_OPTION_PAIRS_H_
#define TDP_MMU_OPTION_PAIRS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

// Names something that an embedder may ask for: a field of `VmOptions` away from its default, or a
// call.
enum class Feature : uint8_t {
  kShadowPaging,
  kFiveLevels,
  kNoAccessedDirty,
  kWriteProtection,
  kDirtyBits,
  kPml,
  kMaxLeafLevel,
  kAddressSpaces,
  kSlotLimit,
  kGuestPhysicalBits,
  kHostAddressEnd,
  kTableQuota,
  kShadowPageQuota,
  kNested,
  kNoMmioCaching,
  kReverseMap,
  kExecute4KOnly,
  kExecuteByMode,
  kVirtualizationExceptions,
  kPrivateMemory,
  kSectionClock,
  // Calls.
  kViews,
  kRaisesVe,
  kDirtyRings,
  kMemoryTypes,
  kSplitAndCollapse,
  kVisitLeaves,
  kHostFrames,
  kSlotRights,
  kRangeRules,
  kPopulate,
  kBatch,
  kCount  // not a feature
};
inline constexpr int kFeatures = static_cast<int>(Feature::kCount);

// Returns the name as an embedder writes it: "VmOptions.nested", "Vm::CreateView".
std::string_view FeatureName(Feature feature);
inline constexpr bool IsCall(Feature feature) { return feature >= Feature::kViews; }
// Returns whether the field is away from its default so that the feature is asked for. False for
// calls.
bool IsAsked(const VmOptions& options, Feature feature);
// Returns whether the two are values of one field, of which a `Vm` has one.
bool AreOfOneField(Feature a, Feature b);

// A pair that is refused: at `Vm::Create` if both are options, else by the call.
struct RefusedPair {
  Feature option;
  Feature other;
  absl::StatusCode code;
  std::string_view why;
};

// Returns every pair that is refused; a pair that is not among them works.
absl::Span<const RefusedPair> RefusedPairs();
// Returns the refusal of the two, in either order, or null if they work together.
const RefusedPair* FindRefused(Feature a, Feature b);

// Returns OK, or a status that names both options of a pair that is refused.
absl::Status CheckPairs(const VmOptions& options);
// Returns OK, or the refusal of `call` on a `Vm` with these options.
absl::Status CheckCall(const VmOptions& options, Feature call);

}  // namespace tdp

#endif  // TDP_MMU_OPTION_PAIRS_H_
