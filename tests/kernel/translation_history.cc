// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/translation_history.h"

#include <algorithm>

namespace tdp::kernel {

void TranslationHistory::LoadRoot(Time now, uint16_t pcid, uint64_t root,
                                  const std::array<uint64_t, 4>& pdptes) {
  if (!roots_.empty()) roots_.back().to = now;
  roots_.push_back({now, kNever, pcid, root, pdptes});
}

void TranslationHistory::KillAll(Time now) {
  horizon_ = now;
  kills_.clear();
  roots_.erase(roots_.begin(), roots_.end() - 1);
  roots_.back().from = now;
}

// Returns whether the event took away a leaf of `level` at `gva` that was found under `pcid`.
bool TranslationHistory::KillsPage(const KillEvent& kill, uint16_t pcid, uint64_t gva, int level,
                                   bool global) const {
  switch (kill.kind) {
    case KillKind::kPage:
      // All pieces of a large page that are cached go, however many they are (5.10.4.1).
      return shape_.PageOf(kill.gva, level) == shape_.PageOf(gva, level) &&
             (global || kill.pcid == pcid);
    case KillKind::kAddress:
      // The SDM does not say so of INVPCID.
      return shape_.PageOf(kill.gva, 1) == shape_.PageOf(gva, 1) && !global && kill.pcid == pcid;
    case KillKind::kFault:
      return shape_.PageOf(kill.gva, 1) == shape_.PageOf(gva, 1) && (global || kill.pcid == pcid);
    case KillKind::kPcid:
      return !global && kill.pcid == pcid;
    case KillKind::kNotGlobal:
      return !global;
  }
  return false;
}

// Returns whether the event took away a cached upper entry of `level` on the way to `gva`.
bool TranslationHistory::KillsEntry(const KillEvent& kill, uint16_t pcid, uint64_t gva,
                                    int level) const {
  switch (kill.kind) {
    case KillKind::kPage:
    case KillKind::kPcid:
      return kill.pcid == pcid;
    case KillKind::kAddress:
    case KillKind::kFault:
      return kill.pcid == pcid && shape_.PageOf(kill.gva, level) == shape_.PageOf(gva, level);
    case KillKind::kNotGlobal:
      return true;
  }
  return false;
}

Time TranslationHistory::LastKillOfPage(uint16_t pcid, uint64_t gva, int level, bool global) const {
  for (auto kill = kills_.rbegin(); kill != kills_.rend(); ++kill) {
    if (KillsPage(*kill, pcid, gva, level, global)) return kill->time;
  }
  return horizon_;
}

Time TranslationHistory::LastKillOfPage(uint64_t gva, int level, bool global) const {
  return LastKillOfPage(pcid(), gva, level, global);
}

Time TranslationHistory::LastKillOfPage(const Query& query, int level, bool global) const {
  Time& killed = query.killed[static_cast<size_t>(level)][global ? 1 : 0];
  if (killed == 0) killed = LastKillOfPage(query.pcid, query.gva, level, global);
  return killed;
}

Time TranslationHistory::LastKillOfEntry(uint64_t gva, int level) const {
  for (auto kill = kills_.rbegin(); kill != kills_.rend(); ++kill) {
    if (KillsEntry(*kill, pcid(), gva, level)) return kill->time;
  }
  return horizon_;
}

std::vector<LegalWalk> TranslationHistory::Walks(Time now, uint64_t gva, bool globals) const {
  std::vector<LegalWalk> found;
  for (const Root& root : roots_) {
    const bool is_current = root.pcid == pcid();
    if (!is_current && !globals) continue;
    WalkFrom(root, {now, gva, root.pcid, globals, is_current, &found, {}});
  }
  return found;
}

void TranslationHistory::WalkFrom(const Root& root, const Query& query) const {
  Step step;
  step.table = root.root;
  step.walk.level = shape_.levels;
  step.from = root.from;
  step.to = root.to;
  step.root = &root;
  if (shape_.is_pae()) {
    // PDPTEs are registers: those that were loaded are in force, no more and no less.
    const uint64_t pdpte = root.pdptes[query.gva >> 30 & 3];
    if ((pdpte & kPresent) == 0) {
      step.walk.end = LegalWalk::End::kNotPresent;
      step.walk.level = 3;
      step.walk.fresh = true;
      if (query.now < root.to) Add(step.walk, query);
      return;
    }
    step.table = pdpte & kFrame;
  }
  WalkTable(step, query);
}

// Goes on by every value that the entry had while the table could be read.
void TranslationHistory::WalkTable(const Step& step, const Query& query) const {
  Step next = step;
  const int level = step.walk.level;
  const uint64_t at = shape_.EntryAt(step.table, query.gva, level);
  next.walk.entry_addresses[static_cast<size_t>(level)] = at;
  const absl::Span<const EntryVersion> versions = memory_.Versions(at);
  for (size_t i = 0; i < versions.size(); ++i) {
    const Time end = i + 1 < versions.size() ? versions[i + 1].start : kNever;
    const Time from = std::max(step.from, versions[i].start);
    const Time to = std::min(step.to, end);
    if (from < to) ReadEntry(next, query, versions[i].value, from, to);
  }
}

template <typename Visit>
void TranslationHistory::ForEachCurrent(const Step& step, const Query& query, Time from, Time to,
                                        Visit visit) const {
  for (const Root& root : roots_) {
    if (root.pcid != query.pcid || (step.root != nullptr && step.root != &root)) continue;
    const Time first = std::max(from, root.from);
    const Time last = std::min({to, root.to, query.now + 1});
    if (first < last) visit(first, last);
  }
}

// Goes on by `value`, which the entry had in [from, to) while the table above could be read.
void TranslationHistory::ReadEntry(const Step& step, const Query& query, uint64_t value, Time from,
                                   Time to) const {
  const bool present = (value & kPresent) != 0;
  if (!present || shape_.IsReserved(value)) {
    Step end = step;
    end.walk.end = present ? LegalWalk::End::kReserved : LegalWalk::End::kNotPresent;
    end.walk.fresh = true;  // nothing of it is ever kept
    ForEachCurrent(step, query, from, to, [&](Time, Time last) {
      if (last > query.now && query.is_current) Add(end.walk, query);
    });
    return;
  }
  Step next = step;
  next.walk.rights = step.walk.rights.And(value);
  ForEachCurrent(step, query, from, to, [&](Time first, Time last) {
    if (shape_.IsLeaf(value, step.walk.level)) {
      next.walk.leaf = value;
      ReadLeaf(next, query, last);
    } else {
      Descend(next, query, value, first, last);
    }
  });
}

// Adds a leaf that may have been read until `to`: it may be in use still if nothing killed it
// since.
void TranslationHistory::ReadLeaf(const Step& step, const Query& query, Time to) const {
  const bool global = query.globals && (step.walk.leaf & kGlobal) != 0;
  if (!query.is_current && !global) return;
  LegalWalk walk = step.walk;
  const bool readable_now = to > query.now;
  walk.fresh = readable_now && query.is_current;
  if (!readable_now && to <= LastKillOfPage(query, step.walk.level, global)) {
    return;
  }
  Add(walk, query);
}

// Goes down by an entry that may have been read in [from, to), and each time be kept until it is
// killed.
void TranslationHistory::Descend(const Step& step, const Query& query, uint64_t value, Time from,
                                 Time to) const {
  Step next;
  next.table = value & kFrame;
  next.walk = step.walk;
  --next.walk.level;
  Time first = from;
  const auto keep_until = [&](Time end) {
    next.from = first;
    next.to = end;
    if (first < end) WalkTable(next, query);
  };
  for (const KillEvent& kill : kills_) {
    if (kill.time < first || !KillsEntry(kill, query.pcid, query.gva, step.walk.level)) continue;
    keep_until(kill.time);
    first = std::max(first, kill.time);
    if (first >= to) return;
  }
  keep_until(kNever);
}

void TranslationHistory::Add(const LegalWalk& walk, const Query& query) {
  for (LegalWalk& known : *query.found) {
    if (known.end == walk.end && known.level == walk.level && known.leaf == walk.leaf &&
        known.rights.writable == walk.rights.writable && known.rights.user == walk.rights.user &&
        known.rights.executable == walk.rights.executable &&
        known.entry_addresses == walk.entry_addresses) {
      known.fresh |= walk.fresh;
      return;
    }
  }
  query.found->push_back(walk);
}

}  // namespace tdp::kernel
