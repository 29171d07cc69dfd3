// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/mtree.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSpace = "address-space: ";
constexpr std::string_view kRegion = "memory-region: ";
constexpr size_t kMostDepth = 128;

// One line of a tree, with what stands below it.
struct Node {
  size_t line = 0;
  size_t indent = 0;
  uint64_t first = 0;
  uint64_t last = 0;
  int64_t priority = 0;
  std::string kind;
  std::string name;
  std::string target;  // of an alias
  uint64_t target_offset = 0;
  bool enabled = true;
  std::vector<std::unique_ptr<Node>> children;
};

// A tree with the names that head it: address spaces may share one.
struct Section {
  std::vector<std::string> spaces;
  std::string region;
  bool disabled = false;  // QEMU leaves out the line of what is, and shows what is below it
  std::unique_ptr<Node> root;
};

// Columns of a root, and from a region to what is in it.
constexpr size_t kStep = 2;

absl::Status BadLine(size_t line, std::string_view what, std::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat(line, ": ", what, ": \"", absl::CHexEscape(text.substr(0, 80)), "\""));
}

// Takes "0000000000000000-00000000bfffffff" off the front.
bool TakeRange(std::string_view& text, uint64_t& first, uint64_t& last) {
  constexpr size_t kDigits = 16;
  if (text.size() < 2 * kDigits + 1 || text[kDigits] != '-') return false;
  if (!absl::SimpleHexAtoi(text.substr(0, kDigits), &first) ||
      !absl::SimpleHexAtoi(text.substr(kDigits + 1, kDigits), &last)) {
    return false;
  }
  text.remove_prefix(2 * kDigits + 1);
  return first <= last;
}

// "alias NAME @TARGET RANGE".
bool ParseAlias(std::string_view text, Node& node) {
  const size_t at = text.rfind(" @");
  if (at == std::string_view::npos) return false;
  node.name = std::string(text.substr(0, at));
  std::string_view target = text.substr(at + 2);
  const size_t range = target.rfind(' ');
  if (range == std::string_view::npos) return false;
  node.target = std::string(target.substr(0, range));
  target.remove_prefix(range + 1);
  uint64_t last = 0;
  return TakeRange(target, node.target_offset, last) && target.empty();
}

// "  RANGE (prio N, KIND): NAME [disabled]", or an alias.
absl::StatusOr<std::unique_ptr<Node>> ParseNode(size_t line, std::string_view text) {
  auto node = std::make_unique<Node>();
  node->line = line;
  node->indent = text.find_first_not_of(' ');
  std::string_view rest = text.substr(node->indent);
  if (!TakeRange(rest, node->first, node->last) || !absl::ConsumePrefix(&rest, " (prio ")) {
    return BadLine(line, "not a region of info mtree", text);
  }
  const size_t comma = rest.find(", ");
  const size_t close = rest.find("): ");
  if (comma == std::string_view::npos || close == std::string_view::npos || close < comma ||
      !absl::SimpleAtoi(rest.substr(0, comma), &node->priority)) {
    return BadLine(line, "not a region of info mtree", text);
  }
  node->kind = std::string(rest.substr(comma + 2, close - comma - 2));
  rest.remove_prefix(close + 3);
  if (absl::ConsumeSuffix(&rest, " [disabled]")) node->enabled = false;
  if (!absl::ConsumePrefix(&rest, "alias ")) {
    node->name = std::string(rest);
  } else if (!ParseAlias(rest, *node)) {
    return BadLine(line, "not an alias of info mtree", text);
  }
  return node;
}

// Trees, and the ways to their last lines while they are read.
class Reader {
 public:
  absl::StatusOr<std::vector<Section>> Read(std::string_view text) {
    size_t number = 0;
    for (std::string_view line : absl::StrSplit(text, '\n')) {
      ++number;
      absl::ConsumeSuffix(&line, "\r");
      TDP_RETURN_IF_ERROR(Take(number, line));
    }
    return std::move(sections_);
  }

 private:
  absl::Status Take(size_t number, std::string_view line) {
    std::string_view name = line;
    if (absl::ConsumePrefix(&name, kSpace)) {
      // Names that share a tree stand together.
      if (sections_.empty() || sections_.back().root != nullptr ||
          !sections_.back().region.empty()) {
        sections_.emplace_back();
      }
      sections_.back().spaces.emplace_back(name);
      return absl::OkStatus();
    }
    if (absl::ConsumePrefix(&name, kRegion)) {
      sections_.emplace_back();
      sections_.back().region = std::string(name);
      return absl::OkStatus();
    }
    // Prompts, greetings and what the monitor echoes come in no column of a tree.
    if (!line.starts_with("  ") || sections_.empty()) return absl::OkStatus();
    if (line.find_first_not_of(' ') == std::string_view::npos) return absl::OkStatus();
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Node> node, ParseNode(number, line));
    return Attach(std::move(node), line);
  }

  absl::Status Attach(std::unique_ptr<Node> node, std::string_view line) {
    Section& section = sections_.back();
    if (section.root == nullptr) {
      section.disabled |= node->indent > kStep;
      if (section.disabled) return absl::OkStatus();
      path_ = {node.get()};
      section.root = std::move(node);
      return absl::OkStatus();
    }
    while (!path_.empty() && path_.back()->indent >= node->indent) path_.pop_back();
    if (path_.empty()) return BadLine(node->line, "a second root", line);
    if (path_.size() >= kMostDepth) return BadLine(node->line, "too deep", line);
    // A line is missing between the two: that of a disabled region.
    if (node->indent > path_.back()->indent + kStep) node->enabled = false;
    Node* const added = node.get();
    path_.back()->children.push_back(std::move(node));
    path_.push_back(added);
    return absl::OkStatus();
  }

  std::vector<Section> sections_;
  std::vector<Node*> path_;
};

