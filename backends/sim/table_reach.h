// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Knows which frames a CPU may still walk as tables: those that the root leads to, and those that
// it led to since the last flush, since a CPU may keep the upper entries of paging structures
// whether the guest used them or not (SDM vol. 3C, 30.4.2).
//
// Who changes tables calls `Rescan` after a store that may have linked or unlinked one, `OnFlush`
// after a flush that reached every CPU, and `UseOf` before a table's frame is given back.

#ifndef TDP_BACKENDS_SIM_TABLE_REACH_H_
#define TDP_BACKENDS_SIM_TABLE_REACH_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tdp/backends/sim/machine_state.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/base/address.h"

namespace tdp::sim {

enum class FrameUse : uint8_t {
  kNone,         // no CPU can walk it
  kMayBeCached,  // it is linked no more, but was since the last flush
  kLinked,       // the root leads to it
};

// Used by one thread at a time.
class TableReach {
 public:
  // A table as the root leads to it. One that is linked twice appears as it was met first.
  struct Place {
    int level = 0;         // of its entries, 1 to 5
    uint64_t address = 0;  // guest-physical, or linear: the first that it translates
    bool linked = false;   // else it may be cached
    uint64_t root = 0;     // from which it was last met
    uint64_t scan = 0;
  };

  // `linear` says that they are tables of 64-bit guest paging, else EPT. `tables`, which may be
  // null, says where not to go on; the memory itself otherwise.
  TableReach(const PhysicalMemory& memory, bool linear, const TableFrames* tables = nullptr)
      : memory_(memory), linear_(linear), tables_(tables) {}

  // Forgets everything.
  void Reset() { places_.clear(); }
  // Takes the tables of another root from now on, whose entries are of level `levels`. What only
  // the root before leads to may be cached until a flush.
  void SetRoot(Hpa root, int levels);
  // Walks all tables below the root.
  void Rescan();
  // Says that every CPU has dropped what it kept of the tables; or of those of `root` alone.
  void OnFlush();
  void OnFlush(Hpa root);

  FrameUse UseOf(Hpa frame) const;
  // Returns the table in `frame`; null unless it is linked.
  const Place* Find(Hpa frame) const;
  // Returns where the table in `frame` was last linked; null unless it may be cached alone.
  const Place* FindUnlinked(Hpa frame) const;
  // Returns the frames of linked tables, the root first, then in no order.
  std::vector<Hpa> LinkedFrames() const;

 private:
  void Visit(uint64_t frame, int level, uint64_t address);
  template <typename Predicate>
  void DropUnlinkedIf(Predicate predicate);
  bool IsTable(uint64_t entry, int level) const {
    if (level == 1) return false;
    const uint64_t present = linear_ ? 1 : 7;
    return (entry & present) != 0 && (level > 3 || (entry & kLargePage) == 0);
  }
  static constexpr uint64_t kLargePage = uint64_t{1} << 7;

  const PhysicalMemory memory_;
  const bool linear_;
  const TableFrames* const tables_;
  uint64_t root_ = 0;
  int levels_ = 0;
  uint64_t scan_ = 0;
  absl::flat_hash_map<uint64_t, Place> places_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_TABLE_REACH_H_
