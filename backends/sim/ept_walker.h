// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The second dimension: from a guest-physical to a host-physical address, through the EPT or what
// is cached of it (SDM vol. 3C, 29.3 and 30.4).

#ifndef TDP_BACKENDS_SIM_EPT_WALKER_H_
#define TDP_BACKENDS_SIM_EPT_WALKER_H_

#include <array>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/backends/sim/assoc_cache.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/backends/sim/machine_state.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {

// One guest-physical access.
struct EptRequest {
  uint64_t gpa = 0;
  unsigned access = kRightRead;  // kRightRead, kRightWrite, both, or kRightExecute
  int row = 0;  // of ReferenceCounts::ept: the guest level of a table, 0: final address
  uint64_t qualification = 0;  // bits 7 and up, as a violation reports them
  uint64_t gva = 0;            // reported if the qualification says it is valid
  unsigned size = 1;           // bytes; matters for sub-page permissions
  bool user_page = false;      // the linear address is a user-mode one: chooses X under MBEC
  bool guest_table = false;    // an access to a guest paging structure
  bool shadow_stack = false;   // a supervisor shadow-stack access
};

// Tells where a guest-physical address leads: what a nested TLB keeps.
struct EptTranslation {
  uint64_t leaf = 0;         // the entry that maps the page
  uint8_t level = 0;         // of it, 1 to 3
  uint8_t rights = 0;        // AND over the walk, `kRight…`
  uint8_t upper_rights = 0;  // AND over the entries above the leaf

  int shift() const { return ShiftOf(level); }
  uint64_t HpaOf(uint64_t gpa) const {
    const uint64_t offset = (uint64_t{1} << shift()) - 1;
    return (leaf & ept::kAddressMask & ~offset) | (gpa & offset);
  }
};

struct EptCacheConfig {
  // Upper entries by level, [2] for PDEs to [5] for PML5Es.
  std::array<CacheGeometry, 6> structures{};
  // The nested TLB: translations of guest-physical pages by page level, [1] to [3].
  std::array<CacheGeometry, 4> translations{};
};

class EptWalker {
 public:
  explicit EptWalker(MachineState& state) : state_(state) {}

  void Configure(const EptCacheConfig& config);
  // Takes over features, controls, EPTP and oracle of the state after they changed. `context` tags
  // the guest-physical mappings of the EPTP.
  void Reload(ContextId context);

  // Translates, sets A and D flags and writes the PML as the access demands. On kNone, `found` is
  // the translation and `path` (if the oracle is on and `path` is not null) the entries behind it.
  // Otherwise `state.exit` is filled and the mappings of the address are dropped.
  Event Translate(const EptRequest& request, EptTranslation& found, EptPath* path);

  // Does the same for the common case, a walk on which there is nothing to decide, set or report.
  // Returns false, with nothing counted or changed, if `Translate` must be asked. `need` is what
  // `QuietNeedOf` says of the access. A walk that is used is to be counted by `CountQuietly`, as of
  // `kind`.
  bool TranslateQuietly(uint64_t gpa, uint64_t need, EptTranslation& found, unsigned& kind);
  // Returns the bits that `access` (`kRight…`) wants in the leaf of a quiet walk; `user_page` as in
  // a request.
  uint64_t QuietNeedOf(unsigned access, bool user_page) const {
    if (access == kRightExecute && user_page && state_.controls.mbec) return ept::kUserExecute;
    return access | (accessed_dirty_ && (access & kRightWrite) != 0 ? ept::kDirty : 0);
  }
  // Returns whether quiet walks are possible: nobody watches each reference, and no cache, the
  // caller's own (`keeps_paths`) or one of these, keeps an entry's path for the oracle.
  bool MayBeQuiet(bool keeps_paths) const {
    return may_be_quiet_ &&
           (state_.oracle == nullptr || (!keeps_paths && kept_levels_ == 0 && !has_translations_));
  }
  // Counts a quiet walk; `row` is that of ReferenceCounts::ept.
  void CountQuietly(int row, unsigned kind) { quiet_walks_[row].Count(kind); }
  void AddQuietCounts(CpuCounters& counters) const;
  void ClearQuietCounts() { quiet_walks_ = {}; }

  // Returns whether the rights of `found` suffice; SPP is not asked.
  bool Permits(const EptTranslation& found, const EptRequest& request) const;
  // Returns whether A and D flags of guest entries in that page may be written.
  bool PermitsTableWrite(const EptTranslation& found) const {
    if ((found.rights & kRightWrite) != 0) return true;
    // Paging-write access: the leaf lets guest paging structures be updated though data is not.
    return state_.controls.paging_write && (found.rights & kRightRead) != 0 &&
           (found.upper_rights & kRightWrite) != 0 && (found.leaf & ept::kPagingWrite) != 0;
  }
  // Reports a violation. `last_entry` is the one that ended the walk, a leaf or one that is not
  // present; `rights` the AND over the walk, 0 without a leaf.
  Event Violation(const EptRequest& request, unsigned rights, uint64_t last_entry);

  // Drops the mappings that would translate `gpa` under the current EPTP.
  void DropAddress(uint64_t gpa);
  // Drops every mapping whose context satisfies `predicate(const Context&)`.
  template <typename Predicate>
  void DropIf(Predicate predicate) {
    const auto drop = [&](uint64_t tag, const auto&) {
      return predicate(state_.contexts.OfTag(tag));
    };
    for (auto& cache : structures_) cache.EraseIf(drop);
    for (auto& cache : translations_) cache.EraseIf(drop);
  }

