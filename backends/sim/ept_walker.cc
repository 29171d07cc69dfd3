// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/ept_walker.h"

#include "tdp/backends/sim/page_modification_log.h"
#include "tdp/backends/sim/sub_page.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
void EptWalker::Configure(const EptCacheConfig& config) {
  kept_levels_ = 0;
  has_translations_ = false;
  for (int level = 2; level <= 5; ++level) {
    structures_[level].Configure(config.structures[AsIndex(level)]);
    if (config.structures[AsIndex(level)].sets != 0) kept_levels_ |= 1u << level;
  }
  for (int level = 1; level <= 3; ++level) {
    translations_[level].Configure(config.translations[AsIndex(level)]);
    has_translations_ |= config.translations[AsIndex(level)].sets != 0;
  }
}

void EptWalker::Reload(ContextId context) {
  if (levels_ != state_.eptp.levels()) {
    AddQuietCounts(state_.counters);
    ClearQuietCounts();
  }
  rules_ = EptRules(state_.features, state_.controls.mbec, state_.controls.paging_write);
  accessed_dirty_ = state_.eptp.accessed_dirty();
  quiet_rules_ = QuietEptRules(state_.features, state_.controls.mbec, accessed_dirty_);
  may_be_quiet_ = state_.cost == nullptr && state_.tables == nullptr &&
                  !state_.controls.guest_paging_verification;
  levels_ = state_.eptp.levels();
  context_ = context;
  if (state_.oracle == nullptr) return;
  for (auto& cache : structures_) cache.EnableNotes();
  for (auto& cache : translations_) cache.EnableNotes();
}

void EptWalker::AddQuietCounts(CpuCounters& counters) const {
  for (int row = 0; row < ReferenceCounts::kLevels; ++row) {
    quiet_walks_[row].AddTo(counters.references.ept[row]);
    quiet_walks_[row].ForEach([&](int top, int /*leaf*/, uint64_t walks) {
      if (top == 0) counters.nested_tlb_hits += walks;
      if (top != 0 && top < levels_) counters.ept_cache_hits += walks;
    });
  }
}

// --- rights ---

inline bool EptWalker::Permits(const EptTranslation& found, const EptRequest& request) const {
  const unsigned rights = found.rights;
  if (request.shadow_stack && state_.eptp.supervisor_shadow_stack()) {
    // Readable, writable above the leaf, and marked in the leaf; the leaf's own W does not matter.
    return (rights & kRightRead) != 0 && (found.upper_rights & kRightWrite) != 0 &&
           (found.leaf & ept::kSupervisorShadowStack) != 0;
  }
  if ((request.access & kRightExecute) != 0) {
    const bool user = state_.controls.mbec && request.user_page;
    return (rights & (user ? kRightUserExecute : kRightExecute)) != 0;
  }
  if ((request.access & ~rights) == 0) return true;
  // A guest-table access that lacks W alone.
  return request.guest_table && (request.access & ~rights) == kRightWrite &&
         PermitsTableWrite(found);
}

Event EptWalker::Violation(const EptRequest& request, unsigned rights, uint64_t last_entry) {
  const unsigned reported = rights & (state_.controls.mbec ? 15 : 7);
  // This is bit 60 of an entry that maps a page; it is undefined, and 0 here, where the walk ended
  // before.
  const bool shadow_stack_page = state_.eptp.supervisor_shadow_stack() &&
                                 rules_.IsPresent(last_entry) &&
                                 (last_entry & ept::kSupervisorShadowStack) != 0;
  const uint64_t qualification = request.access | uint64_t{reported} << ept::kQualRightsShift |
                                 request.qualification |
                                 (request.shadow_stack ? ept::kQualShadowStackAccess : 0) |
                                 (shadow_stack_page ? ept::kQualSupervisorShadowStack : 0);
  const bool linear = (request.qualification & ept::kQualLinearAddressValid) != 0;
  state_.exit = {.event = Event::kEptViolation,
                 .qualification = ExitQualification(qualification),
                 .gpa = Gpa(request.gpa),
                 .gva = Gva(linear ? request.gva : 0),
                 .length = request.size};
  // Kept for the #VE rule: bit 63 of the entry that ended the walk.
  state_.violation_suppresses_ve = (last_entry & ept::kSuppressVe) != 0;
  DropAddress(request.gpa);
  return Event::kEptViolation;
}

