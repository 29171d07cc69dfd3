// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/flush_oracle.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kRights = ept::kRightsMask | ept::kUserExecute;
constexpr uint64_t kLinearRights = kGuestWrite | kGuestUser | kGuestNoExecute;
// A run that never looks at its reports must not eat all memory.
constexpr size_t kMaxReports = 1000;

uint32_t ThisThread() {
  static std::atomic<uint32_t> next{1};
  thread_local const uint32_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

unsigned RightsSet(uint64_t entry) {
  return static_cast<unsigned>((entry & ept::kRightsMask) | (entry >> 7 & 8));
}

bool MapsPage(uint64_t entry, int level) {
  return level == 1 || (level <= 3 && (entry & ept::kLargePage) != 0);
}

// Returns whether the change could owe a flush at all, at whatever level.
bool MayOweFlush(uint64_t before, uint64_t after) {
  if ((before & kRights) == 0) return false;
  constexpr uint64_t kWatched = kRights | ept::kMemoryTypeMask | ept::kIgnorePat | ept::kLargePage |
                                ept::kAddressMask | ept::kAccessed | ept::kDirty |
                                ept::kSubPageWrite | ept::kPagingWrite |
                                ept::kSupervisorShadowStack;
  constexpr uint64_t kOnlyWhenCleared = kRights | ept::kAccessed | ept::kDirty |
                                        ept::kSubPageWrite | ept::kPagingWrite |
                                        ept::kSupervisorShadowStack;
  const uint64_t changed = (before ^ after) & kWatched;
  return (changed & ~kOnlyWhenCleared) != 0 || (changed & before) != 0;
}

}  // namespace

const char* ChangeKindName(ChangeKind kind) {
  switch (kind) {
    case ChangeKind::kNone:
      return "none";
    case ChangeKind::kRightRemoved:
      return "right removed";
    case ChangeKind::kAddressChanged:
      return "address changed";
    case ChangeKind::kLeafTableChanged:
      return "leaf and table exchanged";
    case ChangeKind::kMemoryTypeChanged:
      return "memory type changed";
    case ChangeKind::kIgnorePatChanged:
      return "ignore-PAT changed";
    case ChangeKind::kAccessedCleared:
      return "accessed flag cleared";
    case ChangeKind::kDirtyCleared:
      return "dirty flag cleared";
    case ChangeKind::kWalkLengthChanged:
      return "walk length changed";
    case ChangeKind::kAccessedDirtyEnabled:
      return "accessed and dirty flags enabled";
  }
  return "?";
}

ChangeKind ClassifyChange(uint64_t before, uint64_t after, int level, bool accessed_dirty,
                          unsigned rights) {
  if ((after & kRights) == 0) return ChangeKind::kRightRemoved;
  const bool leaf = MapsPage(before, level);
  if (leaf != MapsPage(after, level)) return ChangeKind::kLeafTableChanged;
  const uint64_t changed = before ^ after;
  if ((changed & ept::kAddressMask) != 0) return ChangeKind::kAddressChanged;
  if ((RightsSet(before) & rights & ~RightsSet(after)) != 0) return ChangeKind::kRightRemoved;
  const uint64_t cleared = before & ~after;
  if (leaf) {
    constexpr uint64_t kLeafRights =
        ept::kSubPageWrite | ept::kPagingWrite | ept::kSupervisorShadowStack;
    if ((changed & ept::kMemoryTypeMask) != 0) return ChangeKind::kMemoryTypeChanged;
    if ((changed & ept::kIgnorePat) != 0) return ChangeKind::kIgnorePatChanged;
    if ((cleared & kLeafRights) != 0) return ChangeKind::kRightRemoved;
  }
  if (!accessed_dirty) return ChangeKind::kNone;
  // D matters to writes alone: what was cached without W is walked again before a write.
  if (leaf && (cleared & ept::kDirty) != 0 && (RightsSet(before) & rights & ept::kWrite) != 0) {
    return ChangeKind::kDirtyCleared;
  }
  if ((cleared & ept::kAccessed) != 0) return ChangeKind::kAccessedCleared;
  return ChangeKind::kNone;
}