 private:
  // An upper entry in a paging-structure cache: the table it points to and the rights down to it.
  struct Structure {
    uint64_t table = 0;
    uint8_t rights = 0;
  };
  // A walk that is being made.
  struct Walk {
    uint64_t table = 0;
    int level = 0;               // of `table`
    int top = 0;                 // of the first entry read
    unsigned top_rights = 15;    // AND over the entries above `top`, which a cache supplied
    unsigned upper_rights = 15;  // AND over the entries above the leaf
    // Filled from `top` down to the leaf, the rest not set.
    LevelArray<uint64_t> addresses;
    LevelArray<uint64_t> values;
  };

  // These look for a structure or nested-TLB entry, in the oracle's absence.
  bool FindQuietTranslation(uint64_t gpa, uint64_t need, EptTranslation& found);
  bool BeginQuietly(uint64_t gpa, uint64_t& table, int& level);

  EptTranslation* FindTranslation(const EptRequest& request, EptPath* path);
  Event WalkTables(const EptRequest& request, EptTranslation& found, EptPath* path);
  void Begin(const EptRequest& request, Walk& walk, EptPath* path);
  Event Descend(const EptRequest& request, Walk& walk);
  Event AllowBySubPage(const EptRequest& request, const EptTranslation& found, bool& allowed);
  // Returns kNone with `again` set if another CPU changed an entry under the walk.
  Event SetFlags(const EptRequest& request, const Walk& walk, bool& again);
  void Fill(const EptRequest& request, const Walk& walk, const EptTranslation& found,
            EptPath* path);
  Event Misconfiguration(const EptRequest& request);
  Event WalkedNoTable(const EptRequest& request);
  bool NeedsDirty(const EptRequest& request, uint64_t leaf) const {
    return accessed_dirty_ && (request.access & kRightWrite) != 0 && (leaf & ept::kDirty) == 0;
  }

  MachineState& state_;
  EptRules rules_;
  QuietEptRules quiet_rules_;
  LevelArray<WalkTally> quiet_walks_;
  bool may_be_quiet_ = false;
  bool accessed_dirty_ = false;
  int levels_ = 4;
  ContextId context_ = 0;
  EptPath unused_path_;       // for walks whose caller keeps no path
  unsigned kept_levels_ = 0;  // bit l: there is a cache of upper entries of level l
  bool has_translations_ = false;
  LevelArray<AssocCache<Structure, EptPath>> structures_;            // [2] to [5]
  LevelArray<AssocCache<EptTranslation, EptPath>, 4> translations_;  // [1] to [3]
};

// --- the quiet walk ---

// Finds a cached translation that has every right that `need` asks for, and D if asked for.
inline bool EptWalker::FindQuietTranslation(uint64_t gpa, uint64_t need, EptTranslation& found) {
  for (int level = 1; level <= 3; ++level) {
    if (translations_[level].live() == 0) continue;
    const EptTranslation* cached =
        translations_[level].Find(ContextTable::Tag(context_, gpa, ShiftOf(level)));
    if (cached == nullptr) continue;
    const unsigned rights = RightsOf(need);
    if ((cached->rights & rights) != rights || (need & ept::kDirty & ~cached->leaf) != 0) break;
    found = *cached;
    return true;
  }
  return false;
}

// Returns where to start: below a cached upper entry with every right, or at the root if none is
// kept.
inline bool EptWalker::BeginQuietly(uint64_t gpa, uint64_t& table, int& level) {
  if (kept_levels_ == 0) {
    table = state_.eptp.raw() & ept::kAddressMask;
    level = levels_;
    return true;
  }
  for (int upper = 2; upper <= levels_; ++upper) {
    if (structures_[upper].live() == 0) continue;
    const int shift = 12 + 9 * (upper - 1);
    const Structure* structure = structures_[upper].Find(ContextTable::Tag(context_, gpa, shift));
    if (structure == nullptr) continue;
    table = structure->table;
    level = upper - 1;
    const unsigned every_right = state_.controls.mbec ? 15 : 7;
    return (structure->rights & every_right) == every_right;
  }
  return false;
}

inline bool EptWalker::TranslateQuietly(uint64_t gpa, uint64_t need, EptTranslation& found,
                                        unsigned& kind) {
  if (has_translations_) {
    kind = WalkTally::Kind(0, 0);
    return FindQuietTranslation(gpa, need, found);
  }
  uint64_t table;
  int top;
  if (gpa >> (12 + 9 * levels_) != 0 || !BeginQuietly(gpa, table, top)) return false;
  const PhysicalMemory memory = state_.memory;
  int shift = 12 + 9 * (top - 1) - 3;  // leaves the index times eight
  for (int level = top; level > 0; --level, shift -= 9) {
    const uint64_t address = table | (gpa >> shift & 0xff8);
    if (ABSL_PREDICT_FALSE(!memory.IsInside(address))) return false;
    const uint64_t value = memory.LoadInside(address);
    if (quiet_rules_.IsTable(value)) {
      table = value & ept::kAddressMask;
      continue;
    }
    found = {.leaf = value,
             .level = static_cast<uint8_t>(level),
             .rights = static_cast<uint8_t>(RightsOf(value)),
             .upper_rights = 15};
    kind = WalkTally::Kind(top, level);
    // Upper entries that a cache would take are the full walk's business.
    return quiet_rules_.IsLeaf(value, level, need) &&
           (kept_levels_ & WalkTally::UpperLevels(top, level)) == 0;
  }
  return false;
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_EPT_WALKER_H_