Event EptWalker::Misconfiguration(const EptRequest& request) {
  state_.exit = {.event = Event::kEptMisconfiguration, .gpa = Gpa(request.gpa)};
  DropAddress(request.gpa);
  return Event::kEptMisconfiguration;
}

Event EptWalker::WalkedNoTable(const EptRequest& request) {
  state_.exit = {.event = Event::kWalkedNoTable, .gpa = Gpa(request.gpa)};
  DropAddress(request.gpa);
  return Event::kWalkedNoTable;
}

Event EptWalker::AllowBySubPage(const EptRequest& request, const EptTranslation& found,
                                bool& allowed) {
  allowed = false;
  const bool linear = (request.qualification & ept::kQualLinearAddressValid) != 0;
  const bool applies = state_.controls.spp && found.level == 1 && linear && !request.guest_table &&
                       (request.access & kRightWrite) != 0 &&
                       (found.leaf & ept::kSubPageWrite) != 0 && (found.rights & kRightRead) != 0 &&
                       (found.upper_rights & kRightWrite) != 0 && (found.leaf & ept::kWrite) == 0;
  if (!applies) return Event::kNone;
  const SubPageAnswer answer = LookUpSubPages(state_, request.gpa, request.size);
  allowed = answer == SubPageAnswer::kWritable;
  if (answer == SubPageAnswer::kWritable || answer == SubPageAnswer::kProtected)
    return Event::kNone;
  state_.exit = {.event = Event::kSppEvent,
                 .qualification = ExitQualification(answer == SubPageAnswer::kMiss ? kSppMiss : 0),
                 .gpa = Gpa(request.gpa),
                 .gva = Gva(request.gva),
                 .length = request.size};
  return Event::kSppEvent;
}

// --- caches ---

EptTranslation* EptWalker::FindTranslation(const EptRequest& request, EptPath* path) {
  for (int level = 1; level <= 3; ++level) {
    if (translations_[level].live() == 0) continue;
    const uint64_t tag = ContextTable::Tag(context_, request.gpa, ShiftOf(level));
    EptTranslation* found = translations_[level].Find(tag);
    if (found == nullptr) continue;
    if (state_.oracle != nullptr) {
      EptPath& note = translations_[level].NoteOf(found);
      if (!state_.oracle->IsFresh(note)) {
        state_.oracle->Check(note, state_.eptp, Gva(request.gva), state_.memory);
      }
      if (path != nullptr) *path = note;
    }
    return found;
  }
  return nullptr;
}

void EptWalker::DropAddress(uint64_t gpa) {
  for (int level = 1; level <= 5; ++level) {
    const uint64_t tag = ContextTable::Tag(context_, gpa, ShiftOf(level));
    if (level <= 3) translations_[level].Erase(tag);
    if (level >= 2) structures_[level].Erase(tag);
  }
}

