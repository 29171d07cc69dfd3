// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests hold every single bit and every pair of bits of an EPT entry, at every level, on CPUs
// of different powers, against the rules of the SDM written down as a table (`ept_rule_table.h`)
// that the model does not read.

#include "tdp/backends/sim/ept_rules.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tests/sim/ept_rule_table.h"

namespace tdp::sim {
namespace {

constexpr EptRuleCpu kCpus[] = {
    {"all", 46, true, true, true, false, false},
    {"no_execute_only", 46, false, true, true, false, false},
    {"no_large_pages", 46, true, false, false, false, false},
    {"no_1g", 52, true, true, false, false, false},
    {"narrow", 36, true, true, true, false, false},
    {"mbec", 46, true, true, true, true, false},
    {"mbec_no_execute_only", 40, false, true, true, true, false},
    {"paging_write", 46, true, true, true, false, true},
};

class EptRulesTest : public testing::TestWithParam<EptRuleCpu> {
 protected:
  EptRulesTest() : rules_(FeaturesOf(GetParam()), GetParam().mbec, GetParam().paging_write) {}

  void Check(uint64_t entry, int level) {
    const bool present = ExpectPresent(entry, GetParam());
    ASSERT_EQ(rules_.IsPresent(entry), present) << absl::StrFormat("%#x", entry);
    if (!present) return;
    const bool wrong = ExpectMisconfigured(entry, level, GetParam());
    ASSERT_EQ(rules_.IsMisconfigured(entry, level), wrong)
        << absl::StrFormat("%#x at level %d", entry, level);
    const bool table = !EptRules::IsLeaf(entry, level);
    ASSERT_EQ(table, KindOf(entry, level) < kLeaf3);
    if (rules_.IsPlainTable(entry, level)) {
      ASSERT_TRUE(!wrong && table && (entry & 7) == 7) << absl::StrFormat("%#x", entry);
    }
    // The engine's own check is another implementation: the two agree.
    const EntryRules engine_rules = {.capabilities = FeaturesOf(GetParam()).ept,
                                     .physical_address_bits = GetParam().width,
                                     .mbec = GetParam().mbec,
                                     .paging_write = GetParam().paging_write};
    ASSERT_EQ(EptEntry(entry).Check(Level(level), engine_rules) != EntryDefect::kNone, wrong)
        << absl::StrFormat("%#x at level %d", entry, level);
  }

  EptRules rules_;
};

// The bits are flipped in entries of each set of rights, with and without bit 7 and a legal memory
// type.
TEST_P(EptRulesTest, EverySingleBitAndPairFollowsTheTable) {
  for (int level = 1; level <= 5; ++level) {
    for (uint64_t rights = 0; rights < 8; ++rights) {
      for (const uint64_t base : {rights, rights | 0x80, rights | 0x30, rights | 0xb0}) {
        Check(base, level);
        for (int first = 0; first < 64; ++first) {
          for (int second = first; second < 64; ++second) {
            Check(base ^ (uint64_t{1} << first | uint64_t{1} << second), level);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EptRulesTest, testing::ValuesIn(kCpus),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ValidEptp, EverySingleBitFollowsTheTable) {
  for (const uint64_t capabilities : {EptCapabilities::All().raw(), uint64_t{1} << 6 | 1 << 14}) {
    CpuFeatures features;
    features.physical_address_bits = 40;
    features.ept = EptCapabilities(capabilities);
    const bool all = features.ept == EptCapabilities::All();
    for (uint64_t low = 0; low < 4096; ++low) {
      const uint64_t type = low & 7;
      const uint64_t length = low >> 3 & 7;
      const bool valid = (type == 6 || (type == 0 && all)) &&
                         (length == 3 || (length == 4 && all)) && (!Bit(low, 6) || all) &&
                         (!Bit(low, 7) || all) && (low >> 8) == 0;
      EXPECT_EQ(IsValidEptp(Eptp(0x1234000 | low), features), valid) << low;
    }
    for (int bit = 12; bit < 64; ++bit) {
      EXPECT_EQ(IsValidEptp(Eptp(uint64_t{1} << bit | 0x1e), features), bit < 40) << bit;
    }
  }
}

}  // namespace
}  // namespace tdp::sim
