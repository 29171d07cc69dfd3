// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/guest_walker.h"

#include "absl/base/optimization.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

// The guest rights of an entry with XD turned into a right, so that they combine by AND.
constexpr uint64_t kRightsMask = kGuestWrite | kGuestUser | kGuestNoExecute;
constexpr uint64_t RightsOfEntry(uint64_t entry) { return (entry ^ kGuestNoExecute) & kRightsMask; }

uint32_t AttributesOfRights(uint64_t rights) {
  return ((rights & kGuestUser) != 0 ? kAttrUser : kAttrSupervisor) |
         ((rights & kGuestWrite) != 0 ? kAttrWrite : 0) |
         ((rights & kGuestNoExecute) != 0 ? kAttrExecute : 0);
}

uint64_t RightsOfAttributes(uint32_t attributes) {
  return ((attributes & kAttrUser) != 0 ? kGuestUser : 0) |
         ((attributes & kAttrWrite) != 0 ? kGuestWrite : 0) |
         ((attributes & kAttrExecute) != 0 ? kGuestNoExecute : 0);
}

}  // namespace

void GuestWalker::Configure(const std::array<CacheGeometry, 6>& structures) {
  kept_levels_ = 0;
  for (int level = 2; level <= 5; ++level) {
    structures_[level].Configure(structures[AsIndex(level)]);
    if (structures[AsIndex(level)].sets != 0) kept_levels_ |= 1u << level;
  }
}

void GuestWalker::Reload(ContextId context) {
  rules_ = GuestRules(state_.registers, state_.features);
  rights_.Reload(state_.registers);
  context_ = context;
  table_access_is_write_ = state_.controls.ept && state_.eptp.accessed_dirty();
  // Without EPT a cached translation's path is that of this walk, and the full walk notes it.
  const bool notes_path = state_.oracle != nullptr && !state_.controls.ept;
  may_be_quiet_ = Is64Bit(rules_.mode()) && ept_.MayBeQuiet(kept_levels_ != 0) && !notes_path;
  quiet_table_need_ =
      ept_.QuietNeedOf(table_access_is_write_ ? kRightRead | kRightWrite : kRightRead, false);
  if (state_.oracle == nullptr) return;
  for (auto& cache : structures_) cache.EnableNotes();
}

void GuestWalker::DropAddress(uint64_t gva) {
  for (int level = 2; level <= 5; ++level) {
    structures_[level].Erase(ContextTable::Tag(context_, gva, rules_.shift(level)));
  }
}

Event GuestWalker::PageFault(const GuestRequest& request, uint32_t error_code) {
  state_.exit = {.event = Event::kPageFault,
                 .error_code = error_code,
                 .gva = Gva(request.gva),
                 .length = request.size};
  DropAddress(request.gva);
  return Event::kPageFault;
}

// Starts below the deepest cached upper entry, or at the root. False if there is no root (PAE).
inline bool GuestWalker::Begin(const GuestRequest& request, Walk& walk) {
  for (int level = 2; kept_levels_ != 0 && level <= rules_.levels(); ++level) {
    if (structures_[level].live() == 0) continue;
    const Structure* structure =
        structures_[level].Find(ContextTable::Tag(context_, request.gva, rules_.shift(level)));
    if (structure == nullptr) continue;
    if (state_.oracle != nullptr) {
      EptPath& note = structures_[level].NoteOf(structure);
      if (!state_.oracle->IsFresh(note)) {
        state_.oracle->Check(note, state_.eptp, Gva(request.gva), state_.memory);
      }
      (state_.controls.ept ? table_paths_[level - 1] : linear_path_) = note;
    }
    ++state_.counters.guest_cache_hits;
    walk.level = walk.top = level - 1;
    walk.tables[level - 1] = structure->table;
    walk.rights = walk.top_rights = RightsOfAttributes(structure->attributes);
    walk.tables_verified = walk.top_verified = structure->tables_verified;
    return true;
  }
  if (state_.oracle != nullptr && !state_.controls.ept) {
    linear_path_ = {.gpa = request.gva,
                    .verified = state_.oracle->clock(),
                    .root_level = static_cast<uint8_t>(rules_.levels()),
                    .linear = true};
  }
  walk.level = walk.top = rules_.levels();
  walk.rights = walk.top_rights = kRightsMask;
  uint64_t root = rules_.RootOf(state_.registers.cr3);
  if (rules_.mode() == PagingMode::kPae) {
    const uint64_t pdpte = state_.registers.pdptes[request.gva >> 30 & 3];
    if ((pdpte & kGuestPresent) == 0) return false;
    root = GuestRules::TableOf(pdpte);
  }
  walk.tables_verified = walk.top_verified = true;
  walk.tables[walk.top] = UnknownTable(root);
  return true;
}