class Writer {
 public:
  explicit Writer(const std::vector<Section>& sections) : sections_(sections) {
    for (const Section& section : sections) {
      if (section.root != nullptr) Reserve(*section.root);
      if (section.disabled) reserved_.insert(section.region);
    }
  }

  absl::StatusOr<std::string> Write() {
    Json spaces = Json::array();
    for (const char* const wanted : {"memory", "cpu-smm-0"}) {
      const Section* const section = FindSpace(wanted);
      if (section == nullptr || section->root == nullptr) continue;
      if (spaces.empty() && std::string_view(wanted) != "memory") break;
      spaces.push_back({{"name", wanted}, {"root", RegionOf(*section->root, 0)}});
    }
    if (spaces.empty()) {
      return absl::InvalidArgumentError("1: there is no address space \"memory\"");
    }
    // Trees that only aliases show, and those that they show.
    Json others = Json::array();
    for (size_t next = 0; next < wanted_.size(); ++next) {
      const auto [name, line] = wanted_[next];
      if (regions_.contains(name)) continue;
      const Section* const section = FindRegion(name);
      if (section != nullptr && section->disabled) {
        regions_.insert(name);
        others.push_back(
            {{"name", name}, {"kind", "container"}, {"size", "2^64"}, {"enabled", false}});
        continue;
      }
      if (section == nullptr || section->root == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat(
            line, ": an alias of \"", absl::CHexEscape(name), "\", which is not there"));
      }
      others.push_back(RegionOf(*section->root, section->root->first));
    }
    return Json({{"regions", others}, {"address_spaces", spaces}}).dump(1);
  }

 private:
  const Section* FindSpace(std::string_view name) const {
    for (const Section& section : sections_) {
      for (const std::string& space : section.spaces) {
        if (space == name) return &section;
      }
    }
    return nullptr;
  }
  const Section* FindRegion(const std::string& name) const {
    for (const Section& section : sections_) {
      if (section.region == name) return &section;
    }
    return nullptr;
  }

  // A name of its own. The first region of a name keeps it, since aliases mean that one; aliases
  // leave it to regions that come later.
  std::string NameOf(const Node& node) {
    if (node.target.empty() && regions_.insert(node.name).second) return node.name;
    std::string name = node.name;
    for (int count = 2; reserved_.contains(name) || names_.contains(name); ++count) {
      name = absl::StrCat(node.name, " #", count);
    }
    names_.insert(name);
    return name;
  }
  // Names of all regions that are no aliases.
  void Reserve(const Node& node) {
    if (node.target.empty()) reserved_.insert(node.name);
    for (const auto& child : node.children) Reserve(*child);
  }

  static const char* KindOf(const Node& node) {
    if (!node.target.empty()) return "alias";
    if (node.kind == "ram" || node.kind == "ramd" || node.kind == "nv-ram") return "ram";
    if (node.kind == "rom") return "rom";
    if (node.kind == "romd") return "rom-device";
    return node.children.empty() && node.kind != "container" ? "mmio" : "container";
  }

  // `base` is where the parent begins.
  Json RegionOf(const Node& node, uint64_t base) {
    Json region = {{"name", NameOf(node)}, {"kind", KindOf(node)}};
    const bool whole = node.first == 0 && node.last == ~uint64_t{0};
    region["size"] = whole ? "2^64" : absl::StrFormat("0x%x", node.last - node.first + 1);
    if (node.first != base) region["offset"] = absl::StrFormat("0x%x", node.first - base);
    if (node.priority != 0) region["priority"] = node.priority;
    if (!node.enabled) region["enabled"] = false;
    if (!node.target.empty()) {
      wanted_.emplace_back(node.target, node.line);
      region["alias_of"] = node.target;
      region["alias_offset"] = absl::StrFormat("0x%x", node.target_offset);
      if (node.kind == "rom") region["read_only"] = true;
    }
    if (node.children.empty()) return region;
    Json children = Json::array();
    for (const auto& child : node.children) children.push_back(RegionOf(*child, node.first));
    region["children"] = children;
    return region;
  }

  const std::vector<Section>& sections_;
  std::set<std::string> reserved_;
  std::set<std::string> names_;                         // given to others
  std::set<std::string> regions_;                       // that are no aliases, written so far
  std::vector<std::pair<std::string, size_t>> wanted_;  // targets, with the line that names each
};

}  // namespace

bool LooksLikeMtree(std::string_view text) {
  constexpr size_t kHead = 4096;
  const std::string_view head = text.substr(0, kHead);
  return head.starts_with(kSpace) ||
         head.find(absl::StrCat("\n", kSpace)) != std::string_view::npos;
}

absl::StatusOr<std::string> MtreeToJson(std::string_view text) {
  Reader reader;
  TDP_ASSIGN_OR_RETURN(const std::vector<Section> sections, reader.Read(text));
  return Writer(sections).Write();
}

}  // namespace tdp::tools
