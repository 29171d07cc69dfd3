// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/mtree_text.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr std::string_view kSpaceMark = "address-space: ";
constexpr std::string_view kRegionMark = "memory-region: ";
constexpr std::string_view kViewMark = "FlatView #";
constexpr size_t kIndent = 2;

// How QEMU writes an address.
constexpr size_t kAddressDigits = 16;
constexpr size_t kRangeLength = 2 * kAddressDigits + 1;

absl::Status Bad(int line, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(line, ": ", what));
}

std::optional<uint64_t> ParseAddress(std::string_view text) {
  uint64_t address = 0;
  const bool digits =
      text.size() == kAddressDigits && std::all_of(text.begin(), text.end(), [](char c) {
        return absl::ascii_isxdigit(static_cast<unsigned char>(c));
      });
  if (!digits || !absl::SimpleHexAtoi(text, &address)) return std::nullopt;
  return address;
}

// "START-LAST"; a region of no bytes is printed as one of one.
struct Range {
  uint64_t start = 0;
  uint64_t last = 0;

  RegionSize size() const { return RegionSize(last - start) + 1; }
};

std::optional<Range> ParseRange(std::string_view text) {
  if (text.size() != kRangeLength || text[kAddressDigits] != '-') return std::nullopt;
  const std::optional<uint64_t> start = ParseAddress(text.substr(0, kAddressDigits));
  const std::optional<uint64_t> last = ParseAddress(text.substr(kAddressDigits + 1));
  if (!start.has_value() || !last.has_value()) return std::nullopt;
  return Range{*start, *last};
}

std::optional<MtreeType> ParseType(std::string_view text) {
  absl::ConsumePrefix(&text, "nv-");
  constexpr std::array<std::pair<std::string_view, MtreeType>, 5> kTypes = {
      {{"ram", MtreeType::kRam},
       {"ramd", MtreeType::kRam},
       {"rom", MtreeType::kRom},
       {"romd", MtreeType::kRomDevice},
       {"i/o", MtreeType::kIo}}};
  for (const auto& [name, type] : kTypes) {
    if (name == text) return type;
  }
  return std::nullopt;
}

// With -o the owner of the region stands behind the rest.
std::string_view WithoutOwner(std::string_view text) {
  for (const std::string_view mark : {" owner:{", " parent:{"}) {
    text = text.substr(0, text.find(mark));
  }
  absl::ConsumeSuffix(&text, " orphan");
  return text;
}

// "START-LAST (prio N, TYPE): " and the rest, which trees and views share.
struct Line {
  Range range;
  int priority = 0;
  MtreeType type = MtreeType::kIo;
  std::string_view rest;
};

absl::StatusOr<Line> ParseLine(int number, std::string_view text, bool may_wrap) {
  Line line;
  const std::optional<Range> range = ParseRange(text.substr(0, kRangeLength));
  if (!range.has_value()) {
    return Bad(number, "not START-LAST in hexadecimal, as info mtree begins a line");
  }
  line.range = *range;
  if (line.range.last < line.range.start && !may_wrap) {
    return Bad(number, "the range ends before it begins");
  }
  text.remove_prefix(kRangeLength);
  if (!absl::ConsumePrefix(&text, " (prio ")) return Bad(number, "no \" (prio \" after the range");
  const size_t comma = text.find(", ");
  const size_t end = text.find("): ");
  if (end == text.npos || comma > end) return Bad(number, "no \"TYPE): \" after the priority");
  if (!absl::SimpleAtoi(text.substr(0, comma), &line.priority)) {
    return Bad(number, absl::StrCat("priority \"", text.substr(0, comma), "\": not a number"));
  }
  const std::string_view type = text.substr(comma + 2, end - comma - 2);
  const std::optional<MtreeType> parsed = ParseType(type);
  if (!parsed.has_value()) {
    return Bad(number, absl::StrCat("type \"", type, "\": not ram, ramd, rom, romd or i/o"));
  }
  line.type = *parsed;
  line.rest = WithoutOwner(text.substr(end + 3));
  if (line.rest.empty()) return Bad(number, "the region has no name");
  return line;
}

