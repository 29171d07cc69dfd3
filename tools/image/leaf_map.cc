// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image/leaf_map.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/tools/decode/ept_words.h"
#include "tdp/tools/decode/guest_words.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kMaxEntries = uint64_t{1} << 28;
constexpr uint64_t kMaxRuns = uint64_t{1} << 22;
constexpr uint64_t kLeafRights = sim::kGuestWrite | sim::kGuestUser | sim::kGuestNoExecute;

// Goes through tables of either dimension, depth first, in the order of addresses.
class LeafReader {
 public:
  explicit LeafReader(const TableWalker& walker)
      : walker_(walker), is_ept_(!walker.roots().guest.has_value()) {}

  absl::StatusOr<LeafMap> Read() {
    if (is_ept_) {
      const Eptp eptp = *walker_.roots().eptp;
      TDP_RETURN_IF_ERROR(ReadTable(eptp.root().raw(), eptp.levels(), 0, 15));
    } else {
      TDP_RETURN_IF_ERROR(ReadGuest());
    }
    return std::move(map_);
  }

 private:
  absl::Status ReadGuest() {
    const sim::GuestRules& rules = walker_.guest_rules();
    const uint64_t cr3 = walker_.roots().guest->cr3;
    if (rules.mode() != sim::PagingMode::kPae) {
      return ReadTable(rules.RootOf(cr3), rules.levels(), 0, kLeafRights);
    }
    for (uint64_t i = 0; i < 4; ++i) {
      const auto at = walker_.Find((cr3 & 0xffffffe0) + i * 8);
      const auto pdpte = at.has_value() ? walker_.image().Load(*at) : std::nullopt;
      if (!pdpte.has_value() || (*pdpte & sim::kGuestPresent) == 0) continue;
      TDP_RETURN_IF_ERROR(ReadTable(sim::GuestRules::TableOf(*pdpte), 2, i << 30, kLeafRights));
    }
    return absl::OkStatus();
  }

  unsigned entry_bytes() const { return is_ept_ ? 8 : walker_.guest_rules().entry_bytes(); }
  int ShiftOf(int level) const {
    return is_ept_ ? 12 + 9 * (level - 1) : walker_.guest_rules().shift(level);
  }

  // `table` is guest-physical for a guest's. `rights`: the AND above, XD inverted in the guest.
  absl::Status ReadTable(uint64_t table, int level, uint64_t from, uint64_t rights) {
    const std::optional<uint64_t> at = is_ept_ ? table : walker_.Find(table);
    if (!at.has_value() || walker_.image().At(*at, 4096) == nullptr) {
      Note({.address = at.value_or(table), .from = from, .level = level, .is_outside = true});
      return absl::OkStatus();
    }
    ++map_.tables;
    const uint64_t entries = 4096 / entry_bytes();
    read_ += entries;
    if (read_ > kMaxEntries || map_.runs.size() > kMaxRuns) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%s: more than %d entries or %d runs; the tables lead back to themselves",
                          walker_.image().name(), kMaxEntries, kMaxRuns));
    }
    for (uint64_t i = 0; i < entries; ++i) {
      const uint64_t address = *at + i * entry_bytes();
      const uint64_t entry = *walker_.image().Load(address, entry_bytes());
      if (entry == 0) continue;
      TDP_RETURN_IF_ERROR(
          ReadEntry(entry, address, level, Extended(from + (i << ShiftOf(level)), level), rights));
    }
    return absl::OkStatus();
  }

  // The upper half of linear addresses is at the end.
  uint64_t Extended(uint64_t from, int level) const {
    if (is_ept_ || !sim::Is64Bit(walker_.guest_rules().mode()) ||
        level != walker_.guest_rules().levels()) {
      return from;
    }
    const int unused = 64 - ShiftOf(level + 1);
    return static_cast<uint64_t>(static_cast<int64_t>(from << unused) >> unused);
  }

  absl::Status ReadEntry(uint64_t entry, uint64_t address, int level, uint64_t from,
                         uint64_t rights) {
    if (is_ept_) {
      if (!walker_.ept_rules().IsPresent(entry)) return absl::OkStatus();
      // An entry that marks MMIO is no mistake.
      if ((entry & ept::kRightsMask) == ept::kMmioPattern) return absl::OkStatus();
      if (walker_.ept_rules().IsMisconfigured(entry, level)) {
        Note({.address = address, .from = from, .level = level, .entry = entry});
        return absl::OkStatus();
      }
      rights &= sim::RightsOf(entry);
      if (!sim::EptRules::IsLeaf(entry, level)) {
        return ReadTable(entry & ept::kAddressMask, level - 1, from, rights);
      }
      AddLeaf(from, entry & ept::kAddressMask & ~Offset(level), level,
              rights | (entry & (ept::kMemoryTypeMask | ept::kIgnorePat)) << 1);
      return absl::OkStatus();
    }
    const sim::GuestRules& rules = walker_.guest_rules();
    if ((entry & sim::kGuestPresent) == 0) return absl::OkStatus();
    if (rules.HasReservedBit(entry, level)) {
      Note({.address = address, .from = from, .level = level, .entry = entry});
      return absl::OkStatus();
    }
    rights &= entry ^ sim::kGuestNoExecute;
    if (!rules.IsLeaf(entry, level)) {
      return ReadTable(sim::GuestRules::TableOf(entry), level - 1, from, rights);
    }
    AddLeaf(from, rules.GpaOf(entry, level, 0), level,
            (rights ^ sim::kGuestNoExecute) | (entry & sim::kGuestGlobal));
    return absl::OkStatus();
  }

  uint64_t Offset(int level) const { return (uint64_t{1} << ShiftOf(level)) - 1; }

  void AddLeaf(uint64_t from, uint64_t to, int level, uint64_t attributes) {
    ++map_.leaves[static_cast<size_t>(level)];
    const LeafRun leaf = {from, to, Offset(level) + 1, ShiftOf(level), attributes};
    LeafRun* last = map_.runs.empty() ? nullptr : &map_.runs.back();
    if (last != nullptr && last->end() == from && last->IsLike(leaf)) {
      last->bytes += leaf.bytes;
    } else {
      map_.runs.push_back(leaf);
    }
  }

  void Note(const TableProblem& problem) {
    ++map_.problem_count;
    if (map_.problems.size() < LeafMap::kProblemsKept) map_.problems.push_back(problem);
  }

  const TableWalker& walker_;
  const bool is_ept_;
  uint64_t read_ = 0;
  LeafMap map_;
};