void EptWalker::Fill(const EptRequest& request, const Walk& walk, const EptTranslation& found,
                     EptPath* path) {
  if (path != nullptr) {
    const uint64_t accessed = accessed_dirty_ ? ept::kAccessed : 0;
    for (int level = walk.top; level >= found.level; --level) {
      const uint64_t value = level == found.level ? found.leaf : walk.values[level];
      path->steps[path->count++] = {walk.addresses[level], value | accessed};
    }
  }
  unsigned rights = walk.top_rights;
  for (int level = walk.top; level > found.level; --level) {
    rights &= RightsOf(walk.values[level]);
    if (structures_[level].geometry().sets == 0) continue;
    const uint64_t tag = ContextTable::Tag(context_, request.gpa, ShiftOf(level));
    Structure* structure = structures_[level].Insert(
        tag, {walk.values[level] & ept::kAddressMask, static_cast<uint8_t>(rights)});
    if (path == nullptr) continue;
    EptPath& note = structures_[level].NoteOf(structure);
    note = *path;
    note.count = static_cast<uint8_t>(levels_ - level + 1);
  }
  if (translations_[found.level].geometry().sets == 0) return;
  const uint64_t tag = ContextTable::Tag(context_, request.gpa, found.shift());
  const EptTranslation* kept = translations_[found.level].Insert(tag, found);
  if (path != nullptr) translations_[found.level].NoteOf(kept) = *path;
}

// --- the walk ---

// Starts below the deepest cached upper entry, or at the root.
inline void EptWalker::Begin(const EptRequest& request, Walk& walk, EptPath* path) {
  const uint64_t gpa = request.gpa;
  if (path != nullptr) {
    *path = {.gpa = gpa,
             .eptp = state_.eptp.raw(),
             .verified = state_.oracle->clock(),
             .root_level = static_cast<uint8_t>(levels_)};
  }
  for (int level = 2; kept_levels_ != 0 && level <= levels_; ++level) {
    if (structures_[level].live() == 0) continue;
    const Structure* structure =
        structures_[level].Find(ContextTable::Tag(context_, gpa, ShiftOf(level)));
    if (structure == nullptr) continue;
    if (path != nullptr) {
      EptPath& note = structures_[level].NoteOf(structure);
      if (!state_.oracle->IsFresh(note)) {
        state_.oracle->Check(note, state_.eptp, Gva(request.gva), state_.memory);
      }
      *path = note;
      path->gpa = gpa;
    }
    ++state_.counters.ept_cache_hits;
    walk.table = structure->table;
    walk.level = walk.top = level - 1;
    walk.top_rights = walk.upper_rights = structure->rights;
    return;
  }
  walk.table = state_.eptp.raw() & ept::kAddressMask;
  walk.level = walk.top = levels_;
  walk.top_rights = walk.upper_rights = 15;
}

// Reads entries down to the leaf; kNone with the walk at the leaf's level, or the event that ends
// it.
inline Event EptWalker::Descend(const EptRequest& request, Walk& walk) {
  // Copies that stay in registers over the loop, which the counters' stores could otherwise touch.
  const PhysicalMemory memory = state_.memory;
  DataCacheModel* const cost = state_.cost;
  const TableFrames* const tables = state_.tables;
  uint64_t* const counts = state_.counters.references.ept[request.row].data();
  const uint64_t gpa = request.gpa;
  uint64_t table = walk.table;
  int shift = ShiftOf(walk.level) - 3;  // leaves the index times eight
  for (int level = walk.level;; --level, shift -= 9) {
    const uint64_t address = table | (gpa >> shift & 0xff8);
    ++counts[level];
    if (ABSL_PREDICT_FALSE(cost != nullptr)) {
      state_.counters.walk_cycles += static_cast<uint64_t>(cost->Access(address));
    }
    if (ABSL_PREDICT_FALSE(tables != nullptr) && !tables->IsTable(Hpa(table))) {
      return WalkedNoTable(request);
    }
    const uint64_t value = memory.Load(address);
    walk.addresses[level] = address;
    walk.values[level] = value;
    if (ABSL_PREDICT_FALSE(!rules_.IsPlainTable(value, level))) {
      if (!rules_.IsPresent(value)) return Violation(request, 0, value);
      if (rules_.IsMisconfigured(value, level)) return Misconfiguration(request);
      if (EptRules::IsLeaf(value, level)) {
        walk.level = level;
        return Event::kNone;
      }
    }
    walk.upper_rights &= RightsOf(value);
    table = value & ept::kAddressMask;
  }
}

