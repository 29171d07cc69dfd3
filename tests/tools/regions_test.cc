// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/region_file.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/tools/printable_text.h"
#include "tdp/tools/regions/region_text.h"

namespace tdp::tools {
namespace {

// Returns a file whose root has `children`.
std::string FileWith(const std::string& children) {
  return absl::StrCat(R"({"address_spaces": [{"name": "memory", "root":
      {"name": "top", "size": "2^64", "children": [)",
                      children, "]}}]}");
}

void ExpectRefused(const std::string& text, const std::string& message) {
  const absl::Status status = ParseRegionFile(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_TRUE(absl::StartsWith(status.message(), message)) << status.message();
}

TEST(RegionFile, ABadTreeIsNamedByThePathOfTheRegion) {
  ExpectRefused("{", "1:1: not valid JSON");
  ExpectRefused("[]", "file: not an object");
  ExpectRefused("{}", "file: address_spaces: none");
  ExpectRefused(R"({"spaces": []})", "file: unknown field \"spaces\"");
  ExpectRefused(FileWith(R"({"size": 1})"), "/top/?: a region has no name");
  ExpectRefused(FileWith(R"({"name": "a"})"), "/top/a: size: missing");
  ExpectRefused(FileWith(R"({"name": "a", "size": "big"})"), "/top/a: size = \"big\"");
  ExpectRefused(FileWith(R"({"name": "a", "size": 0})"), "/top/a: size = 0x0");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "kind": "rum"})"), "/top/a: kind = \"rum\"");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "colour": 2})"),
                "/top/a: unknown field \"colour\"");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "offset": "2^64"})"), "/top/a: offset");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "priority": 1e20})"), "/top/a: priority");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "kind": "alias", "alias_of": "b"})"),
                "/top/a: alias_of = \"b\": no such region");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "kind": "alias"})"), "/top/a: alias_of");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1}, {"name": "a", "size": 1})"),
                "/top/a: another region has this name");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "children": [{"name": "b", "size": 1,
                   "kind": "alias", "alias_of": "top"}]})"),
                "/top/a/b: cannot be attached to /top/a: it would contain itself");
  ExpectRefused(FileWith(R"({"name": "a", "size": "4K", "kind": "ram", "host": "0x10"})"),
                "/top/a: host = 0x10");
}

TEST(RegionFile, BadJsonIsNamedByLineAndColumn) {
  ExpectRefused("", "1:1: not valid JSON");
  ExpectRefused("{\n  \"regions\": [],\n  \"x\"; 1}", "3:6: not valid JSON");
  ExpectRefused("{\"regions\": []} x", "1:17: not valid JSON");
  ExpectRefused("{\n \"regions\": [],\n \"regions\": []}",
                "3:10: field \"regions\": the object has it already");
  ExpectRefused(FileWith(R"({"name": "a", "size": 1, "size": 2})"), "2:");
  ExpectRefused(std::string(100000, '['), "1:513: more than 512 objects and lists");
}

TEST(RegionFile, ARootThatIsNoRegionIsNamed) {
  ExpectRefused(R"({"address_spaces":[{"name":"a","root":"nix"}]})",
                "address space a: root = \"nix\": no such region");
  ExpectRefused(R"({"address_spaces":[{"root":{"name":"r","size":1}},{"root":"r"},{"root":"r"}]})",
                "file: address_spaces: 3, but a machine has 2 at most");
}

TEST(RegionFile, DepthAndBreadthAreBounded) {
  std::string nested = R"({"name": "last", "size": 1})";
  for (int i = 0; i < 150; ++i) {
    nested = absl::StrCat(R"({"name": "r)", i, R"(", "size": 1, "children": [)", nested, "]}");
  }
  const absl::Status deep = ParseRegionFile(FileWith(nested)).status();
  EXPECT_TRUE(absl::StrContains(deep.message(), "children: deeper than 128 regions")) << deep;
  // Each level shows the one below twice.
  std::string regions = R"({"name": "r0", "size": 1, "kind": "mmio"})";
  for (int i = 1; i <= 22; ++i) {
    absl::StrAppend(&regions, R"(, {"name": "r)", i, R"(", "size": "1G", "children": [)");
    for (const int half : {0, 1}) {
      absl::StrAppend(&regions, half == 0 ? "" : ", ", R"({"name": "a)", i, "-", half,
                      R"(", "kind": "alias", "size": "1G", "alias_of": "r)", i - 1, "\"}");
    }
    absl::StrAppend(&regions, "]}");
  }
  const absl::Status broad =
      ParseRegionFile(
          absl::StrCat(R"({"regions": [)", regions, R"(], "address_spaces": [{"root": "r22"}]})"))
          .status();
  EXPECT_EQ(broad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(broad.message(), "more than 262144 regions would be shown"))
      << broad;
}

TEST(RegionText, NamesGiveTheTerminalNoCommands) {
  auto machine = ParseRegionFile(R"({"address_spaces": [{"name": "a\u001b[2J", "root":
      {"name": "r\u009b\n", "size": "4K", "kind": "ram"}}]})");
  ASSERT_TRUE(machine.ok()) << machine.status();
  const Region& root = *machine->address_spaces[0].root;
  EXPECT_EQ(TreeText(machine->address_spaces[0].name, root),
            "address-space: a\\x1b[2J\n"
            "  0000000000000000-0000000000000fff (prio 0, ram): r\\xc2\\x9b\\x0a\n");
  for (const std::string& text : {FlatViewText("a\x1b", Flatten(root)), SlotsText("a\x1b", {})}) {
    EXPECT_FALSE(absl::StrContains(text, "\x1b"));
    EXPECT_FALSE(absl::StrContains(text, "\x9b"));
  }
  EXPECT_EQ(Printable("na\xc3\xafve \"'\\"), "na\xc3\xafve \"'\\") << "the rest stays";
}

TEST(RegionFile, NumbersMayBeWrittenInEveryUsualWay) {
  const auto machine = ParseRegionFile(FileWith(R"({"name": "a", "size": 4096, "kind": "mmio"},
                  {"name": "b", "size": "0x1000", "kind": "mmio", "offset": "8K"},
                  {"name": "c", "size": "3G", "kind": "mmio", "offset": "1T"} // the last)"
                                                "\n"));
  ASSERT_TRUE(machine.ok()) << machine.status();
  EXPECT_EQ(FlatViewText("memory", Flatten(*machine->address_spaces[0].root)),
            "FlatView of memory\n"
            "  0000000000000000-0000000000000fff (prio 0, i/o): a\n"
            "  0000000000002000-0000000000002fff (prio 0, i/o): b\n"
            "  0000010000000000-00000100bfffffff (prio 0, i/o): c\n");
}

TEST(RegionFile, TransactionsChangeTheTree) {
  auto machine = ParseRegionFile(R"({
      "address_spaces": [{"root": {"name": "root", "size": "1M", "children": [
          {"name": "a", "size": "4K", "kind": "ram"}]}}],
      "transactions": [{"name": "t", "changes": [{"region": "a", "offset": "8K"},
                                                 {"region": "a", "size": "8K"}]}]})");
  ASSERT_TRUE(machine.ok()) << machine.status();
  for (const auto& change : machine->transactions.at(0).changes) {
    ASSERT_TRUE(change(*machine->tree).ok());
  }
  EXPECT_EQ(TreeText("memory", *machine->address_spaces[0].root),
            "address-space: memory\n"
            "  0000000000000000-00000000000fffff (prio 0, i/o): root\n"
            "    0000000000002000-0000000000003fff (prio 0, ram): a\n");
}

}  // namespace
}  // namespace tdp::tools