// Translates the address of the walk's entry at its level. A read of a guest table counts as a
// write too when EPT A/D flags are on (SDM 29.3.5); `to_write` asks for the update of an A or D
// flag.
inline Event GuestWalker::ReachTable(const GuestRequest& request, Walk& walk, bool to_write) {
  Table& table = walk.tables[walk.level];
  if (!state_.controls.ept) {
    table.hpa = table.gpa;
    table.known = true;
    return Event::kNone;
  }
  const EptRequest ept_request = {.gpa = table.gpa + rules_.EntryOffset(request.gva, walk.level),
                                  .access = table_access_is_write_ ? kRightRead | kRightWrite
                                            : to_write             ? kRightWrite
                                                                   : kRightRead,
                                  .row = walk.level,
                                  .qualification = ept::kQualLinearAddressValid,
                                  .gva = request.gva,
                                  .size = rules_.entry_bytes(),
                                  .user_page = false,
                                  .guest_table = true,
                                  .shadow_stack = false};
  EptTranslation found;
  const Event event = ept_.Translate(ept_request, found, &table_paths_[walk.level]);
  if (event != Event::kNone) return event;
  table.hpa = found.HpaOf(table.gpa);
  table.known = true;
  table.paging_write = (found.leaf & ept::kPagingWrite) != 0;
  table.writable = table_access_is_write_ || ept_.PermitsTableWrite(found);
  return Event::kNone;
}

inline uint64_t GuestWalker::ReadEntry(const GuestRequest& request, Walk& walk) {
  const uint64_t hpa = walk.tables[walk.level].hpa + rules_.EntryOffset(request.gva, walk.level);
  uint64_t& count = state_.counters.references.guest[walk.level];
  if (rules_.entry_bytes() == 4) return state_.ReadEntry<uint32_t>(hpa, count);
  return state_.ReadEntry(hpa, count);
}

inline Event GuestWalker::Descend(const GuestRequest& request, Walk& walk) {
  for (;; --walk.level) {
    Table& table = walk.tables[walk.level];
    if (!table.known) {
      if (Event event = ReachTable(request, walk, false); event != Event::kNone) return event;
    }
    walk.tables_verified &= table.paging_write;
    if (ABSL_PREDICT_FALSE(state_.tables != nullptr) && !state_.controls.ept &&
        !state_.tables->IsTable(Hpa(table.hpa))) {
      state_.exit = {.event = Event::kWalkedNoTable, .gva = Gva(request.gva)};
      return Event::kWalkedNoTable;
    }
    const uint64_t entry = ReadEntry(request, walk);
    walk.entries[walk.level] = entry;
    if (!rules_.IsPlainTable(entry, walk.level)) {
      const uint32_t error = rights_.ErrorCodeOf(request.kind, request.accessor);
      if ((entry & kGuestPresent) == 0) return PageFault(request, error);
      if (ABSL_PREDICT_FALSE(rules_.HasReservedBit(entry, walk.level))) {
        return PageFault(request, kFaultPresent | kFaultReserved | error);
      }
    }
    walk.rights &= RightsOfEntry(entry);
    if (rules_.IsLeaf(entry, walk.level)) return Event::kNone;
    walk.tables[walk.level - 1] = UnknownTable(GuestRules::TableOf(entry));
  }
}

inline bool GuestWalker::WriteEntry(uint64_t hpa, uint64_t value, uint64_t flagged) {
  if (rules_.entry_bytes() == 4) {
    return state_.memory.CompareExchange<uint32_t>(hpa, static_cast<uint32_t>(value),
                                                   static_cast<uint32_t>(flagged));
  }
  return state_.memory.CompareExchange<uint64_t>(hpa, value, flagged);
}

