// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/mtree_machine.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/tools/regions/mtree_text.h"
#include "tdp/tools/regions/region_text.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

// QEMU printed these; tests/tools/data/README.md says how.
constexpr const char* kSamples[] = {"qemu_q35", "qemu_pc", "qemu_flash", "qemu_microvm"};

std::string Sample(std::string_view name) {
  const auto source = OpenByteSource(absl::StrCat("tests/tools/data/", name, ".mtree.zst"));
  if (!source.ok()) return "";
  return ReadAll(**source).value_or("");
}

// Return `text` up to the first flat view, and from there on.
std::string TreesOf(const std::string& text) { return text.substr(0, text.find("FlatView #")); }
std::string ViewsOf(const std::string& text) { return text.substr(text.find("FlatView #")); }

absl::StatusOr<std::string> FlatTextOf(const std::string& text, const std::string& space) {
  TDP_ASSIGN_OR_RETURN(const MtreeFile file, ParseMtree(text));
  TDP_ASSIGN_OR_RETURN(const MtreeMachine machine, MakeMtreeMachine(file, {space}));
  return FlatViewText(space, Flatten(*machine.regions.address_spaces[0].root));
}

// Returns the memory of a flat view, without devices.
std::string MemoryOf(const std::string& flat) {
  std::string memory;
  for (const std::string_view line : absl::StrSplit(flat, '\n')) {
    if (!absl::StrContains(line, "i/o)")) absl::StrAppend(&memory, line, "\n");
  }
  return memory;
}

// Returns a tree whose root has `lines` below it, and what aliases show.
std::string Tree(std::string_view lines, std::string_view regions = "") {
  return absl::StrCat(
      "address-space: memory\n"
      "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n",
      lines, "\n", regions);
}

void ExpectFlat(const std::string& text, std::string_view ranges) {
  const absl::StatusOr<std::string> flat = FlatTextOf(text, "memory");
  ASSERT_TRUE(flat.ok()) << flat.status();
  EXPECT_EQ(*flat, absl::StrCat("FlatView of memory\n", ranges));
}

void ExpectRefused(const std::string& text, std::string_view message) {
  const absl::StatusOr<std::string> flat = FlatTextOf(text, "memory");
  EXPECT_EQ(flat.status().code(), absl::StatusCode::kInvalidArgument) << message;
  EXPECT_TRUE(absl::StartsWith(flat.status().message(), message)) << flat.status();
}

TEST(Mtree, TreesOfRealMachinesGiveTheFlatViewsThatQemuPrints) {
  for (const std::string_view sample : kSamples) {
    const std::string text = Sample(sample);
    const absl::StatusOr<MtreeFile> file = ParseMtree(text);
    ASSERT_TRUE(file.ok()) << sample << ": " << file.status();
    for (const std::string space : {"memory", "I/O", "cpu-smm-0"}) {
      SCOPED_TRACE(absl::StrCat(sample, ", ", space));
      const absl::StatusOr<MtreeMachine> machine = MakeMtreeMachine(*file, {space});
      ASSERT_TRUE(machine.ok()) << machine.status();
      ASSERT_NE(machine->views[0], nullptr);
      EXPECT_GT(machine->views[0]->ranges.size(), 5u);
      EXPECT_EQ(
          ViewDifferences(Flatten(*machine->regions.address_spaces[0].root), *machine->views[0]),
          std::vector<std::string>());
      EXPECT_EQ(machine->notes, std::vector<std::string>());
    }
  }
}

