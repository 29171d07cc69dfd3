// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests walk the table of options that go together: every pair of it works, or is refused by
// both names.

#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/vm/change.h"

#include <cstdint>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/vm.h"
#include "tests/mmu/shadow/random_guest.h"
#include "tests/model/engine_model.h"

namespace tdp::model {
namespace {

using ::testing::HasSubstr;

constexpr size_t kOps = 2000;
constexpr uint64_t kRingEntries = 1024;

uint64_t NoTime() { return 0; }

// Asks for the feature in `options`; calls need nothing but what they are about.
void Ask(Feature feature, VmOptions& options) {
  switch (feature) {
    case Feature::kShadowPaging:
      options.paging = Paging::kShadow;
      break;
    case Feature::kFiveLevels:
      options.ept_levels = 5;
      break;
    case Feature::kNoAccessedDirty:
      options.accessed_dirty = Use::kNever;
      break;
    case Feature::kWriteProtection:
      options.dirty_tracking = DirtyTracking::kWriteProtection;
      break;
    case Feature::kDirtyBits:
      options.dirty_tracking = DirtyTracking::kDirtyBits;
      break;
    case Feature::kPml:
      options.dirty_tracking = DirtyTracking::kPml;
      break;
    case Feature::kMaxLeafLevel:
      options.max_leaf_level = kLevel4K;
      break;
    case Feature::kAddressSpaces:
      options.address_spaces = 2;
      break;
    case Feature::kSlotLimit:
      options.slot_limit = 8;
      break;
    case Feature::kGuestPhysicalBits:
      options.guest_physical_bits = 36;
      break;
    case Feature::kHostAddressEnd:
      options.host_address_end = Hva(0x7ffffffff000);
      break;
    case Feature::kTableQuota:
      options.table_quota = 400;
      break;
    case Feature::kShadowPageQuota:
      options.shadow_page_quota = 96;
      break;
    case Feature::kNested:
      options.nested = true;
      break;
    case Feature::kNoMmioCaching:
      options.mmio_caching = false;
      break;
    case Feature::kReverseMap:
      options.reverse_map = true;
      break;
    case Feature::kExecute4KOnly:
      options.execute_4k_only = true;
      break;
    case Feature::kExecuteByMode:
      options.execute_by_mode = Use::kRequire;
      break;
    case Feature::kVirtualizationExceptions:
      options.virtualization_exceptions = Use::kRequire;
      break;
    case Feature::kPrivateMemory:
      options.private_memory = true;
      break;
    case Feature::kSectionClock:
      options.section_clock = &NoTime;
      break;
    case Feature::kRaisesVe:
      options.virtualization_exceptions = Use::kRequire;
      break;
    case Feature::kDirtyRings:
      if (options.dirty_tracking == DirtyTracking::kBest) {
        options.dirty_tracking = DirtyTracking::kWriteProtection;
      }
      break;
    case Feature::kViews:
    case Feature::kMemoryTypes:
    case Feature::kSplitAndCollapse:
    case Feature::kVisitLeaves:
    case Feature::kHostFrames:
    case Feature::kSlotRights:
    case Feature::kRangeRules:
    case Feature::kPopulate:
    case Feature::kBatch:
    case Feature::kCount:
      break;
  }
}

VmOptions OptionsFor(Feature a, Feature b) {
  VmOptions options;
  // The fields come first: rings follow what is asked of dirty tracking.
  for (const Feature f : {a, b}) {
    if (!IsCall(f)) Ask(f, options);
  }
  for (const Feature f : {a, b}) {
    if (IsCall(f)) Ask(f, options);
  }
  return options;
}

// Returns a slot of host frames; each feature has one of its own.
MemoryRegion Frames(uint32_t slot) {
  return {.slot = slot,
          .flags = kSlotHostFrames,
          .gpa = Gpa(MiB(2) * slot),
          .size = MiB(2),
          .hpa = Hpa(MiB(4))};
}

absl::Status Call(Vm& vm, Feature call) {
  switch (call) {
    case Feature::kViews:
      return vm.CreateView().status();
    case Feature::kRaisesVe:
      return vm.SetRaisesVe(kBaseView, Gfn(0), PageCount(1), true);
    case Feature::kDirtyRings:
      return vm.EnableDirtyRing(kRingEntries);
    case Feature::kMemoryTypes:
      return vm.SetMemoryTypes({.non_coherent_dma = true});
    case Feature::kSplitAndCollapse: {
      auto split = vm.SplitRange(Gfn(0), PageCount(512));
      if (!split.ok()) return split.status();
      split->Settle();
      return vm.CollapseRange(Gfn(0), PageCount(512)).status();
    }
    case Feature::kVisitLeaves:
      return vm.VisitLeaves(Gfn(0), PageCount(512), [](const LeafRun&) {});
    case Feature::kHostFrames:
      return vm.SetMemoryRegion(Frames(1));
    case Feature::kSlotRights: {
      MemoryRegion region = Frames(2);
      region.rights = Access::Read();
      return vm.SetMemoryRegion(region);
    }
    case Feature::kRangeRules:
      return vm.SetViewFrames(kBaseView, Gfn(0), PageCount(1), Hfn(5));
    case Feature::kPopulate: {
      const absl::Status made = vm.SetMemoryRegion(Frames(3));
      return made.ok() ? vm.Populate(Gpa(MiB(6)), MiB(2)).status() : made;
    }
    case Feature::kBatch: {
      const Change changes[] = {Change::Region(Frames(4)), Change::Zap(Gfn(0), PageCount(512))};
      return vm.Apply(changes);
    }
    default:
      return absl::OkStatus();
  }
}

std::string Names(Feature a, Feature b) {
  return absl::StrFormat("%s, %s", FeatureName(a), FeatureName(b));
}

class OptionPairs : public testing::TestWithParam<int> {
 protected:
  Feature feature() const { return static_cast<Feature>(GetParam()); }
  // Calls `visit(other)` for every feature that makes a pair with this one, once.
  template <typename Visit>
  void ForEachPair(Visit visit) const {
    for (int i = GetParam() + 1; i < kFeatures; ++i) {
      const auto other = static_cast<Feature>(i);
      if (!AreOfOneField(feature(), other)) visit(other);
    }
  }