// Sets A in every entry that the walk read and D in the leaf of a write, from the root down.
// `again` if another CPU changed an entry under the walk.
Event GuestWalker::SetFlags(const GuestRequest& request, Walk& walk, bool& again) {
  again = false;
  const int leaf = walk.level;
  for (walk.level = walk.top; walk.level >= leaf; --walk.level) {
    const uint64_t value = walk.entries[walk.level];
    uint64_t flagged = value | kGuestAccessed;
    if (walk.level == leaf && Writes(request.kind)) flagged |= kGuestDirty;
    if (flagged == value) continue;
    Table& table = walk.tables[walk.level];
    if (!table.writable) {
      if (Event event = ReachTable(request, walk, true); event != Event::kNone) return event;
    }
    const uint64_t hpa = table.hpa + rules_.EntryOffset(request.gva, walk.level);
    if (!WriteEntry(hpa, value, flagged)) {
      again = true;
      return Event::kNone;
    }
  }
  walk.level = leaf;
  return Event::kNone;
}

inline uint32_t GuestWalker::AttributesOf(uint64_t rights, uint64_t leaf) const {
  uint32_t attributes = AttributesOfRights(rights);
  if ((state_.registers.cr4 & kCr4Pge) != 0 && (leaf & kGuestGlobal) != 0)
    attributes |= kAttrGlobal;
  if ((leaf & kGuestDirty) != 0) attributes |= kAttrDirty;
  const unsigned key = Is64Bit(rules_.mode()) ? leaf >> 59 & 15 : 0;
  if (key == 0) attributes |= kAttrKeyFree;
  return attributes | key << kAttrKeyShift;
}

// Adds the entries that the walk read, as it left them, to those that a cache supplied.
void GuestWalker::NoteLinearPath(const GuestRequest& request, const Walk& walk) {
  if (rules_.entry_bytes() != 8) return;  // a path is of 64-bit entries: it stays unknown
  for (int level = walk.top; level >= walk.level; --level) {
    const bool dirtied = level == walk.level && Writes(request.kind);
    linear_path_.steps[linear_path_.count++] = {
        walk.tables[level].hpa + rules_.EntryOffset(request.gva, level),
        walk.entries[level] | kGuestAccessed | (dirtied ? kGuestDirty : 0)};
  }
}

// Keeps the upper entries: the rights of each are the AND from the root down to it.
void GuestWalker::Fill(const GuestRequest& request, const Walk& walk) {
  uint64_t rights = walk.top_rights;
  bool verified = walk.top_verified;
  for (int level = walk.top; level > walk.level; --level) {
    rights &= RightsOfEntry(walk.entries[level]);
    verified &= walk.tables[level].paging_write;
    if (structures_[level].geometry().sets == 0) continue;
    const uint64_t tag = ContextTable::Tag(context_, request.gva, rules_.shift(level));
    const Structure structure = {walk.tables[level - 1], AttributesOfRights(rights), verified};
    const Structure* kept = structures_[level].Insert(tag, structure);
    if (state_.oracle == nullptr) continue;
    EptPath& note = structures_[level].NoteOf(kept);
    note = state_.controls.ept ? table_paths_[level - 1] : linear_path_;
    if (!state_.controls.ept && note.count != 0) {
      note.count = static_cast<uint8_t>(rules_.levels() - level + 1);
    }
  }
}

// --- the quiet walk ---

inline bool GuestWalker::BeginQuietly(uint64_t gva, QuietWalk& walk) {
  walk.start = nullptr;
  if (kept_levels_ == 0) {
    walk.top = rules_.levels();
    walk.table = rules_.RootOf(state_.registers.cr3);
    walk.rights = kRightsMask;
    return true;
  }
  for (int level = 2; level <= rules_.levels(); ++level) {
    if (structures_[level].live() == 0) continue;
    walk.start = structures_[level].Find(ContextTable::Tag(context_, gva, rules_.shift(level)));
    if (walk.start == nullptr) continue;
    walk.top = level - 1;
    walk.table = walk.start->table.gpa;
    walk.rights = RightsOfAttributes(walk.start->attributes);
    return true;
  }
  return false;
}

// Finds the hpa of the walk's entry at `level`.
inline bool GuestWalker::ReachQuietly(uint64_t gva, int level, QuietWalk& walk, uint64_t& hpa) {
  const uint64_t offset = gva >> (ShiftOf(level) - 3) & 0xff8;
  hpa = walk.table | offset;
  if (!state_.controls.ept) return true;
  if (walk.start != nullptr && level == walk.top && walk.start->table.known) {
    hpa = walk.start->table.hpa | offset;
    return true;
  }
  EptTranslation found;
  if (!ept_.TranslateQuietly(hpa, quiet_table_need_, found, walk.ept_kinds[level])) return false;
  hpa = found.HpaOf(hpa);
  return true;
}