TEST(Mtree, TreesAloneAndFlatViewsAloneGiveTheSameMemory) {
  for (const std::string_view sample : kSamples) {
    SCOPED_TRACE(sample);
    const std::string text = Sample(sample);
    for (const std::string space : {"memory", "cpu-smm-0"}) {
      const auto both = FlatTextOf(text, space);
      const auto tree = FlatTextOf(TreesOf(text), space);
      const auto view = FlatTextOf(ViewsOf(text), space);
      ASSERT_TRUE(both.ok() && tree.ok() && view.ok())
          << both.status() << tree.status() << view.status();
      EXPECT_EQ(MemoryOf(*tree), MemoryOf(*both));
      // A view does not say at which priority a region stands that is shown in several parts.
      EXPECT_EQ(absl::StrReplaceAll(MemoryOf(*view), {{"prio 1,", "prio 0,"}}),
                absl::StrReplaceAll(MemoryOf(*both), {{"prio 1,", "prio 0,"}}));
    }
  }
}

TEST(Mtree, TwoAddressSpacesOfOneMachineShareTheirMemory) {
  const absl::StatusOr<MtreeFile> file = ParseMtree(Sample("qemu_q35"));
  ASSERT_TRUE(file.ok());
  const auto machine = MakeMtreeMachine(*file, {"memory", "cpu-smm-0"});
  ASSERT_TRUE(machine.ok()) << machine.status();
  const auto memory = Flatten(*machine->regions.address_spaces[0].root);
  const auto smm = Flatten(*machine->regions.address_spaces[1].root);
  EXPECT_EQ(memory[0].region, smm[0].region);
  EXPECT_EQ(memory[0].region->name(), "pc.ram");
}

TEST(Mtree, OverlapIsResolvedByPriorityAndDisabledRegionsShowNothing) {
  ExpectFlat(Tree("    0000000000000000-000000000000ffff (prio 0, ram): low\n"
                  "    0000000000002000-0000000000002fff (prio 1, i/o): device\n"
                  "    0000000000004000-0000000000004fff (prio -1, i/o): below\n"
                  "    0000000000006000-0000000000006fff (prio 9, i/o): off [disabled]\n"
                  "    0000000000008000-0000000000008fff (prio 2, nv-ram): first\n"
                  "    0000000000008000-0000000000008fff (prio 2, ramd): second\n"),
             "  0000000000000000-0000000000001fff (prio 0, ram): low\n"
             "  0000000000002000-0000000000002fff (prio 1, i/o): device\n"
             "  0000000000003000-0000000000007fff (prio 0, ram): low @0000000000003000\n"
             "  0000000000008000-0000000000008fff (prio 2, ram): first\n"
             "  0000000000009000-000000000000ffff (prio 0, ram): low @0000000000009000\n");
}

TEST(Mtree, AnAliasShowsItsPartOfTheRegionThatFollows) {
  const std::string regions =
      "memory-region: ram\n"
      "  0000000000000000-000000000000ffff (prio 0, ram): ram\n\n"
      "memory-region: flash@0\n"
      "  0000000000000000-0000000000001fff (prio 0, romd): flash@0\n";
  ExpectFlat(Tree("    0000000000000000-0000000000003fff (prio 0, ram): alias low @ram "
                  "0000000000008000-000000000000bfff\n"
                  "    0000000000001000-0000000000001fff (prio 1, ram): alias pam-rom @ram "
                  "0000000000001000-0000000000001fff\n"
                  "    00000000fffff000-00000000ffffffff (prio 0, romd): alias a b @flash@0 "
                  "0000000000001000-0000000000001fff owner:{dev path=/machine/x}\n",
                  regions),
             "  0000000000000000-0000000000000fff (prio 0, ram): ram @0000000000008000\n"
             "  0000000000001000-0000000000001fff (prio 0, rom): ram @0000000000001000\n"
             "  0000000000002000-0000000000003fff (prio 0, ram): ram @000000000000a000\n"
             "  00000000fffff000-00000000ffffffff (prio 0, romd): flash@0 @0000000000001000\n");
}

