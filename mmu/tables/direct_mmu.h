// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The direct (TDP) tables of one address space: guest frame to host frame, with nothing in between.
//
// A table's place says which frames it maps, so there is no reverse map. docs/locking.md says which
// side of `MmuLock` each function needs; each comment here repeats it.

#ifndef TDP_MMU_TABLES_DIRECT_MMU_H_
#define TDP_MMU_TABLES_DIRECT_MMU_H_

#include <atomic>
#include <cstdint>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/sync/section_checks.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Says where a walk ended: an entry, its level, and the AND of the rights of the tables above it.
struct EntryPosition {
  uint64_t* table = nullptr;
  Level level = kLevel4K;
  Access above = Access::All();

  EntryRef entry(Gfn gfn) const { return entry(gfn, level); }
  // Returns the entry of `gfn` for a caller that knows the level, which is then a constant.
  EntryRef entry(Gfn gfn, Level known) const { return EntryRef(table + known.IndexOf(gfn)); }
};

// Says where a descent ended, and holds the value of the entry there that ended it. One load
// decides: what follows from `seen` is done by a compare-exchange that expects `seen`, never by
// another look at the entry. Between two looks a fault may link a table where the first saw none.
struct Descent {
  EntryPosition at;
  EptEntry seen;

  EntryKind kind() const { return seen.kind(at.level); }
};

// A vCPU's note of the last table that it used a leaf of, if the way there is writable: neighbours
// are found without a walk. It is valid while the structure of the tables it was noted from stands.
struct LeafMemo {
  // Names what one table of `level` maps, so that one compare answers for both.
  static constexpr uint64_t Region(Gfn gfn, Level level) {
    return gfn.raw() >> Level::kIndexBits * level.raw() | static_cast<uint64_t>(level.raw() - 1)
                                                              << kLevelShift;
  }

  uint64_t structure = 0;
  uint64_t region = ~uint64_t{0};  // no region is this
  // `Peek` reads the table even when it is another's or nobody's, so its block stays in the pool
  // (`TablePool::ReleaseBlocks`, whose thread reads this).
  std::atomic<uint64_t*> table{nullptr};

  void Set(uint64_t new_structure, uint64_t new_region, uint64_t* new_table) {
    structure = new_structure;
    region = new_region;
    table.store(new_table, std::memory_order_relaxed);
  }
  void Forget() { Set(0, ~uint64_t{0}, nullptr); }

  bool IsNear(Gfn gfn, Level level) const { return region == Region(gfn, level); }
  // Returns whether it leads to the entry of `gfn` at `level` while the tables' structure is `now`.
  bool LeadsTo(Gfn gfn, Level level, uint64_t now) const {
    return structure == now && IsNear(gfn, level);
  }
  EntryRef entry(Gfn gfn, Level level) const {
    return EntryRef(table.load(std::memory_order_relaxed) + level.IndexOf(gfn));
  }
  // Returns the 4 KiB entry of `gfn`, which is near, outside of a section: the table may be
  // another's by now, so it may say anything. It is what stands there if the structure is still the
  // memo's when it is asked for afterwards: whoever takes a table out moves the structure before,
  // and x86 makes loads in their order.
  ABSL_ATTRIBUTE_NO_SANITIZE_THREAD EptEntry Peek(Gfn gfn) const {
    const uint64_t* const where = entry(gfn, kLevel4K).where();
    SharedScan(where);
    const EptEntry seen(*where);
    std::atomic_signal_fence(std::memory_order_acquire);
    return seen;
  }

 private:
  static constexpr int kLevelShift = 60;
};

// Says what a write fault does with a W that is missing above a leaf. The frame's slot decides: W
// is taken there by switching dirty logging on, for a whole aligned region at once.
enum class Unprotect : uint8_t {
  kLift,       // nobody logs any more: W comes back
  kPushWrite,  // writes are logged by their faults: every entry one level down loses W instead
  kPushDirty,  // they are logged by D bits: as before, but leaves of 4 KiB lose D and keep W
};

// Says by what the next write of a page is noticed, once its dirty log has been taken.
enum class WriteNotice : uint8_t {
  kFault,     // W goes, so the write faults
  kDirtyBit,  // D goes, so the CPU sets it again and says so
};

// Says what a fault wants mapped.
struct LeafRequest {
  Gfn gfn;
  Level level = kLevel4K;  // the largest leaf that may be installed, or given more rights
  Access needed;           // what the guest tried
  EptEntry leaf;           // the leaf for `gfn` at 4 KiB; larger ones are made from it
  Unprotect unprotect = Unprotect::kLift;
};