void GuestWalker::CountQuietly(const QuietWalk& walk, int leaf) {
  quiet_walks_.Count(WalkTally::Kind(walk.top, leaf));
  if (walk.start != nullptr) ++state_.counters.guest_cache_hits;
  if (!state_.controls.ept) return;
  int level = walk.top;
  if (walk.start != nullptr && walk.start->table.known) --level;
  for (; level >= leaf; --level) ept_.CountQuietly(level, walk.ept_kinds[level]);
}

bool GuestWalker::TranslateQuietly(const GuestRequest& request, GuestTranslation& found) {
  QuietWalk walk;
  if (!BeginQuietly(request.gva, walk)) return false;
  const uint64_t need = Writes(request.kind) ? kGuestDirty : 0;
  for (int level = walk.top;; --level) {
    uint64_t hpa;
    if (!ReachQuietly(request.gva, level, walk, hpa) || !state_.memory.IsInside(hpa)) return false;
    const uint64_t entry = state_.memory.LoadInside(hpa);
    walk.rights &= RightsOfEntry(entry);
    if (rules_.IsQuietTable(entry, level)) {
      walk.table = GuestRules::TableOf(entry);
      continue;
    }
    if (!rules_.IsQuietLeaf(entry, level, need)) return false;
    if ((kept_levels_ & WalkTally::UpperLevels(walk.top, level)) != 0) return false;
    found.attributes = AttributesOf(walk.rights, entry);
    if (rights_.FaultOf(found.attributes, request.kind, request.accessor) != 0) return false;
    found.gpa = rules_.GpaOf(entry, level, request.gva);
    found.level = level;
    found.shift = rules_.shift(level);
    found.pat_index = GuestRules::PatIndex(entry, level);
    CountQuietly(walk, level);
    return true;
  }
}

Event GuestWalker::Translate(const GuestRequest& request, GuestTranslation& found) {
  if (rules_.levels() == 0) {
    found = {.gpa = request.gva, .attributes = kAttrUnpaged};
    return Event::kNone;
  }
  if (may_be_quiet_ && TranslateQuietly(request, found)) return Event::kNone;
  Walk walk;
  for (bool again = true; again;) {
    if (!Begin(request, walk)) {
      return PageFault(request, rights_.ErrorCodeOf(request.kind, request.accessor));
    }
    if (Event event = Descend(request, walk); event != Event::kNone) return event;
    found.attributes = AttributesOf(walk.rights, walk.entries[walk.level]);
    const uint32_t error = rights_.FaultOf(found.attributes, request.kind, request.accessor);
    if (ABSL_PREDICT_FALSE(error != 0)) return PageFault(request, error);
    if (Event event = SetFlags(request, walk, again); event != Event::kNone) return event;
  }
  const uint64_t leaf = walk.entries[walk.level];
  found.gpa = rules_.GpaOf(leaf, walk.level, request.gva);
  if (Writes(request.kind)) found.attributes |= kAttrDirty;
  found.level = walk.level;
  found.shift = rules_.shift(walk.level);
  found.pat_index = GuestRules::PatIndex(leaf, walk.level);
  found.tables_verified = walk.tables_verified;
  if (state_.oracle != nullptr && !state_.controls.ept) NoteLinearPath(request, walk);
  if (kept_levels_ != 0) Fill(request, walk);
  return Event::kNone;
}

Event GuestWalker::LoadPdptes() {
  const uint64_t base = state_.registers.cr3 & 0xffffffe0;
  std::array<uint64_t, 4> loaded{};
  for (int i = 0; i < 4; ++i) {
    uint64_t hpa = base + 8 * AsIndex(i);
    if (state_.controls.ept) {
      // Always a read, whatever the A/D flags (SDM 29.3.5), and not on behalf of a linear address.
      EptTranslation found;
      const Event event =
          ept_.Translate({.gpa = hpa, .row = 3, .size = 8, .guest_table = true}, found, nullptr);
      if (event != Event::kNone) return event;
      hpa = found.HpaOf(hpa);
    }
    loaded[AsIndex(i)] = state_.ReadEntry(hpa, state_.counters.references.guest[3]);
    if (!rules_.IsValidPdpte(loaded[AsIndex(i)])) {
      state_.exit = {.event = Event::kGeneralProtection};
      return Event::kGeneralProtection;
    }
  }
  state_.registers.pdptes = loaded;
  return Event::kNone;
}

}  // namespace tdp::sim