ChangeKind ClassifyLinearChange(uint64_t before, uint64_t after, int level, uint64_t rights) {
  if ((after & kGuestPresent) == 0) return ChangeKind::kRightRemoved;
  const bool leaf = MapsPage(before, level);
  if (leaf != MapsPage(after, level)) return ChangeKind::kLeafTableChanged;
  const uint64_t changed = before ^ after;
  // The third bit of an index of the PAT, which a large page has among its address's.
  const uint64_t pat = !leaf ? 0 : level == 1 ? uint64_t{1} << 7 : uint64_t{1} << 12;
  if ((changed & ept::kAddressMask & ~pat) != 0) return ChangeKind::kAddressChanged;
  const uint64_t had = (before ^ kGuestNoExecute) & rights & kLinearRights;
  if ((had & ~(after ^ kGuestNoExecute)) != 0) return ChangeKind::kRightRemoved;
  constexpr uint64_t kPwtAndPcd = 3 << 3;
  if ((changed & (kPwtAndPcd | pat)) != 0) return ChangeKind::kMemoryTypeChanged;
  const uint64_t cleared = before & ~after;
  if (leaf && (cleared & kGuestDirty) != 0 && (had & kGuestWrite) != 0) {
    return ChangeKind::kDirtyCleared;
  }
  if ((cleared & kGuestAccessed) != 0) return ChangeKind::kAccessedCleared;
  return ChangeKind::kNone;
}

std::string StaleUse::DebugString() const {
  return absl::StrFormat(
      "stale translation used (%s): gva %#x gpa %#x, level-%d entry at hpa %#x was %#x, is %#x%s%s",
      ChangeKindName(kind), gva.raw(), gpa.raw(), level, entry.raw(), cached, now,
      where.empty() ? "" : ", changed by ", where);
}

void FlushOracle::OnStore(Hpa entry, uint64_t before, uint64_t after, const char* where) {
  const bool may_owe =
      options_.linear ? (before & 1) != 0 && before != after : MayOweFlush(before, after);
  if (!may_owe) return;
  AbslMutexLock lock(mutex_);
  if (in_operation_) touched_.push_back(entry.raw());
  const uint64_t number = clock_.load(std::memory_order_relaxed);
  changes_[entry.raw()].push_back({number, before, after, ThisThread(), where});
  clock_.store(number + 1, std::memory_order_release);
}

void FlushOracle::OnEptpChange() {
  AbslMutexLock lock(mutex_);
  clock_.fetch_add(1, std::memory_order_acq_rel);
}

void FlushOracle::BeginOperation() {
  AbslMutexLock lock(mutex_);
  in_operation_ = true;
  touched_.clear();
}

void FlushOracle::EndOperation() {
  AbslMutexLock lock(mutex_);
  in_operation_ = false;
  settled_all_ = clock_.load(std::memory_order_relaxed);
  settles_.fetch_add(1, std::memory_order_acq_rel);
  // All that an entry went through is due: whatever a translation missed, it missed the last of it.
  for (const uint64_t entry : touched_) {
    std::vector<Change>& changes = changes_[entry];
    if (changes.size() > 1) changes.erase(changes.begin(), changes.end() - 1);
  }
  touched_.clear();
}

void FlushOracle::Reset() {
  AbslMutexLock lock(mutex_);
  changes_.clear();
  settled_.clear();
  settled_all_ = 0;
  touched_.clear();
  in_operation_ = false;
  reports_.clear();
  report_count_.store(0, std::memory_order_release);
  clock_.fetch_add(1, std::memory_order_acq_rel);
}

void FlushOracle::Settle() {
  AbslMutexLock lock(mutex_);
  settled_[ThisThread()] = clock_.load(std::memory_order_relaxed);
  settles_.fetch_add(1, std::memory_order_acq_rel);
}

void FlushOracle::SettleAll() {
  AbslMutexLock lock(mutex_);
  settled_all_ = clock_.load(std::memory_order_relaxed);
  settles_.fetch_add(1, std::memory_order_acq_rel);
}

