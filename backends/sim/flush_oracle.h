// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The flush oracle: catches the use of a cached translation whose flush was owed and not done.
//
// With each translation a CPU keeps the EPT entries that it was made from. When it uses the
// translation, the oracle compares them with what the tables hold now; `ClassifyChange` says
// whether a difference is of the kind that owes a flush (a right taken away, an address changed,
// …).
//
// A difference alone is no fault, since a flush is due only when the operation that made the change
// returns. So a change has a life:
//
//   OnStore(entry, old, new)    the change is made; using the old translation is still legal
//   Settle()                    every change this thread made is due: whoever uses an old
//   translation
//                               from now on has broken the contract
//
// Connect OnStore to the engine's hook on entry stores and call Settle when an operation of the
// `Vm` has returned. Without a hook (`every_use`) the oracle finds changes by itself: a difference
// that it saw at one settle count and sees again at a later one is due.

#ifndef TDP_BACKENDS_SIM_FLUSH_ORACLE_H_
#define TDP_BACKENDS_SIM_FLUSH_ORACLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

// Says why a flush is owed.
enum class ChangeKind : uint8_t {
  kNone,              // no flush is owed
  kRightRemoved,      // a right went from 1 to 0 (all of them: the entry is gone)
  kAddressChanged,    // another table or another page
  kLeafTableChanged,  // a leaf became a table or a table a leaf
  kMemoryTypeChanged,
  kIgnorePatChanged,
  kAccessedCleared,      // with A/D flags on
  kDirtyCleared,         // with A/D flags on
  kWalkLengthChanged,    // the same root is used with another walk length
  kAccessedDirtyEnabled  // the same root is used with A/D flags newly on
};

const char* ChangeKindName(ChangeKind kind);

// Returns the kind of the change of one present entry at `level` from `before` to `after`. `rights`
// is the set of rights that matter: those which the rest of the walk allows.
ChangeKind ClassifyChange(uint64_t before, uint64_t after, int level, bool accessed_dirty,
                          unsigned rights = 15);

// Does the same of an entry of 64-bit guest paging (SDM vol. 3A, 5.10.4.2), for tables that CR3
// points to with EPT off. `rights` is the set of entry bits W, U and XD, XD inverted, that the rest
// of the walk allows.
ChangeKind ClassifyLinearChange(uint64_t before, uint64_t after, int level,
                                uint64_t rights = ~uint64_t{0});

// Holds the entries behind a cached translation, from the root down: EPT's, or with EPT off the
// guest's.
struct EptPath {
  struct Step {
    uint64_t address = 0;  // of the entry
    uint64_t value = 0;    // when it was used
  };
  uint64_t gpa = 0;
  uint64_t eptp = 0;
  uint64_t verified = 0;   // the oracle's clock when the path was last known to be good
  uint64_t seen_at = 0;    // settle count + 1 at which a difference was first seen; 0: none
  uint8_t root_level = 0;  // of steps[0]
  uint8_t count = 0;       // steps used; 0: the path is unknown
  bool linear = false;     // the entries are those of guest paging
  std::array<Step, 5> steps{};

  int level_of(int step) const { return root_level - step; }
};

// Reports one broken promise.
struct StaleUse {
  ChangeKind kind = ChangeKind::kNone;
  Gva gva;  // of the access; 0 for a physical one
  Gpa gpa;
  Hpa entry;  // the entry that changed
  int level = 0;
  uint64_t cached = 0;  // its value behind the cached translation
  uint64_t now = 0;     // and now
  std::string where;    // as given to `OnStore`; empty if not known
  uint64_t change = 0;  // number of the change, counted from 1; 0 if not known

  std::string DebugString() const;
};

struct FlushOracleOptions {
  bool every_use = false;           // compare at each use, for tables whose stores nobody announces
  bool settle_at_once = false;      // a change is due as soon as it is made
  bool accessed_clear_owed = true;  // false: an engine that lets aging be late on purpose
  bool linear = false;              // the stores announced are to guest tables, with EPT off
  uint64_t ignored_bits = 0;        // of EPT entries: those of features that no CPU has on
};

// Watches all CPUs of a machine. Thread-safe.
class FlushOracle {
 public:
  explicit FlushOracle(const FlushOracleOptions& options = {}) : options_(options) {}

  // Says that this thread has changed an entry. `where` says by whom and must outlive the oracle.
  void OnStore(Hpa entry, uint64_t before, uint64_t after, const char* where = "");

  // Between these two, changes that any thread makes are one operation's, and none of them is due;
  // `EndOperation` makes them due and forgets what a later report cannot name any more, so that a
  // run of any length takes bounded memory.
  void BeginOperation();
  void EndOperation();

  // Forgets every change and report. No CPU may hold a translation made before.
  void Reset();

  // Says that every change that this thread made so far is due; `SettleAll`, that any thread made.
  void Settle();
  void SettleAll();

  // --- for the CPU ---

  // Returns a number that moves when a change is made that may have made some translation stale.
  uint64_t clock() const { return clock_.load(std::memory_order_acquire); }

  // Says that an EPTP with other attributes is about to be used: every path must be looked at
  // again.
  void OnEptpChange();

  // Returns whether `path` may be used without a look at the tables.
  bool IsFresh(const EptPath& path) const {
    return !options_.every_use && path.verified == clock();
  }

  // Compares `path`, about to be used under `eptp`, with the tables in `memory`, and reports.
  void Check(EptPath& path, Eptp eptp, Gva gva, const PhysicalMemory& memory);

  // --- for the test ---
  std::vector<StaleUse> reports() const;
  size_t report_count() const { return report_count_.load(std::memory_order_acquire); }
  void ClearReports();

 private:
  struct Change {
    uint64_t number;
    uint64_t before;
    uint64_t after;
    uint32_t thread;
    const char* where;
  };

  // Finds the first difference at or below the step `from`, and says of which step it is. Returns
  // false if there is none.
  bool FindDifference(const EptPath& path, Eptp eptp, const PhysicalMemory& memory, int& from,
                      StaleUse& use) const;
  static ChangeKind FindEptpChange(const EptPath& path, Eptp eptp);
  bool IsDue(EptPath& path, StaleUse& use);
  const Change* DueChange(const StaleUse& use, uint64_t since) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const FlushOracleOptions options_;
  std::atomic<uint64_t> clock_{1};
  std::atomic<uint64_t> settles_{1};
  std::atomic<size_t> report_count_{0};
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::vector<Change>> changes_ ABSL_GUARDED_BY(mutex_);
  // Changes up to these are due, by thread number.
  absl::flat_hash_map<uint32_t, uint64_t> settled_ ABSL_GUARDED_BY(mutex_);
  uint64_t settled_all_ ABSL_GUARDED_BY(mutex_) = 0;
  // Entries that the operation under way changed.
  std::vector<uint64_t> touched_ ABSL_GUARDED_BY(mutex_);
  bool in_operation_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<StaleUse> reports_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_FLUSH_ORACLE_H_