class Parser {
 public:
  absl::StatusOr<MtreeFile> Parse(std::string_view text) {
    for (std::string_view line : absl::StrSplit(text, '\n')) {
      ++number_;
      absl::ConsumeSuffix(&line, "\r");
      TDP_RETURN_IF_ERROR(Take(line));
    }
    if (file_.sections.empty() && file_.views.empty()) {
      return Bad(1, "neither an address space nor a flat view of info mtree");
    }
    return std::move(file_);
  }

 private:
  enum class State : uint8_t { kBetween, kTree, kView, kDispatch };

  absl::Status Take(std::string_view line) {
    if (absl::StripAsciiWhitespace(line).empty()) {
      state_ = State::kBetween;
      return absl::OkStatus();
    }
    const bool monitor = line.starts_with("(qemu)") ||
                         (line.starts_with("QEMU ") && line.find(" monitor") != line.npos);
    if (monitor) return absl::OkStatus();
    if (line.starts_with(kSpaceMark) || line.starts_with(kRegionMark)) return BeginSection(line);
    if (line.starts_with(kViewMark)) {
      file_.views.push_back({number_, {}, {}});
      state_ = State::kView;
      return absl::OkStatus();
    }
    switch (state_) {
      case State::kTree:
        return TakeNode(line);
      case State::kView:
        return TakeOfView(line);
      case State::kDispatch:
        return absl::OkStatus();
      case State::kBetween:
        break;
    }
    return Bad(number_, "not a line of info mtree");
  }

  absl::Status BeginSection(std::string_view line) {
    const bool is_space = absl::ConsumePrefix(&line, kSpaceMark);
    if (!is_space) absl::ConsumePrefix(&line, kRegionMark);
    line = WithoutOwner(line);
    if (line.empty()) return Bad(number_, "no name");
    // Address spaces with one tree stand one after the other.
    const bool shares = is_space && state_ == State::kTree && !file_.sections.empty() &&
                        file_.sections.back().is_space && path_.empty();
    if (shares) {
      file_.sections.back().names.emplace_back(line);
    } else {
      MtreeSection section;
      section.line = number_;
      section.is_space = is_space;
      section.names.emplace_back(line);
      file_.sections.push_back(std::move(section));
    }
    path_.clear();
    state_ = State::kTree;
    return absl::OkStatus();
  }