enum class MapOutcome : uint8_t {
  kInstalled,
  kSpurious,
  kRaced,         // another reader was faster with this entry: look again
  kNeedsTables,   // more tables than the cache holds; nothing was changed
  kFrameChanged,  // another frame is mapped here: only a structural operation may replace it
  kBusy,          // another fault is pushing a protection down here: the guest may try again
};

// Says what `Map` came to. It is one word, so that it travels in a register: as a struct its parts
// would be stored one by one and copied as a whole, and each copy would wait for those stores to
// retire.
class MapResult {
 public:
  constexpr MapResult() = default;
  constexpr explicit MapResult(MapOutcome outcome, Level level = kLevel4K, bool flush_owed = false)
      : raw_(static_cast<uint32_t>(outcome) | static_cast<uint32_t>(level.raw()) << kLevelShift |
             uint32_t{flush_owed} << kFlushShift) {}

  constexpr MapOutcome outcome() const { return static_cast<MapOutcome>(raw_ & 0xff); }
  constexpr bool is_mapped() const { return outcome() <= MapOutcome::kSpurious; }
  // Returns the level of the leaf that stands there now, if the page is mapped.
  constexpr Level level() const { return Level(static_cast<int>(raw_ >> kLevelShift & 0xff)); }
  // Returns whether the page is mapped and nothing is left to do.
  constexpr bool is_plain() const { return (raw_ & ~(0xffu << kLevelShift)) <= 1; }
  // Returns whether a large leaf became a table, which owes a flush.
  constexpr bool flush_owed() const { return raw_ >> kFlushShift != 0; }

 private:
  static constexpr int kLevelShift = 8;
  static constexpr int kFlushShift = 16;
  static_assert(static_cast<int>(MapOutcome::kInstalled) == 0 &&
                static_cast<int>(MapOutcome::kSpurious) == 1);

  uint32_t raw_ = 1 << kLevelShift;  // installed, at 4 KiB
};

struct DirectMmuOptions {
  int levels = 4;              // 4 or 5
  bool accessed_dirty = true;  // EPTP bit 6
  uint16_t address_space = 0;
  bool execute_4k_only = false;  // large leaves lack X
};

// Hears of 4 KiB leaves that are taken out of the tables with D set: a write that no harvest of the
// tables will find any more. It is called inside the writer's section.
class LostDirtyLeaves {
 public:
  virtual ~LostDirtyLeaves() = default;
  virtual void OnLost(Gfn gfn) = 0;
};

class DirectMmu {
 public:
  // `root` is a table of `pool`, stays the root, and comes back from `TakeRoot`.
  DirectMmu(const DirectMmuOptions& options, TablePool& pool, TablePage* root);

  DirectMmu(const DirectMmu&) = delete;
  DirectMmu& operator=(const DirectMmu&) = delete;

  // Returns the pointer to load, which never changes.
  Eptp eptp() const { return eptp_; }
  Level root_level() const { return Level(options_.levels); }
  // Returns the first frame beyond what the tables can name.
  Gfn end() const { return Gfn(uint64_t{1} << (root_level().above().shift() - kPageShift)); }

  // --- Readers' side ---

  // Returns what the tables say of `gfn`.
  Translation Walk(Gfn gfn) const {
    AssertInSection();
    const auto [at, entry] = Descend(Root(), gfn, kLevel4K);
    const bool leaf = entry.kind(at.level) == EntryKind::kLeaf;
    return {entry, at.level, leaf ? at.above & entry.access() : Access::None()};
  }