TEST(Mtree, AFlatViewTellsReadOnlyAliasesAndDevicesThatHaveChildren) {
  const std::string tree = Tree(
      "    0000000000000000-0000000000003fff (prio 0, ram): ram\n"
      "    0000000000001000-0000000000001fff (prio 1, ram): alias guard @ram "
      "0000000000001000-0000000000001fff\n"
      "    0000000000008000-0000000000009fff (prio 0, i/o): card\n"
      "      0000000000009000-0000000000009fff (prio 0, i/o): window\n",
      "memory-region: ram\n"
      "  0000000000000000-0000000000003fff (prio 0, ram): ram\n\n");
  ExpectFlat(tree,
             "  0000000000000000-0000000000003fff (prio 0, ram): ram\n"
             "  0000000000009000-0000000000009fff (prio 0, i/o): window\n");
  ExpectFlat(absl::StrCat(tree,
                          "FlatView #0\n"
                          " AS \"memory\", root: system\n"
                          " Root memory region: system\n"
                          "  0000000000000000-0000000000000fff (prio 0, ram): ram\n"
                          "  0000000000001000-0000000000001fff (prio 0, rom): ram "
                          "@0000000000001000 KVM\n"
                          "  0000000000002000-0000000000003fff (prio 0, ram): ram "
                          "@0000000000002000\n"
                          "  0000000000008000-0000000000008fff (prio 0, i/o): card\n"
                          "  0000000000009000-0000000000009fff (prio 0, i/o): window\n"),
             "  0000000000000000-0000000000000fff (prio 0, ram): ram\n"
             "  0000000000001000-0000000000001fff (prio 0, rom): ram @0000000000001000\n"
             "  0000000000002000-0000000000003fff (prio 0, ram): ram @0000000000002000\n"
             "  0000000000008000-0000000000008fff (prio 0, i/o): card\n"
             "  0000000000009000-0000000000009fff (prio 0, i/o): window\n");
}

TEST(Mtree, WhatIsBelowADisabledRegionThatWasNotPrintedShowsNothing) {
  ExpectFlat(Tree("      0000000000000000-0000000000000003 (prio 0, i/o): hidden child\n"
                  "    0000000000001000-0000000000001fff (prio 0, ram): ram\n"
                  "      0000000000008000-0000000000008fff (prio 0, ram): of the next, disabled\n"
                  "    000000000000a000-000000000000afff (prio 0, ram): last\n"),
             "  0000000000001000-0000000000001fff (prio 0, ram): ram\n"
             "  000000000000a000-000000000000afff (prio 0, ram): last\n");
}

TEST(Mtree, OfRegionsWithOneNameAnAliasShowsTheOneThatHasSomethingThere) {
  const auto bus = [](int slot) {
    return absl::StrCat(
        "memory-region: bus\n"
        "  0000000000000000-ffffffffffffffff (prio 0, i/o): bus\n"
        "    00000000fc",
        slot, "00000-00000000fc", slot, "00fff (prio 1, ram): card", slot, "\n\n");
  };
  const std::string tree = Tree(
      "    00000000fc100000-00000000fc1fffff (prio 1, i/o): alias window @bus "
      "00000000fc100000-00000000fc1fffff\n"
      "    00000000fc200000-00000000fc2fffff (prio 1, i/o): alias window @bus "
      "00000000fc200000-00000000fc2fffff\n");
  ExpectFlat(absl::StrCat(tree, bus(1), bus(2)),
             "  00000000fc100000-00000000fc100fff (prio 1, ram): card1\n"
             "  00000000fc200000-00000000fc200fff (prio 1, ram): card2\n");
  const absl::StatusOr<MtreeFile> twice = ParseMtree(
      absl::StrCat(tree, bus(1), absl::StrReplaceAll(bus(1), {{"card1", "other"}}), bus(2)));
  ASSERT_TRUE(twice.ok());
  const absl::StatusOr<MtreeMachine> machine = MakeMtreeMachine(*twice, {});
  ASSERT_TRUE(machine.ok());
  EXPECT_EQ(machine->notes, std::vector<std::string>{"3: alias window may show any of 2 regions "
                                                     "named bus; the first is taken"});
}