  sim::HostMemory memory_{{.size = MiB(64)}};
  sim::SimBackend backend_{memory_};
};

void ExpectRefused(const absl::Status& status, const RefusedPair& pair) {
  EXPECT_EQ(status.code(), pair.code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(FeatureName(pair.option))));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(FeatureName(pair.other))));
}

TEST_P(OptionPairs, WhatIsRefusedIsRefusedByBothNames) {
  ForEachPair([&](Feature other) {
    const RefusedPair* refused = FindRefused(feature(), other);
    if (refused == nullptr) return;
    SCOPED_TRACE(Names(feature(), other));
    VmOptions options = OptionsFor(feature(), other);
    if (!IsCall(refused->other))
      return ExpectRefused(Vm::Create(backend_, options).status(), *refused);
    // A call that is about an option which is refused already is asked for without it.
    if (FindRefused(refused->option, Feature::kVirtualizationExceptions) != nullptr) {
      options.virtualization_exceptions = Use::kNever;
    }
    const auto vm = Vm::Create(backend_, options);
    ASSERT_EQ(vm.status(), absl::OkStatus());
    ExpectRefused(Call(**vm, refused->other), *refused);
  });
}

TEST_P(OptionPairs, WhatWorksIsAcceptedByTheVmAndTheCall) {
  ForEachPair([&](Feature other) {
    if (FindRefused(feature(), other) != nullptr) return;
    SCOPED_TRACE(Names(feature(), other));
    const auto vm = Vm::Create(backend_, OptionsFor(feature(), other));
    ASSERT_EQ(vm.status(), absl::OkStatus());
    for (const Feature call : {feature(), other}) EXPECT_EQ(Call(**vm, call), absl::OkStatus());
    EXPECT_EQ((*vm)->CreateVcpu().status(), absl::OkStatus());
  });
}