  absl::Status TakeNode(std::string_view line) {
    const bool overflow = absl::ConsumePrefix(&line, "[DETECTED OVERFLOW!] ");
    const size_t blanks = std::min(line.find_first_not_of(' '), line.size());
    if (blanks == 0 || blanks % kIndent != 0) {
      return Bad(number_, absl::StrCat("indented by ", blanks, " blanks: not a level of a tree"));
    }
    const size_t level = blanks / kIndent;
    if (level > kMaxRegionDepth) {
      return Bad(number_, absl::StrCat("deeper than ", kMaxRegionDepth, " regions"));
    }
    if (path_.size() >= 1 && level == 1) return Bad(number_, "a second root of one tree");
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<MtreeNode> node, ParseNode(line.substr(blanks), overflow));
    if (path_.size() >= level) path_.resize(level - 1);
    // A disabled region that QEMU did not print leaves a gap; its children are printed.
    while (path_.size() + 1 < level) AddHidden();
    if (!path_.empty() && !Overlap(*path_.back(), *node)) {
      // Nor is this a child of the line above: that one's neighbour was not printed.
      path_.pop_back();
      if (path_.empty()) return Bad(number_, "the region is outside of the root");
      AddHidden();
    }
    Add(std::move(node));
    return absl::OkStatus();
  }

  static bool Overlap(const MtreeNode& parent, const MtreeNode& child) {
    const uint64_t inside = child.start - parent.start;
    return RegionSize(inside) < parent.size;
  }

  // The parent of what comes next is disabled, and where it is nobody knows.
  void AddHidden() {
    auto hidden = std::make_unique<MtreeNode>();
    hidden->name = "(disabled, not printed)";
    hidden->size = kWholeAddressSpace;
    hidden->start = path_.empty() ? 0 : path_.back()->start;
    hidden->enabled = false;
    Add(std::move(hidden));
  }

  void Add(std::unique_ptr<MtreeNode> node) {
    MtreeNode* const added = node.get();
    if (path_.empty()) {
      file_.sections.back().root = std::move(node);
    } else {
      path_.back()->children.push_back(std::move(node));
    }
    path_.push_back(added);
  }

  absl::StatusOr<std::unique_ptr<MtreeNode>> ParseNode(std::string_view text, bool overflow) {
    TDP_ASSIGN_OR_RETURN(Line line, ParseLine(number_, text, overflow));
    auto node = std::make_unique<MtreeNode>();
    node->line = number_;
    node->start = line.range.start;
    node->size = line.range.size();
    node->priority = line.priority;
    node->type = line.type;
    node->enabled = !absl::ConsumeSuffix(&line.rest, " [disabled]");
    if (line.rest.starts_with("alias ")) {
      TDP_RETURN_IF_ERROR(ParseAlias(line.rest.substr(6), *node));
    } else {
      node->name = std::string(line.rest);
    }
    return node;
  }

  // "NAME @TARGET START-LAST". Names may have blanks, and some have an @.
  absl::Status ParseAlias(std::string_view text, MtreeNode& node) {
    const size_t blank = text.rfind(' ');
    const size_t at = text.rfind(" @");
    const std::optional<Range> shown =
        blank == text.npos ? std::nullopt : ParseRange(text.substr(blank + 1));
    if (!shown.has_value() || at == text.npos || at + 2 >= blank) {
      return Bad(number_, "an alias without \"@TARGET START-LAST\"");
    }
    node.name = std::string(text.substr(0, at));
    node.alias_of = std::string(text.substr(at + 2, blank - at - 2));
    node.alias_offset = shown->start;
    return absl::OkStatus();
  }

  absl::Status TakeOfView(std::string_view line) {
    std::string_view text = absl::StripLeadingAsciiWhitespace(line);
    MtreeFlatView& view = file_.views.back();
    if (absl::ConsumePrefix(&text, "AS \"")) {
      const size_t end = text.rfind("\", root: ");
      if (end == text.npos) return Bad(number_, "an address space without \", root: \"");
      view.spaces.emplace_back(text.substr(0, end));
      return absl::OkStatus();
    }
    if (text.starts_with("Root memory region: ") || text == "No rendered FlatView") {
      return absl::OkStatus();
    }
    if (text == "Dispatch") {
      state_ = State::kDispatch;
      return absl::OkStatus();
    }
    TDP_ASSIGN_OR_RETURN(MtreeRange range, ParseFlatRange(text));
    if (!view.ranges.empty()) {
      const MtreeRange& last = view.ranges.back();
      if (RegionSize(last.start) + last.size > RegionSize(range.start)) {
        return Bad(number_, "the range begins before the one above ends");
      }
    }
    view.ranges.push_back(std::move(range));
    return absl::OkStatus();
  }

  // "… NAME", "… NAME @OFFSET", and with an accelerator its name behind.
  absl::StatusOr<MtreeRange> ParseFlatRange(std::string_view text) {
    TDP_ASSIGN_OR_RETURN(Line line, ParseLine(number_, text, /*may_wrap=*/false));
    MtreeRange range;
    range.line = number_;
    range.start = line.range.start;
    range.size = line.range.size();
    range.priority = line.priority;
    range.type = line.type;
    for (const std::string_view accelerator : {" KVM", " kvm", " HVF", " hvf", " WHPX", " NVMM"}) {
      absl::ConsumeSuffix(&line.rest, accelerator);
    }
    const size_t at = line.rest.rfind(" @");
    if (at != line.rest.npos && line.rest.size() == at + 2 + kAddressDigits) {
      const std::optional<uint64_t> offset = ParseAddress(line.rest.substr(at + 2));
      if (!offset.has_value()) return Bad(number_, "\"@\" without an offset in hexadecimal");
      range.offset = *offset;
      line.rest = line.rest.substr(0, at);
    }
    range.name = std::string(line.rest);
    return range;
  }

  MtreeFile file_;
  int number_ = 0;
  State state_ = State::kBetween;
  std::vector<MtreeNode*> path_;  // from the root of the section down to the last line
};

}  // namespace

bool LooksLikeMtree(std::string_view text) {
  for (const std::string_view line : absl::StrSplit(text, '\n')) {
    if (line.starts_with(kSpaceMark) || line.starts_with(kRegionMark) ||
        line.starts_with(kViewMark)) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<MtreeFile> ParseMtree(std::string_view text) { return Parser().Parse(text); }

}  // namespace tdp::tools