TEST(Mtree, ABadLineIsNamedByItsNumberAndWhatIsWrong) {
  ExpectRefused("", "1: neither an address space nor a flat view");
  ExpectRefused("address-space: memory\n", "no address space with a tree");
  ExpectRefused("address-space: \n", "1: no name");
  ExpectRefused(Tree("") + "what\n", "4: not a line of info mtree");
  ExpectRefused(Tree("    zzz\n"), "3: not START-LAST in hexadecimal");
  ExpectRefused(Tree("    000000000000000-0000000000000003 (prio 0, i/o): x\n"), "3: not START");
  ExpectRefused(Tree("    0000000000000004-0000000000000003 (prio 0, i/o): x\n"),
                "3: the range ends before it begins");
  ExpectRefused(Tree("    0000000000000000-0000000000000003: x\n"), "3: no \" (prio \"");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0): x\n"), "3: no \"TYPE): \"");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio x, i/o): x\n"),
                "3: priority \"x\": not a number");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 99999999999, i/o): x\n"),
                "3: priority \"99999999999\"");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0, RW): x\n"),
                "3: type \"RW\": not ram");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0, i/o): \n"),
                "3: the region has no name");
  ExpectRefused(Tree("   0000000000000000-0000000000000003 (prio 0, i/o): x\n"),
                "3: indented by 3 blanks");
  ExpectRefused(Tree("  0000000000000000-0000000000000003 (prio 0, i/o): x\n"), "3: a second root");
  ExpectRefused(Tree(std::string(300, ' ') + "0000000000000000-0000000000000003 (prio 0, i/o): x"),
                "3: deeper than 128 regions");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0, ram): alias x @y\n"),
                "3: an alias without \"@TARGET START-LAST\"");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0, ram): alias x @y "
                     "0000000000000000-0000000000000003\n"),
                "3: alias x shows @y, and no region of that name follows");
  ExpectRefused(Tree("    0000000000000000-0000000000000003 (prio 0, ram): alias x @system "
                     "0000000000000000-0000000000000003\n"),
                "3: ");
  const std::string view = "FlatView #0\n AS \"memory\", root: system\n";
  ExpectRefused("FlatView #0\n AS \"memory\"\n", "2: an address space without \", root: \"");
  ExpectRefused(view +
                    "  0000000000000000-0000000000001fff (prio 0, ram): a\n"
                    "  0000000000001000-0000000000001fff (prio 0, ram): b\n",
                "4: the range begins before the one above ends");
  ExpectRefused(view + "  0000000000000000-0000000000001fff (prio 0, ram): a @000000000000zzzz\n",
                "3: \"@\" without an offset");
}

TEST(Mtree, AnAddressSpaceThatIsNotThereIsNamedBesideThoseThatAre) {
  const absl::StatusOr<MtreeFile> file = ParseMtree(Tree(""));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(MakeMtreeMachine(*file, {"other"}).status().message(),
            "no address space \"other\" in it; there are: memory");
}

// Each damaged file is read, or refused with the place; none is a crash.
TEST(Mtree, DamagedFilesAreReadOrRefused) {
  std::mt19937 random(1);
  const std::string whole = Sample("qemu_flash");
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string text = whole.substr(0, 1 + random() % whole.size());
    for (int i = 0; i < 3; ++i) {
      const size_t at = random() % text.size();
      const size_t from = random() % whole.size();
      text.replace(at, random() % 40, whole.substr(from, random() % 80));
      if (text.empty()) text = " ";
    }
    const absl::StatusOr<std::string> flat = FlatTextOf(text, "memory");
    if (flat.ok()) continue;
    ++refused;
    EXPECT_EQ(flat.status().code(), absl::StatusCode::kInvalidArgument) << flat.status();
    EXPECT_FALSE(flat.status().message().empty());
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace tdp::tools
