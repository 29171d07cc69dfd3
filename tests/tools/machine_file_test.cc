// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what machine files must say, and what those that come with the program say.

#include "tdp/tools/mmu/machine_file.h"

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

constexpr char kSmall[] =
    "# a comment\n"
    "[machine]\n"
    "name = Small\n"
    "\n"
    "[tlb D]\n"
    "level = 1\n"
    "for = load store\n"
    "pages = 4k 2m\n"
    "sets = 3 | a page\n"
    "ways = 5 | a page\n"
    "replacement = plru | assumed\n"
    "cycles = 0 | assumed\n"
    "[walk-cache PDE]\n"
    "of = both\n"
    "level = 2\n"
    "sets = 1 | x\n"
    "ways = 2 | x\n"
    "replacement = lru | x\n"
    "cycles = 1 | x\n"
    "[memory]\n"
    "cycles = 200 | assumed\n"
    "[costs]\n"
    "vm-exit = 1 | x\n"
    "page-fault = 2 | x\n"
    "context-switch = 3 | x\n";

std::string ErrorOf(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(kSmall, {{from, to}});
  EXPECT_NE(text, kSmall) << from;
  return std::string(ParseMachine("file", text).status().message());
}

TEST(MachineFile, SaysWhatThereIs) {
  const auto config = ParseMachine("file", kSmall);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "Small");
  ASSERT_EQ(config->tlbs.size(), 1u);
  EXPECT_EQ(config->tlbs[0].uses, sim::kUseLoad | sim::kUseStore);
  EXPECT_EQ(config->tlbs[0].pages, sim::PageBit(1) | sim::PageBit(2));
  EXPECT_EQ(config->tlbs[0].shape.sets, 3u);
  EXPECT_EQ(config->tlbs[0].shape.ways, 5u);
  EXPECT_EQ(config->tlbs[0].shape.replacement, sim::Replacement::kTreePlru);
  ASSERT_EQ(config->walk_caches.size(), 2u);
  EXPECT_FALSE(config->walk_caches[0].ept);
  EXPECT_TRUE(config->walk_caches[1].ept);
  EXPECT_EQ(config->memory_cycles, 200);
  EXPECT_EQ(config->switch_cycles, 3u);
}

TEST(MachineFile, ANumberWithoutASourceIsRefused) {
  EXPECT_EQ(ErrorOf("sets = 3 | a page", "sets = 3"),
            "file:9: sets has no source: \"sets = 3 | source\" or \"| assumed\"");
  EXPECT_THAT(ErrorOf("plru | assumed", "plru |  "),
              HasSubstr("file:11: replacement has no source"));
}

TEST(MachineFile, WhatDoesNotFollowTheFormIsNamedWithItsLine) {
  EXPECT_THAT(ErrorOf("sets = 3", "sets = 0"), HasSubstr("file:9: sets = 0: must be a number"));
  EXPECT_THAT(ErrorOf("level = 1", "level = 3"), HasSubstr("file:6: level = 3"));
  EXPECT_THAT(ErrorOf("pages = 4k 2m", "pages = 4k 8k"), HasSubstr("\"8k\" is none of 4k, 2m, 1g"));
  EXPECT_THAT(ErrorOf("ways = 5 | a page\n", ""), HasSubstr("file:5: [tlb] lacks ways"));
  EXPECT_THAT(ErrorOf("ways = 5 | a page\n", "ways = 5 | x\nways = 6 | x\n"),
              HasSubstr("file:11: \"ways\" is there twice"));
  EXPECT_THAT(ErrorOf("level = 1\n", "level = 1\nsize = 4\n"),
              HasSubstr("[tlb] has no key \"size\""));
  EXPECT_THAT(ErrorOf("[walk-cache PDE]", "[cache PDE]"), HasSubstr("no section [cache]"));
  EXPECT_THAT(ErrorOf("[tlb D]", "[tlb D"), HasSubstr("file:5: a section ends with ]"));
  EXPECT_THAT(ErrorOf("[costs]", "[memory]"), HasSubstr("a second [memory]"));
  EXPECT_THAT(ErrorOf("[machine]\nname = Small\n", ""), HasSubstr("there is no [machine]"));
  EXPECT_THAT(ErrorOf("# a comment", "a comment"), HasSubstr("file:1: not \"key = value\""));
  EXPECT_THAT(std::string(LoadMachine("pentium").status().message()),
              HasSubstr("no machine \"pentium\" and no file of that name; there are goldencove"));
}

TEST(MachineFile, OnePolicyIsNamed) {
  EXPECT_THAT(ErrorOf("plru | assumed", "lru plru | assumed"),
              HasSubstr("file:11: replacement names more than one"));
}

TEST(MachineFile, WhatIsNoTextIsRefused) {
  // A name goes to the terminal.
  EXPECT_THAT(ErrorOf("name = Small", "name = \x1b[31mSmall"),
              HasSubstr("file:3: a control character"));
  EXPECT_THAT(std::string(LoadMachine(testing::TempDir()).status().message()),
              HasSubstr("Is a directory"));
  EXPECT_THAT(std::string(LoadMachine("/dev/zero").status().message()),
              HasSubstr("/dev/zero: too long for a machine file"));
}

// The published sizes count entries.
TEST(MachineFile, ThosePublishedHaveTheSizesOfTheirTables) {
  const struct {
    const char* machine;
    const char* part;
    size_t entries;
  } kParts[] = {{"skylake", "L1I 4K", 128},
                {"skylake", "L1D 4K", 64},
                {"skylake", "STLB 4K and 2M", 1536},
                {"skylake", "STLB 1G", 16},
                {"icelake", "STLB", 2048},
                {"icelake", "L1D store", 16},
                {"goldencove", "L1D load 4K", 96},
                {"goldencove", "L1I 4K", 256},
                {"goldencove", "STLB", 2048},
                {"zen3", "L1D", 64},
                {"zen3", "L2D", 2048},
                {"zen3", "L2I", 512},
                {"zen4", "L1D", 72},
                {"zen4", "L2D", 3072}};
  for (const auto& part : kParts) {
    const auto config = LoadMachine(part.machine);
    ASSERT_TRUE(config.ok()) << config.status();
    bool found = false;
    for (const sim::MmuTlb& tlb : config->tlbs) {
      if (tlb.name != part.part) continue;
      found = true;
      EXPECT_EQ(tlb.shape.sets * tlb.shape.ways, part.entries) << part.machine << ", " << tlb.name;
    }
    EXPECT_TRUE(found) << part.machine << " has no " << part.part;
  }
  EXPECT_EQ(MachineNames(),
            (std::vector<std::string>{"goldencove", "icelake", "skylake", "zen3", "zen4"}));
}

}  // namespace
}  // namespace tdp::tools
