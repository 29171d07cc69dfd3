// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/option_pairs.h"

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {
namespace {

using enum Feature;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kFailed = absl::StatusCode::kFailedPrecondition;

constexpr std::string_view kOfEptOnly = "entries of the EPT alone can say so";
constexpr std::string_view kByWriteProtection = "it finds writes by write-protection";
constexpr std::string_view kNeedsBits = "it needs A and D bits";
constexpr std::string_view kKeepTheirSize = "leaves keep their size there";

constexpr RefusedPair kRefused[] = {
    {kShadowPaging, kDirtyBits, kInvalid, kByWriteProtection},
    {kShadowPaging, kPml, kInvalid, kByWriteProtection},
    {kShadowPaging, kNested, kInvalid, "EPT12 is shadowed by an EPT: it is for Paging::kEpt"},
    {kShadowPaging, kReverseMap, kInvalid, "shadow tables have their own"},
    {kShadowPaging, kExecute4KOnly, kInvalid, kOfEptOnly},
    {kShadowPaging, kExecuteByMode, kInvalid, kOfEptOnly},
    {kShadowPaging, kVirtualizationExceptions, kInvalid, kOfEptOnly},
    {kShadowPaging, kPrivateMemory, kInvalid, "shadow tables do not heed attributes"},
    {kShadowPaging, kViews, kFailed, "views are EPT roots"},
    {kShadowPaging, kRaisesVe, kFailed, kOfEptOnly},
    {kShadowPaging, kDirtyRings, kFailed, "it logs into bitmaps"},
    {kShadowPaging, kMemoryTypes, kFailed, "shadow tables do not heed the guest's types"},
    {kShadowPaging, kSplitAndCollapse, kFailed, kKeepTheirSize},
    {kShadowPaging, kVisitLeaves, kFailed, "there is no EPT to show"},
    {kShadowPaging, kSlotRights, kFailed, "shadow tables do not heed them"},
    {kShadowPaging, kRangeRules, kFailed, "views are EPT roots"},
    {kShadowPaging, kPopulate, kFailed, "there is no EPT to fill"},
    {kNoAccessedDirty, kDirtyBits, kInvalid, kNeedsBits},
    {kNoAccessedDirty, kPml, kInvalid, kNeedsBits},
    {kNoAccessedDirty, kRaisesVe, kFailed,
     "aging takes rights then, and the guest would hear of it"},
    {kDirtyBits, kNested, kInvalid, kByWriteProtection},
    {kDirtyBits, kReverseMap, kInvalid, kByWriteProtection},
    {kDirtyBits, kDirtyRings, kInvalid, "rings hear by write-protection"},
    {kPml, kNested, kInvalid, kByWriteProtection},
    {kPml, kReverseMap, kInvalid, kByWriteProtection},
    {kPml, kDirtyRings, kInvalid, "rings hear by write-protection"},
    {kNested, kReverseMap, kInvalid, "EPT02 has its own"},
    {kNested, kExecute4KOnly, kInvalid, "EPT02 does not heed it"},
    {kNested, kPrivateMemory, kInvalid, "EPT02 does not heed attributes"},
    {kNested, kViews, kFailed, "L2 would reach through EPT12 what a view denies L1"},
    {kNested, kSlotRights, kFailed, "L2 would reach through EPT12 what the slot denies L1"},
    {kNested, kRangeRules, kFailed, "L2 would reach through EPT12 what a view denies L1"},
    {kReverseMap, kViews, kFailed, "each frame has one place in it"},
    {kReverseMap, kRangeRules, kFailed, "it knows the slots' frames alone"},
    {kReverseMap, kRaisesVe, kFailed, "views raise #VE, and it has none"},
    {kReverseMap, kSplitAndCollapse, kFailed, kKeepTheirSize},
};

absl::Status Refusal(const RefusedPair& pair) {
  return absl::Status(pair.code, absl::StrFormat("%s with %s: %s", FeatureName(pair.other),
                                                 FeatureName(pair.option), pair.why));
}

}  // namespace

std::string_view FeatureName(Feature feature) {
  switch (feature) {
    case kShadowPaging:
      return "VmOptions.paging = kShadow";
    case kFiveLevels:
      return "VmOptions.ept_levels = 5";
    case kNoAccessedDirty:
      return "VmOptions.accessed_dirty = kNever";
    case kWriteProtection:
      return "VmOptions.dirty_tracking = kWriteProtection";
    case kDirtyBits:
      return "VmOptions.dirty_tracking = kDirtyBits";
    case kPml:
      return "VmOptions.dirty_tracking = kPml";
    case kMaxLeafLevel:
      return "VmOptions.max_leaf_level";
    case kAddressSpaces:
      return "VmOptions.address_spaces = 2";
    case kSlotLimit:
      return "VmOptions.slot_limit";
    case kGuestPhysicalBits:
      return "VmOptions.guest_physical_bits";
    case kHostAddressEnd:
      return "VmOptions.host_address_end";
    case kTableQuota:
      return "VmOptions.table_quota";
    case kShadowPageQuota:
      return "VmOptions.shadow_page_quota";
    case kNested:
      return "VmOptions.nested";
    case kNoMmioCaching:
      return "VmOptions.mmio_caching = false";
    case kReverseMap:
      return "VmOptions.reverse_map";
    case kExecute4KOnly:
      return "VmOptions.execute_4k_only";
    case kExecuteByMode:
      return "VmOptions.execute_by_mode";
    case kVirtualizationExceptions:
      return "VmOptions.virtualization_exceptions";
    case kPrivateMemory:
      return "VmOptions.private_memory";
    case kSectionClock:
      return "VmOptions.section_clock";
    case kViews:
      return "Vm::CreateView";
    case kRaisesVe:
      return "Vm::SetRaisesVe";
    case kDirtyRings:
      return "Vm::EnableDirtyRing";
    case kMemoryTypes:
      return "Vm::SetMemoryTypes";
    case kSplitAndCollapse:
      return "Vm::SplitRange, Vm::CollapseRange";
    case kVisitLeaves:
      return "Vm::VisitLeaves";
    case kHostFrames:
      return "MemoryRegion.flags = kSlotHostFrames";
    case kSlotRights:
      return "MemoryRegion.rights";
    case kRangeRules:
      return "Vm::SetViewRights of kBaseView";
    case kPopulate:
      return "Vm::Populate";
    case kBatch:
      return "Vm::Apply";
    case kCount:
      break;
  }
  return "";
}

bool IsAsked(const VmOptions& o, Feature feature) {
  const VmOptions plain;
  switch (feature) {
    case kShadowPaging:
      return o.paging == Paging::kShadow;
    case kFiveLevels:
      return o.ept_levels == 5;
    case kNoAccessedDirty:
      return o.accessed_dirty == Use::kNever;
    case kWriteProtection:
      return o.dirty_tracking == DirtyTracking::kWriteProtection;
    case kDirtyBits:
      return o.dirty_tracking == DirtyTracking::kDirtyBits;
    case kPml:
      return o.dirty_tracking == DirtyTracking::kPml;
    case kMaxLeafLevel:
      return o.max_leaf_level != plain.max_leaf_level;
    case kAddressSpaces:
      return o.address_spaces != plain.address_spaces;
    case kSlotLimit:
      return o.slot_limit != plain.slot_limit;
    case kGuestPhysicalBits:
      return o.guest_physical_bits != 0;
    case kHostAddressEnd:
      return o.host_address_end != plain.host_address_end;
    case kTableQuota:
      return o.table_quota != plain.table_quota;
    case kShadowPageQuota:
      return o.shadow_page_quota != plain.shadow_page_quota;
    case kNested:
      return o.nested;
    case kNoMmioCaching:
      return !o.mmio_caching;
    case kReverseMap:
      return o.reverse_map;
    case kExecute4KOnly:
      return o.execute_4k_only;
    case kExecuteByMode:
      return o.execute_by_mode != Use::kNever;
    case kVirtualizationExceptions:
      return o.virtualization_exceptions != Use::kNever;
    case kPrivateMemory:
      return o.private_memory;
    case kSectionClock:
      return o.section_clock != nullptr;
    case kViews:
    case kRaisesVe:
    case kDirtyRings:
    case kMemoryTypes:
    case kSplitAndCollapse:
    case kVisitLeaves:
    case kHostFrames:
    case kSlotRights:
    case kRangeRules:
    case kPopulate:
    case kBatch:
    case kCount:
      break;
  }
  return false;
}

bool AreOfOneField(Feature a, Feature b) {
  const auto is_tracking = [](Feature f) {
    return f == kWriteProtection || f == kDirtyBits || f == kPml;
  };
  return a == b || (is_tracking(a) && is_tracking(b));
}

absl::Span<const RefusedPair> RefusedPairs() { return kRefused; }

const RefusedPair* FindRefused(Feature a, Feature b) {
  for (const RefusedPair& pair : kRefused) {
    const bool same = pair.option == a && pair.other == b;
    if (same || (pair.option == b && pair.other == a)) return &pair;
  }
  return nullptr;
}

absl::Status CheckPairs(const VmOptions& options) {
  for (const RefusedPair& pair : kRefused) {
    if (IsAsked(options, pair.option) && IsAsked(options, pair.other)) return Refusal(pair);
  }
  return absl::OkStatus();
}

absl::Status CheckCall(const VmOptions& options, Feature call) {
  for (const RefusedPair& pair : kRefused) {
    if (pair.other == call && IsAsked(options, pair.option)) return Refusal(pair);
  }
  return absl::OkStatus();
}

}  // namespace tdp
