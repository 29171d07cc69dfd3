// SPDX-License-Identifier: Apache-2.0

#include "tdp/tools/regions/region_file.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/tools/regions/region_text.h"

namespace tdp::tools {
namespace {

// A file whose root has `children`.
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
  ExpectRefused("{", "not valid JSON");
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
