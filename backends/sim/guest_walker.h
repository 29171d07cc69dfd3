// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The first dimension: from a guest-linear to a guest-physical address through the guest's own
// tables, each of which is reached through the second (SDM vol. 3A, chapter 5; vol. 3C, 29.3).

#ifndef TDP_BACKENDS_SIM_GUEST_WALKER_H_
#define TDP_BACKENDS_SIM_GUEST_WALKER_H_

#include <array>
#include <cstdint>

#include "tdp/backends/sim/assoc_cache.h"
#include "tdp/backends/sim/ept_walker.h"
#include "tdp/backends/sim/guest_rights.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/backends/sim/machine_state.h"

namespace tdp::sim {

struct GuestRequest {
  uint64_t gva = 0;
  AccessKind kind = AccessKind::kLoad;
  Accessor accessor = Accessor::kSupervisor;
  unsigned size = 1;
  bool shadow_stack = false;  // a supervisor shadow-stack access, for the EPT's rule on it
};

struct GuestTranslation {
  uint64_t gpa = 0;
  uint32_t attributes = 0;  // guest half, key and level of `kAttr…`
  int level = 0;            // of the leaf; 0 without paging
  int shift = 63;           // of the page it maps
  unsigned pat_index = 0;
  bool tables_verified = true;  // each guest table's EPT leaf had the paging-write bit
};

class GuestWalker {
 public:
  GuestWalker(MachineState& state, EptWalker& ept) : state_(state), ept_(ept) {}

  // Sizes of the paging-structure caches by level of the entry kept, [2] for PDEs to [5].
  void Configure(const std::array<CacheGeometry, 6>& structures);
  // Takes over registers, controls and oracle of the state after they changed. `context` tags the
  // linear or combined mappings of the current PCID.
  void Reload(ContextId context);

  const GuestRules& rules() const { return rules_; }
  const GuestRights& rights() const { return rights_; }
  // Returns the guest's entries behind the last translation; they are kept with EPT off and an
  // oracle only.
  const EptPath& linear_path() const { return linear_path_; }

  // Translates, checks the guest's rights and sets the guest's A and D flags. Otherwise fills
  // `state.exit`.
  Event Translate(const GuestRequest& request, GuestTranslation& found);
  // Quiet walks (see `EptWalker`) are counted apart from the state's counters.
  void AddQuietCounts(CpuCounters& counters) const {
    quiet_walks_.AddTo(counters.references.guest);
  }
  void ClearQuietCounts() { quiet_walks_ = {}; }

  // Loads the four PDPTEs that CR3 points to into the registers (a MOV to CR3 under PAE paging).
  // kGeneralProtection if one sets a reserved bit, an EPT event if they cannot be read; the
  // registers are unchanged then.
  Event LoadPdptes();

  // Drops the upper entries on the way to `gva` in the current context.
  void DropAddress(uint64_t gva);
  template <typename Predicate>
  void DropIf(Predicate predicate) {
    const auto drop = [&](uint64_t tag, const auto&) {
      return predicate(state_.contexts.OfTag(tag));
    };
    for (auto& cache : structures_) cache.EraseIf(drop);
  }
  // Drops those of them that are on the way to `gva`. A directory of 32-bit paging, which the
  // context may have been in, covers twice what others do.
  template <typename Predicate>
  void DropAddressIf(uint64_t gva, Predicate predicate) {
    constexpr int kShiftOf32Bit = 22;
    for (int level = 2; level <= 5; ++level) {
      const uint64_t page = ContextTable::Tag(0, gva, ShiftOf(level));
      const uint64_t narrow = ContextTable::Tag(0, gva, kShiftOf32Bit);
      structures_[level].EraseIf([&](uint64_t tag, const auto&) {
        const uint64_t kept = ContextTable::PageOfTag(tag);
        return predicate(state_.contexts.OfTag(tag)) &&
               (kept == page || (level == 2 && kept == narrow));
      });
    }
  }

 private:
  // A guest table, and what its EPT translation allows.
  struct Table {
    uint64_t gpa;
    uint64_t hpa;  // of the page, once `known`
    bool known;
    bool writable;      // its guest A and D flags may be written
    bool paging_write;  // its EPT leaf has the paging-write bit
  };
  static Table UnknownTable(uint64_t gpa) { return {gpa, 0, false, true, true}; }

  // An upper entry in a paging-structure cache.
  struct Structure {
    Table table{};
    uint32_t attributes = 0;
    bool tables_verified = true;
  };
  struct Walk {
    int level = 0;
    int top = 0;
    uint64_t rights = 0;  // AND of the guest entries so far, XD inverted
    bool tables_verified = true;
    uint64_t top_rights = 0;  // AND of the entries above `top`, which a cache supplied
    bool top_verified = true;
    // Filled from `top` down to the leaf, the rest not set.
    LevelArray<Table> tables;
    LevelArray<uint64_t> entries;
  };

  // A walk on which there is nothing to decide, set or report, all in registers but the kinds of
  // the EPT walks on its way.
  struct QuietWalk {
    const Structure* start;  // the cached upper entry that it began below; null: at the root
    int top;
    uint64_t table;                  // gpa
    uint64_t rights;                 // as in `Walk`
    LevelArray<unsigned> ept_kinds;  // by level, of the walks to the tables
  };

  // False, with nothing counted or changed, if the walk is not a quiet one.
  bool TranslateQuietly(const GuestRequest& request, GuestTranslation& found);
  bool BeginQuietly(uint64_t gva, QuietWalk& walk);
  bool ReachQuietly(uint64_t gva, int level, QuietWalk& walk, uint64_t& hpa);
  void CountQuietly(const QuietWalk& walk, int leaf);

  void NoteLinearPath(const GuestRequest& request, const Walk& walk);
  uint32_t AttributesOf(uint64_t rights, uint64_t leaf) const;
  bool Begin(const GuestRequest& request, Walk& walk);
  Event Descend(const GuestRequest& request, Walk& walk);
  Event ReachTable(const GuestRequest& request, Walk& walk, bool to_write);
  uint64_t ReadEntry(const GuestRequest& request, Walk& walk);
  Event SetFlags(const GuestRequest& request, Walk& walk, bool& again);
  bool WriteEntry(uint64_t hpa, uint64_t value, uint64_t flagged);
  void Fill(const GuestRequest& request, const Walk& walk);
  Event PageFault(const GuestRequest& request, uint32_t error_code);

  MachineState& state_;
  EptWalker& ept_;
  GuestRules rules_;
  GuestRights rights_;
  ContextId context_ = 0;
  WalkTally quiet_walks_;
  bool may_be_quiet_ = false;
  uint64_t quiet_table_need_ = 0;       // what an access to a guest table wants of its EPT leaf
  unsigned kept_levels_ = 0;            // bit l: there is a cache of upper entries of level l
  bool table_access_is_write_ = false;  // EPT A/D flags are on
  LevelArray<AssocCache<Structure, EptPath>> structures_;  // [2] to [5]
  LevelArray<EptPath> table_paths_;                        // of the walk under way
  EptPath linear_path_;  // with EPT off: the guest's entries of the walk under way
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_GUEST_WALKER_H_