  // Makes `request` true, taking tables from `cache`; notes the leaf table in `memo`.
  ABSL_ATTRIBUTE_ALWAYS_INLINE MapResult Map(const LeafRequest& request, LeafMemo& memo,
                                             TableCache& cache) {
    AssertInSection();
    // Most faults meet the neighbour of the last leaf, and a hole: one load and one
    // compare-exchange.
    if (memo.LeadsTo(request.gfn, request.level, structure())) {
      const EntryRef entry = memo.entry(request.gfn, request.level);
      EptEntry old = entry.Load();
      if (old.is_hole()) {
        NoteLine(entry);
        if (entry.CompareExchange(old, LeafAt(request.leaf, request.level))) {
          return MapResult(MapOutcome::kInstalled, request.level);
        }
      }
    }
    return MapFromRoot(request, memo, cache);
  }
  // Puts the 4 KiB `leaf`, as one at `level`, where `memo` leads to, if that is a hole with #VE not
  // suppressed: the compare-exchange that expects it is the one look that decides. It is not for a
  // slot that logs: harvests are told nothing of it (`TablePage::NoteLine`).
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool FillHole(Gfn gfn, Level level, EptEntry leaf,
                                             const LeafMemo& memo) {
    return memo.IsNear(gfn, level) && FillHoleNear(gfn, level, leaf, memo);
  }
  // Fills the hole for a caller that knows that the frame `IsNear`.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool FillHoleNear(Gfn gfn, Level level, EptEntry leaf,
                                                 const LeafMemo& memo) {
    AssertInSection();
    EptEntry hole;
    return memo.structure == structure() &&
           memo.entry(gfn, level).CompareExchange(hole, LeafAt(leaf, level));
  }
  // Gives W, and D where the CPU sets it, to the 4 KiB leaf that `memo` leads to, if that is all it
  // lacks for a write and the host allows it. False leaves everything as it is.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool GiveWriteBack(Gfn gfn, const LeafMemo& memo) {
    AssertInSection();
    if (!memo.LeadsTo(gfn, kLevel4K, structure())) return false;
    const EntryRef entry = memo.entry(gfn, kLevel4K);
    EptEntry old = entry.Load();
    if (!old.lacks_write_alone()) return false;
    const EptEntry wider = old.WithWrite();
    return entry.CompareExchange(old, options_.accessed_dirty ? wider.WithDirty() : wider);
  }
  // Does what `Map` does without a look at the memo first.
  MapResult MapFromRoot(const LeafRequest& request, LeafMemo& memo, TableCache& cache);

  // Returns whether a 4 KiB leaf to which `memo`, which is near, leads allows an access of
  // `needed`, of r, w and x. It may be asked outside of a section: it was so at some moment of the
  // call.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool IsMapped(Gfn gfn, Access needed, const LeafMemo& memo) const {
    return memo.Peek(gfn).LeafAllows(needed) && memo.structure == structure();
  }

  // Gives the leaf that maps `gfn` the rights it lacks for `needed` without asking the host: W that
  // was taken for logging, rights that were taken for aging. kNeedsTables if that is not the case,
  // or only after a split: the whole fault has to run then, and nothing was changed.
  MapResult WidenInPlace(Gfn gfn, Access needed, Level largest, Unprotect unprotect,
                         LeafMemo& memo);

  // Takes W or D, as `notice` asks, from the 4 KiB leaves of the frames `base` + i for every bit i
  // of `mask`. Frames that are mapped larger, or not at all, stay as they are. Returns whether
  // anything changed.
  bool NarrowPages(Gfn base, uint64_t mask, WriteNotice notice);

  // Makes one step of preparing [first, end) for its first writes, as a write fault would but
  // without one: moves missing W down and splits large leaves until a whole 2 MiB is done. Says the
  // first frame that is not. It ends with kNeedsTables if `cache` has fewer tables than needed,
  // with kBusy if a fault is at it. `flush_owed` is set as by `Map`.
  struct PushResult {
    Gfn next;
    MapOutcome outcome = MapOutcome::kInstalled;
    bool flush_owed = false;
  };
  PushResult PushDown(Gfn gfn, Unprotect unprotect, TableCache& cache);

  // Remembers that `gfn` has no memory, as of slot generation `generation`. Returns true if the
  // entry is there now, false if tables are missing or something is mapped.
  bool MapMmio(Gfn gfn, uint64_t generation, TableCache& cache);

  // --- Writer's side ---

  // Takes every mapping of [first, end) away: whole subtrees at the highest entries inside, and the
  // ragged edges entry by entry. A large leaf that reaches over an edge is split first with a table
  // from `spare`, or taken away whole where there is none (the guest faults it in again). Detached
  // tables go to `detached`; `TablePage::may_be_dirty` of each says whether D bits below it stand
  // for writes since logging was switched on. `lost` (null: nobody) hears of leaves on the edges.
  // Returns whether anything was there; a table that reaches into the range is something.
  bool Detach(Gfn first, Gfn end, TableCache& spare, TableList& detached,
              LostDirtyLeaves* lost = nullptr);

  // Detaches one frame, where that is all there is to do: it stands in a table of 4 KiB leaves that
  // keeps a neighbour, so nothing above changes. Returns false if `Detach` is needed as well.
  bool DetachPage(Gfn gfn, LostDirtyLeaves* lost) const;

  // Takes every mapping away, by the entries of the root. Returns whether anything was there.
  bool DetachAll(TableList& detached);

  // Takes W from the highest entries inside [first, end), O(1) in its size: rights combine by AND.
  // 4 KiB leaves among them, which stand only at unaligned ends, lose D too: from here on D says
  // that a page was written since. Returns whether anything was writable.
  bool WriteProtect(Gfn first, Gfn end);

  // --- Nobody else is there ---

  // Ends the use of this object and gives the root back.
  TablePage* TakeRoot();

  // Receives an entry that is no hole: (table, index, entry, level).
  using Visitor = absl::FunctionRef<void(TablePage* table, int index, EptEntry entry, Level level)>;
  // Visits every entry that is no hole, tables before what is below them. Writer's side, or any
  // moment when no one changes the tables.
  void ForEach(Visitor visit) const;

  // --- Building blocks, for operations that have files of their own ---

  // Notes that a hole in a table that is linked is about to be filled (`TablePage::NoteLine`).
  ABSL_ATTRIBUTE_ALWAYS_INLINE static void NoteLine(EntryRef entry) {
    const auto where = reinterpret_cast<uintptr_t>(entry.where());
    auto* const table = reinterpret_cast<uint64_t*>(where & ~uintptr_t{kPageOffsetMask});
    TablePage::Of(table)->NoteLine(static_cast<int>(entry.where() - table));
  }

  TablePage* root() const { return root_; }
  EntryPosition Root() const { return {root_entries_, root_level(), Access::All()}; }
  // Goes down from `from` to the entry of `gfn` at `target`, or to the first above it that is no
  // table. Each entry on the way, the last included, is loaded once. Inside a section.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Descent Descend(EntryPosition from, Gfn gfn, Level target) const {
    AssertInSection();
    // The rights are combined as they stand in the entries and read once, at the end.
    EptEntry above = EptEntry::Empty().WithAccess(from.above);
    const DirectMap direct_map = pool_.direct_map();
    uint64_t* table = from.table;
    int shift = from.level.shift() - kPageShift;
    for (;;) {
      const EptEntry entry = EntryRef(table + (gfn.raw() >> shift & (Level::kEntries - 1))).Load();
      if (shift <= target.shift() - kPageShift || !entry.points_to_table()) {
        return {{table, Level(shift / Level::kIndexBits + 1), above.access()}, entry};
      }
      table = direct_map.EntriesOf(entry.address());
      above = above.WithRightsOf(entry);
      shift -= Level::kIndexBits;
    }
  }
  // Returns where the descent to the entry of `gfn` at `level` would end, by `memo`, which leads
  // there.
  static Descent DescendBy(const LeafMemo& memo, Gfn gfn, Level level) {
    return {{memo.table.load(std::memory_order_relaxed), level, Access::All()},
            memo.entry(gfn, level).Load()};
  }
  // Returns the table of 4 KiB leaves with the entry of `gfn`, if there is one and the way there is
  // writable; else null. Inside a section.
  ABSL_ATTRIBUTE_ALWAYS_INLINE uint64_t* WritableLeafTable(Gfn gfn) const {
    return FindLeafTable(gfn, [](EptEntry link) { return link.links_writably(); });
  }
  // Returns the table of 4 KiB leaves whether or not the way there is writable, and says in
  // `writable` whether it is.
  ABSL_ATTRIBUTE_ALWAYS_INLINE uint64_t* LeafTable(Gfn gfn, bool& writable) const {
    uint64_t rights = ~uint64_t{0};
    uint64_t* const table = FindLeafTable(gfn, [&rights](EptEntry link) {
      rights &= link.raw();
      return link.points_to_table();
    });
    writable = EptEntry(rights).is_writable();
    return table;
  }
  // Returns the table that is reached by links of which `goes_on(link)` is true. It goes level by
  // level, so that each shift is a constant.
  template <typename GoesOn>
  ABSL_ATTRIBUTE_ALWAYS_INLINE uint64_t* FindLeafTable(Gfn gfn, GoesOn goes_on) const {
    AssertInSection();
    const DirectMap direct_map = pool_.direct_map();
    uint64_t* table = root_entries_;
    const auto step = [&](Level level) {
      const EptEntry link = EntryRef(table + level.IndexOf(gfn)).Load();
      table = direct_map.EntriesOf(link.address());
      return goes_on(link);
    };
    const bool there = ABSL_PREDICT_TRUE(root_level() != kLevel256T || step(kLevel256T)) &&
                       step(kLevel512G) && step(kLevel1G) && step(kLevel2M);
    return ABSL_PREDICT_TRUE(there) ? table : nullptr;
  }
  // Returns the table that `entry` points to.
  uint64_t* TableAt(EptEntry entry) const { return pool_.EntriesOf(entry.address()); }
  EptEntry LinkTo(const TablePage* table) const {
    return EptEntry::Table(pool_.HpaOf(table->entries()));
  }
  EptEntry empty_entry() const { return pool_.empty_entry(); }
  // Returns the 4 KiB leaf `leaf` as one at `level`. Whatever makes a leaf of a template, or gives
  // one more rights by it, takes them from here: this is the one place that keeps X away from large
  // leaves.
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry LeafAt(EptEntry leaf, Level level) const {
    if (ABSL_PREDICT_TRUE(level == kLevel4K)) return leaf;
    leaf = leaf.EnlargedTo(level);
    return ABSL_PREDICT_FALSE(options_.execute_4k_only) ? leaf.WithoutExecute() : leaf;
  }
  // Takes a table from `cache` for the frames around `gfn`, still empty and linked nowhere.
  TablePage* NewTable(Gfn gfn, Level level, TableCache& cache) const;
  // Gives a table back that was not linked. Its entries are empty.
  void DropTable(TablePage* table, TableCache& cache) const;
  // Puts `entry`, one for `level`, on the way to `gfn`, with the tables that are missing between;
  // `at` holds `old`, which maps nothing. Returns kInstalled, kRaced or kNeedsTables; `lowest`
  // becomes the lowest table that was made, if any was. Readers' side.
  MapOutcome Link(const EntryPosition& at, EptEntry old, Gfn gfn, EptEntry entry, Level level,
                  TableCache& cache, TablePage*& lowest) const;
  // Replaces the large leaf `old` at `at` by a table of the same frames, rights and A/D bits. But
  // where the start of logging has taken the leaf's W, its D is older than the log and goes; and
  // for `kPushDirty`, 4 KiB leaves get W. Returns false if someone else changed the leaf first.
  // `cache` is not empty. Readers' side.
  bool Split(const EntryPosition& at, Gfn gfn, EptEntry old, TableCache& cache,
             Unprotect unprotect = Unprotect::kLift) const;
  // Says that a note in a `LeafMemo` may be wrong from here on. Writer's side.
  void StructureChanged() {
    AssertWriting();
    structure_.store(structure() + 1, std::memory_order_relaxed);
  }

  // Returns a number that moves whenever a note in a `LeafMemo` may have become wrong.
  uint64_t structure() const { return structure_.load(std::memory_order_relaxed); }
  const DirectMmuOptions& options() const { return options_; }

 private:
  // It keeps a reverse map of the leaves and so installs them by itself.
  friend class ReverseMappedMmu;
  struct Path;  // tables built below one entry, not linked yet

  Descent Find(Gfn gfn, Level target, Access needed, const LeafMemo& memo,
               Unprotect unprotect) const;
  Descent FindWritable(Gfn gfn, Level target, Unprotect unprotect) const;
  bool NarrowInTable(Gfn base, uint64_t mask, EntryBits bits) const;
  bool RestoreWrite(Gfn gfn, Unprotect unprotect) const;
  static bool LiftWrite(EntryRef entry, EptEntry parent);
  static bool ClaimPush(EntryRef entry, EptEntry& parent);
  static void TakeFromChildren(uint64_t* children, Level level, Unprotect unprotect);
  void Remember(Gfn gfn, const EntryPosition& position, LeafMemo& memo) const;

  MapOutcome Install(const EntryPosition& at, EptEntry old, const LeafRequest& request,
                     LeafMemo& memo, TableCache& cache) const;
  Path BuildPath(Gfn gfn, EptEntry entry, Level level, Level top, TableCache& cache) const;
  void Unbuild(const Path& path, Gfn gfn, TableCache& cache) const;
  MapOutcome Widen(const EntryPosition& at, EptEntry old, const LeafRequest& request,
                   TableCache& cache, bool& flush_owed) const;

  struct Detachment;  // one `Detach` under way
  bool DetachLeaves(const FrameRange& range, const Detachment& work, bool& any) const;
  bool IsEmptied(EptEntry link, Level level, Gfn base, const FrameRange& range) const;
  bool DetachRange(const FrameRange& range, TableCache& spare, const Detachment& work);
  static void TellLost(Gfn gfn, EptEntry leaf, bool writable, LostDirtyLeaves& lost);
  void TakeOut(const EntryPosition& at, Gfn gfn, const Detachment& work) const;
  EptEntry SplitForEdge(const EntryPosition& at, Gfn gfn, EptEntry old, TableCache& spare) const;

  const DirectMmuOptions options_;
  TablePool& pool_;
  TablePage* root_;
  uint64_t* const root_entries_;  // of `root_`
  const Eptp eptp_;
  Atomic<uint64_t> structure_{1};
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_DIRECT_MMU_H_