std::string SizeName(int shift) {
  static constexpr std::string_view kUnits[] = {"", "k", "m", "g"};
  return absl::StrCat(1 << shift % 10, kUnits[static_cast<size_t>(shift / 10)]);
}

// Returns the part of `run` in a range that lies in it.
LeafRun PartOf(const LeafRun& run, uint64_t from, uint64_t end) {
  LeafRun part = run;
  part.from = from;
  part.to = run.to + (from - run.from);
  part.bytes = end - from;
  return part;
}

bool Continues(const LeafRun& before, const LeafRun& after) {
  if (before.bytes == 0 || after.bytes == 0) return before.bytes == after.bytes;
  return before.end() == after.from && before.IsLike(after);
}

void AddChange(std::vector<LeafChange>& changes, const LeafRun& before, const LeafRun& after) {
  if (before == after) return;
  if (!changes.empty()) {
    LeafChange& last = changes.back();
    if (Continues(last.before, before) && Continues(last.after, after)) {
      last.before.bytes += before.bytes;
      last.after.bytes += after.bytes;
      return;
    }
  }
  changes.push_back({before, after});
}

// One of two maps, from front to back.
class Cursor {
 public:
  explicit Cursor(const LeafMap& map) : runs_(map.runs) {}

  // Passes over runs that end at `at` or before it.
  void MoveTo(uint64_t at) {
    while (next_ < runs_.size() && runs_[next_].end() - 1 < at) ++next_;
  }
  // Returns the run that `at` lies in, or null.
  const LeafRun* Here(uint64_t at) const {
    return next_ < runs_.size() && runs_[next_].from <= at ? &runs_[next_] : nullptr;
  }
  // Returns the last address before anything changes, seen from `at`.
  uint64_t LastAlike(uint64_t at) const {
    if (next_ == runs_.size()) return ~uint64_t{0};
    return Here(at) != nullptr ? runs_[next_].end() - 1 : runs_[next_].from - 1;
  }
  bool AtEnd() const { return next_ == runs_.size(); }

 private:
  const std::vector<LeafRun>& runs_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<LeafMap> ReadLeafMap(const TableWalker& walker) { return LeafReader(walker).Read(); }

std::string LeafRunText(const LeafRun& run, bool is_ept) {
  const std::string kind =
      is_ept
          ? absl::StrCat(
                EptRightsText(run.attributes & 7, false), (run.attributes & 8) != 0 ? "u " : " ",
                EptTypeText(run.attributes >> 4 & 7), (run.attributes >> 7 & 1) != 0 ? " ipat" : "")
          : absl::StrCat(GuestRightsText(run.attributes),
                         (run.attributes & sim::kGuestGlobal) != 0 ? " global" : "");
  return absl::StrFormat("0x%012x-0x%012x -> 0x%012x  %s x %d  %s", run.from, run.end() - 1, run.to,
                         SizeName(run.shift), run.bytes >> run.shift, kind);
}

std::string TableProblemText(const TableProblem& problem, const TableWalker& walker) {
  if (problem.is_outside) {
    return absl::StrFormat("0x%012x: a table of level %d at 0x%x is not in the image", problem.from,
                           problem.level, problem.address);
  }
  DecodedWord word;
  if (walker.roots().guest.has_value()) {
    word = DecodePagingEntry(problem.entry, problem.level,
                             {walker.roots().physical_address_bits, true});
  } else {
    EptContext context;
    context.physical_address_bits = walker.roots().physical_address_bits;
    context.mbec = walker.roots().mbec;
    word = DecodeEptEntry(problem.entry, problem.level, context);
  }
  const std::string why = word.faults.empty()
                              ? "it sets a reserved bit"
                              : absl::StrCat(word.faults[0].what, " (", word.faults[0].rule, ")");
  return absl::StrFormat("0x%012x: %s 0x%x at 0x%x: %s", problem.from, word.name, problem.entry,
                         problem.address, why);
}

std::vector<LeafChange> CompareLeafMaps(const LeafMap& before, const LeafMap& after) {
  std::vector<LeafChange> changes;
  Cursor old_runs(before);
  Cursor new_runs(after);
  uint64_t at = 0;
  while (true) {
    old_runs.MoveTo(at);
    new_runs.MoveTo(at);
    if (old_runs.AtEnd() && new_runs.AtEnd()) return changes;
    const uint64_t last = std::min(old_runs.LastAlike(at), new_runs.LastAlike(at));
    const LeafRun* was = old_runs.Here(at);
    const LeafRun* is = new_runs.Here(at);
    // Where neither maps anything both are empty.
    AddChange(changes, was == nullptr ? LeafRun() : PartOf(*was, at, last + 1),
              is == nullptr ? LeafRun() : PartOf(*is, at, last + 1));
    if (last == ~uint64_t{0}) return changes;
    at = last + 1;
  }
}

}  // namespace tdp::tools