// A guest must reach what the model says, whatever views, types, attributes and sizes do.
testing::AssertionResult RunsOnEpt(Feature a, Feature b, uint64_t seed) {
  const bool rings = a == Feature::kDirtyRings || b == Feature::kDirtyRings;
  EngineModel model(OptionsFor(a, b), 9, EngineModel::Mistake::kNone, rings ? kRingEntries : 0);
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(kOps * 11);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const std::vector<Op> ops = OpsFromBytes(bytes.data(), bytes.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    absl::Status status = model.Apply(ops[i]);
    if (status.ok() && i % 64 == 0) status = model.Check();
    if (!status.ok()) return testing::AssertionFailure() << "operation " << i << ": " << status;
  }
  const absl::Status status = model.Check();
  if (!status.ok()) return testing::AssertionFailure() << status;
  return testing::AssertionSuccess();
}

testing::AssertionResult RunsOnShadow(Feature a, Feature b, uint64_t seed) {
  std::mt19937_64 random(seed);
  shadow_test::RandomGuestOptions options;
  options.vm = OptionsFor(a, b);
  shadow_test::RandomGuest guest(options, [&random](uint64_t bound) { return random() % bound; });
  for (size_t i = 0; i < kOps; ++i) {
    absl::Status status = guest.Step();
    if (status.ok() && i % 64 == 0) status = guest.Check();
    if (!status.ok()) return testing::AssertionFailure() << "step " << i << ": " << status;
  }
  return testing::AssertionSuccess();
}

TEST_P(OptionPairs, WhatWorksRunsTheModel) {
  ForEachPair([&](Feature other) {
    if (FindRefused(feature(), other) != nullptr) return;
    SCOPED_TRACE(Names(feature(), other));
    const auto seed = static_cast<uint64_t>(GetParam() * kFeatures) + static_cast<uint64_t>(other);
    if (feature() == Feature::kShadowPaging) {
      EXPECT_TRUE(RunsOnShadow(feature(), other, seed));
    } else {
      EXPECT_TRUE(RunsOnEpt(feature(), other, seed));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Features, OptionPairs, testing::Range(0, kFeatures));

// --- docs/options.md

std::string Matrix() {
  std::string text;
  for (int row = 0; row < kFeatures; ++row) {
    const auto a = static_cast<Feature>(row);
    absl::StrAppendFormat(&text, "%2d %-44s", row + 1, FeatureName(a));
    for (int column = 0; column < row; ++column) {
      const auto b = static_cast<Feature>(column);
      const RefusedPair* refused = FindRefused(a, b);
      const char* cell = AreOfOneField(a, b)      ? "-"
                         : refused == nullptr     ? "+"
                         : IsCall(refused->other) ? "c"
                                                  : "V";
      absl::StrAppend(&text, " ", cell);
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

std::string Reasons() {
  std::string text;
  for (const RefusedPair& pair : RefusedPairs()) {
    absl::StrAppendFormat(&text, "* `%s` with `%s`: %s\n", FeatureName(pair.other),
                          FeatureName(pair.option), pair.why);
  }
  return text;
}

TEST(OptionPairsInDocs, AreThoseOfTheTable) {
  std::ifstream file("docs/options.md");
  ASSERT_TRUE(file.is_open());
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_THAT(page.str(), HasSubstr(Matrix())) << "it should have\n" << Matrix();
  EXPECT_THAT(page.str(), HasSubstr(Reasons())) << "it should have\n" << Reasons();
}

}  // namespace
}  // namespace tdp::model