// Looks for a step of the path that no longer says the same, with effective rights: a right that
// another entry of the walk withholds anyway is not missed.
bool FlushOracle::FindDifference(const EptPath& path, Eptp eptp, const PhysicalMemory& memory,
                                 int& from, StaleUse& use) const {
  const bool accessed_dirty = eptp.accessed_dirty();
  unsigned rights = 15;
  uint64_t linear_rights = kLinearRights;
  for (size_t i = 0; i < path.count; ++i) {
    rights &= RightsSet(path.steps[i].value);
    linear_rights &= path.steps[i].value ^ kGuestNoExecute;
  }
  const uint64_t counts = ~options_.ignored_bits;
  for (; from < path.count; ++from) {
    const auto& [address, value] = path.steps[AsIndex(from)];
    const uint64_t now = memory.Load(address);
    if (now == value) continue;
    const int level = path.level_of(from);
    use.kind = path.linear
                   ? ClassifyLinearChange(value, now, level, linear_rights)
                   : ClassifyChange(value & counts, now & counts, level, accessed_dirty, rights);
    if (use.kind == ChangeKind::kNone) continue;
    if (use.kind == ChangeKind::kAccessedCleared && !options_.accessed_clear_owed) continue;
    use.entry = Hpa(address);
    use.level = level;
    use.cached = value;
    use.now = now;
    return true;
  }
  return false;
}

// Says what owes a flush since the path is used under another EPTP.
ChangeKind FlushOracle::FindEptpChange(const EptPath& path, Eptp eptp) {
  if (path.linear) return ChangeKind::kNone;
  const Eptp before(path.eptp);
  if (before.levels() != eptp.levels()) return ChangeKind::kWalkLengthChanged;
  return eptp.accessed_dirty() && !before.accessed_dirty() ? ChangeKind::kAccessedDirtyEnabled
                                                           : ChangeKind::kNone;
}

// Returns the earliest change of the entry, made after the translation was last known good, that is
// due.
const FlushOracle::Change* FlushOracle::DueChange(const StaleUse& use, uint64_t since) const {
  const auto it = changes_.find(use.entry.raw());
  if (it == changes_.end()) return nullptr;
  for (const Change& change : it->second) {
    if (change.number < since) continue;
    const auto settled = settled_.find(change.thread);
    const uint64_t due = settled == settled_.end() ? 0 : settled->second;
    if (options_.settle_at_once || change.number < due || change.number < settled_all_) {
      return &change;
    }
  }
  return nullptr;
}

bool FlushOracle::IsDue(EptPath& path, StaleUse& use) {
  AbslMutexLock lock(mutex_);
  if (const Change* change = DueChange(use, path.verified)) {
    use.where = change->where;
    use.change = change->number;
    return true;
  }
  if (in_operation_ || !options_.every_use) return false;
  if (options_.settle_at_once) return true;
  const uint64_t settles = settles_.load(std::memory_order_acquire);
  if (path.seen_at == 0) path.seen_at = settles;
  return path.seen_at != settles;
}

void FlushOracle::Check(EptPath& path, Eptp eptp, Gva gva, const PhysicalMemory& memory) {
  const uint64_t now = clock();
  if (path.count == 0) {
    path.verified = now;
    return;
  }
  StaleUse use;
  // The EPTP is the CPU's own: entering the guest with it made the flush due.
  use.kind = FindEptpChange(path, eptp);
  bool is_due = use.kind != ChangeKind::kNone;
  bool differs = is_due;
  // One of several changes may be due, though another, above it, is not yet.
  for (int step = 0; !is_due && FindDifference(path, eptp, memory, step, use); ++step) {
    differs = true;
    is_due = IsDue(path, use);
  }
  if (!differs) {
    path.verified = now;
    path.seen_at = 0;
  }
  if (!is_due) return;
  use.gva = gva;
  use.gpa = Gpa(path.gpa);
  AbslMutexLock lock(mutex_);
  report_count_.fetch_add(1, std::memory_order_acq_rel);
  if (reports_.size() < kMaxReports) reports_.push_back(std::move(use));
}

std::vector<StaleUse> FlushOracle::reports() const {
  AbslMutexLock lock(mutex_);
  return reports_;
}

void FlushOracle::ClearReports() {
  AbslMutexLock lock(mutex_);
  reports_.clear();
  report_count_.store(0, std::memory_order_release);
}

}  // namespace tdp::sim