// The SDM's order (29.3.6): if any A or D flag is to be set, the log must have room first; then the
// flags; then the log, for a dirty flag that went from 0 to 1.
Event EptWalker::SetFlags(const EptRequest& request, const Walk& walk, bool& again) {
  again = false;
  const uint64_t leaf_flags =
      ept::kAccessed | ((request.access & kRightWrite) != 0 ? ept::kDirty : 0);
  uint64_t missing = leaf_flags & ~walk.values[walk.level];
  for (int level = walk.top; level > walk.level; --level) {
    missing |= ept::kAccessed & ~walk.values[level];
  }
  if (ABSL_PREDICT_TRUE(missing == 0)) return Event::kNone;
  if (state_.controls.pml && IsLogFull(state_)) {
    state_.exit = {.event = Event::kPmlFull};
    return Event::kPmlFull;
  }
  for (int level = walk.top; level >= walk.level; --level) {
    const uint64_t value = walk.values[level];
    const uint64_t flagged = value | (level == walk.level ? leaf_flags : ept::kAccessed);
    if (flagged == value) continue;
    if (!state_.memory.CompareExchange(walk.addresses[level], value, flagged)) {
      again = true;
      return Event::kNone;
    }
  }
  const bool dirtied = (leaf_flags & ~walk.values[walk.level] & ept::kDirty) != 0;
  if (dirtied && state_.controls.pml) LogDirtyPage(state_, request.gpa);
  return Event::kNone;
}

Event EptWalker::WalkTables(const EptRequest& request, EptTranslation& found, EptPath* path) {
  Walk walk;
  for (bool again = true; again;) {
    Begin(request, walk, path);
    if (Event event = Descend(request, walk); event != Event::kNone) return event;
    const uint64_t leaf = walk.values[walk.level];
    found.leaf = leaf;
    found.level = static_cast<uint8_t>(walk.level);
    found.rights = static_cast<uint8_t>(walk.upper_rights & RightsOf(leaf));
    found.upper_rights = static_cast<uint8_t>(walk.upper_rights);
    if (ABSL_PREDICT_FALSE(!Permits(found, request))) {
      bool allowed = false;
      if (Event event = AllowBySubPage(request, found, allowed); event != Event::kNone)
        return event;
      if (!allowed) return Violation(request, found.rights, leaf);
    }
    if (!accessed_dirty_) break;
    if (Event event = SetFlags(request, walk, again); event != Event::kNone) return event;
    if ((request.access & kRightWrite) != 0) found.leaf |= ept::kDirty;
  }
  if (kept_levels_ != 0 || has_translations_ || path != nullptr) Fill(request, walk, found, path);
  return Event::kNone;
}

Event EptWalker::Translate(const EptRequest& request, EptTranslation& found, EptPath* path) {
  if (state_.oracle == nullptr) path = nullptr;
  if (const EptTranslation* cached = has_translations_ ? FindTranslation(request, path) : nullptr) {
    const bool permits = Permits(*cached, request);
    if (permits && !NeedsDirty(request, cached->leaf)) {
      ++state_.counters.nested_tlb_hits;
      found = *cached;
      return Event::kNone;
    }
    const bool sub_page = state_.controls.spp && (cached->leaf & ept::kSubPageWrite) != 0;
    if (!permits && !sub_page && state_.policy == CachePolicy::kAdversarial) {
      return Violation(request, cached->rights, cached->leaf);
    }
  }
  // Beyond the width of a 4-level EPT nothing is mapped (SDM 29.3.2).
  if (ABSL_PREDICT_FALSE(request.gpa >> ShiftOf(levels_ + 1) != 0)) return Violation(request, 0, 0);
  if (ABSL_PREDICT_FALSE(state_.oracle != nullptr && path == nullptr)) path = &unused_path_;
  return WalkTables(request, found, path);
}

}  // namespace tdp::sim
