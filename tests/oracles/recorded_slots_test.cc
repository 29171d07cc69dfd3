// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests compare the engine on the software CPU with the recorded answers of a real kernel's
// KVM. tests/oracles/data/README.md says where they come from.

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/oracles/recorded_file.h"
#include "tests/oracles/slots_protocol.h"

namespace tdp::oracles {
namespace {

void ExpectRecordedAnswers(const std::string& file, DirtyTracking tracking) {
  const auto lines = ReadRecordedLines(file);
  ASSERT_TRUE(lines.ok()) << lines.status();
  SlotsProtocol protocol(tracking);
  int asked = 0;
  for (const std::string& line : *lines) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(" -> ", 1));
    if (parts.first.empty()) continue;
    const auto answer = protocol.Answer(parts.first);
    ASSERT_TRUE(answer.ok()) << line << ": " << answer.status();
    ++asked;
    ASSERT_EQ(*answer, parts.second) << "question " << asked << ": " << parts.first;
  }
  EXPECT_GE(asked, 1000);
  EXPECT_TRUE(protocol.machine().vm().CheckInvariants().ok());
}

class RecordedSlots : public testing::TestWithParam<const char*> {};

TEST_P(RecordedSlots, AreAnsweredAlike) {
  ExpectRecordedAnswers(absl::StrCat(GetParam(), ".txt.zst"), DirtyTracking::kWriteProtection);
}

INSTANTIATE_TEST_SUITE_P(All, RecordedSlots,
                         testing::Values("memslots/core01", "memslots/core02", "memslots/core03",
                                         "memslots/core04", "memslots/core05", "memslots/ids01",
                                         "memslots/many01", "memslots/multi01", "dirty/args01",
                                         "dirty/args02", "dirty/gpt01", "dirty/guest01",
                                         "dirty/guest02", "dirty/layout01", "dirty/layout02",
                                         "dirty/manual01", "dirty/manual02"),
                         [](const auto& test) {
                           return absl::StrReplaceAll(test.param, {{"/", "_"}});
                         });

// D bits find what a guest without paging writes as write-protection does.
class RecordedWrites : public testing::TestWithParam<const char*> {};

TEST_P(RecordedWrites, AreFoundByDirtyBitsAlike) {
  ExpectRecordedAnswers(absl::StrCat("dirty/", GetParam(), ".txt.zst"), DirtyTracking::kDirtyBits);
}

INSTANTIATE_TEST_SUITE_P(All, RecordedWrites,
                         testing::Values("guest01", "guest02", "layout01", "layout02"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace tdp::oracles
