// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This history knows which translations a CPU may use for an address, by the SDM (vol. 3A, 5.10
// "Caching translation information"). Hardware may walk for any address of the current address
// space at any moment, keep what it found, the upper entries apart from the leaf, until an
// instruction takes it away, and forget it at will. So a translation is legal if some walk since
// the last invalidation could have found it, each upper entry read no later than the next lower one
// and not taken away in between.

#ifndef TDP_TESTS_KERNEL_TRANSLATION_HISTORY_H_
#define TDP_TESTS_KERNEL_TRANSLATION_HISTORY_H_

#include <array>
#include <cstdint>
#include <vector>

#include "tests/kernel/flat_memory.h"
#include "tests/kernel/paging_shape.h"

namespace tdp::kernel {

// Is the end of a walk that the CPU may have made.
struct LegalWalk {
  enum class End : uint8_t { kLeaf, kNotPresent, kReserved };

  End end = End::kLeaf;
  bool fresh = false;  // made now, from the tables as they are and what is kept of the upper ones
  int level = 0;       // where it ended
  uint64_t leaf = 0;   // kLeaf: the entry, without A and D
  Rights rights;
  std::array<uint64_t, 6> entry_addresses{};  // by level, from the root down to `level`
};

// Keeps what one CPU may still remember of its walks, and what it must have forgotten.
class TranslationHistory {
 public:
  TranslationHistory(const PagingShape& shape, FlatMemory& memory)
      : shape_(shape), memory_(memory) {}

  // --- what the guest did; each at a later time than everything before ---

  // Uses these tables from now on, under `pcid` (0 where PCIDs are off), with `pdptes` as the CPU
  // loaded them under PAE paging. Takes nothing away.
  void LoadRoot(Time now, uint16_t pcid, uint64_t root, const std::array<uint64_t, 4>& pdptes);
  // Notes an INVLPG.
  void KillPage(Time now, uint64_t gva) { Kill(now, KillKind::kPage, pcid(), gva); }
  // Notes an INVPCID of type 0: other upper entries stay, and global pages.
  void KillAddress(Time now, uint16_t pcid, uint64_t gva) {
    Kill(now, KillKind::kAddress, pcid, gva);
  }
  // Notes a page fault there.
  void KillFaulting(Time now, uint64_t gva) { Kill(now, KillKind::kFault, pcid(), gva); }
  // Take away all but global pages, of one PCID or of all.
  void KillPcid(Time now, uint16_t pcid) { Kill(now, KillKind::kPcid, pcid, 0); }
  void KillNotGlobal(Time now) { Kill(now, KillKind::kNotGlobal, 0, 0); }
  // Takes everything away.
  void KillAll(Time now);

  uint16_t pcid() const { return roots_.back().pcid; }
  uint64_t root() const { return roots_.back().root; }
  // Returns when everything was last taken away.
  Time horizon() const { return horizon_; }

  // --- what may follow ---

  // Returns every walk to `gva` that may decide an access now, each leaf once. `globals` is
  // CR4.PGE.
  std::vector<LegalWalk> Walks(Time now, uint64_t gva, bool globals) const;

  // Return since when no cached translation of the page at `gva` can be in use, or no upper entry
  // of `level`.
  Time LastKillOfPage(uint64_t gva, int level, bool global) const;
  Time LastKillOfEntry(uint64_t gva, int level) const;

 private:
  enum class KillKind : uint8_t { kPage, kAddress, kFault, kPcid, kNotGlobal };
  struct KillEvent {
    Time time;
    KillKind kind;
    uint16_t pcid;
    uint64_t gva;
  };
  // Keeps tables that were current in [from, to).
  struct Root {
    Time from;
    Time to;
    uint16_t pcid;
    uint64_t root;
    std::array<uint64_t, 4> pdptes;
  };
  static constexpr Time kNever = ~Time{0};

  // Is a walk under way: the table of `walk.level` may be read in [from, to).
  struct Step {
    uint64_t table = 0;
    Time from = 0;
    Time to = 0;
    const Root* root = nullptr;  // the topmost table: readable only while it was current
    LegalWalk walk;
  };
  struct Query {
    Time now;
    uint64_t gva;
    uint16_t pcid;  // under which the walk was made
    bool globals;
    bool is_current;  // `pcid` is the one in use
    std::vector<LegalWalk>* found;
    // These say by level, and by whether it is global, when the page was last killed, once it was
    // asked.
    mutable std::array<std::array<Time, 2>, 4> killed{};
  };

  void Kill(Time now, KillKind kind, uint16_t pcid, uint64_t gva) {
    kills_.push_back({now, kind, pcid, gva});
  }
  bool KillsPage(const KillEvent& kill, uint16_t pcid, uint64_t gva, int level, bool global) const;
  bool KillsEntry(const KillEvent& kill, uint16_t pcid, uint64_t gva, int level) const;
  Time LastKillOfPage(uint16_t pcid, uint64_t gva, int level, bool global) const;
  Time LastKillOfPage(const Query& query, int level, bool global) const;

  void WalkFrom(const Root& root, const Query& query) const;
  void WalkTable(const Step& step, const Query& query) const;
  void ReadEntry(const Step& step, const Query& query, uint64_t value, Time from, Time to) const;
  void ReadLeaf(const Step& step, const Query& query, Time to) const;
  void Descend(const Step& step, const Query& query, uint64_t value, Time from, Time to) const;
  // Visits the times in [from, to) at which `query.pcid` was current, as one first and last time
  // each.
  template <typename Visit>
  void ForEachCurrent(const Step& step, const Query& query, Time from, Time to, Visit visit) const;
  static void Add(const LegalWalk& walk, const Query& query);

  const PagingShape shape_;
  FlatMemory& memory_;
  std::vector<Root> roots_;
  std::vector<KillEvent> kills_;
  Time horizon_ = 0;  // everything was killed then
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_TRANSLATION_HISTORY_H_
