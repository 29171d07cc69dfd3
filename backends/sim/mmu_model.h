// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The time that a real core's memory-management unit takes: two levels of TLBs, walk caches of both
// dimensions, a nested TLB and the data caches, each of which costs cycles.
//
// It runs beside a `Cpu` that has made the access already: the tables allow it, and their A and D
// flags are set. The model finds every address itself, from its own caches or the same tables, so
// that each answer of one can be compared with the other's.

#ifndef TDP_BACKENDS_SIM_MMU_MODEL_H_
#define TDP_BACKENDS_SIM_MMU_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tdp/backends/sim/guest_rights.h"
#include "tdp/backends/sim/mmu_config.h"
#include "tdp/backends/sim/mmu_counters.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/backends/sim/tag_array.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

// The tables that translate: 64-bit paging, and an EPT below it or none.
struct MmuSpace {
  uint64_t cr3 = 0;
  int guest_levels = 4;
  uint16_t pcid = 0;
  bool ept = false;
  Eptp eptp;

  friend bool operator==(const MmuSpace&, const MmuSpace&) = default;
};

// Says where a translation came from.
enum class MmuSource : uint8_t {
  kL1,
  kL2,
  kCachedWalk,  // a walk that a walk cache shortened
  kFullWalk,
  kUnmapped,  // the tables do not map the address: nothing is kept, and `hpa` says nothing
};

struct MmuAnswer {
  uint64_t hpa = 0;  // of the first byte
  MmuSource source = MmuSource::kUnmapped;
};

// Used by one thread at a time.
class MmuModel {
 public:
  MmuModel(const MmuConfig& config, const PhysicalMemory& memory);

  const MmuConfig& config() const { return config_; }

  // The program runs on these tables from now on. Another EPT empties all caches but those of data;
  // another CR3 alone drops nothing, since PCIDs keep spaces apart: `FlushPcid` drops one.
  void SetSpace(const MmuSpace& space);
  const MmuSpace& space() const { return space_; }

  // Makes an access of 1 to 4096 bytes; one that crosses a page is two, and the first answers.
  MmuAnswer Access(uint64_t gva, AccessKind kind, unsigned size);

  // Drops what INVLPG drops: the page of `gva` in the current space, and the space's upper entries.
  void Invlpg(uint64_t gva);
  // Linear and combined mappings of one PCID.
  void FlushPcid(uint16_t pcid);
  // Every translation.
  void FlushAll();

  const MmuCounters& counters() const { return counters_; }
  void ClearCounters() { counters_ = {}; }

 private:
  struct TlbEntry {
    uint64_t hpa = 0;  // of the page
    bool dirty = false;
  };
  struct TlbArray {
    TagArray tags;
    std::vector<TlbEntry> entries;
    unsigned pages = 0;
    int cycles = 0;
  };
  // An array and a page size to look for in it.
  struct TlbProbe {
    TlbArray* array;
    int page;
  };
  struct WalkCache {
    TagArray tags;
    std::vector<uint64_t> tables;  // hpa of the table below
  };
  struct NestedArray {
    TagArray tags;
    std::vector<uint64_t> leaves;  // EPT entries
    unsigned pages = 0;
  };
  struct DataLevel {
    TagArray lines;
    int cycles = 0;
    size_t server = 0;
  };
  // The page that a walk ended at.
  struct Found {
    uint64_t hpa = 0;  // of the byte
    int page = 1;      // level of the smaller of the two pages
    bool dirty = false;
  };
  struct EptFound {
    uint64_t leaf = 0;
    int level = 1;
  };

  // Returns the PCID, the page number and, in two bits that are never 0, the size.
  static uint64_t TagOf(uint64_t pcid, uint64_t address, int level);
  static uint64_t WalkTagOf(uint64_t pcid, uint64_t address, int level);
  static uint64_t IndexOf(uint64_t address, int level);

  MmuAnswer AccessPage(uint64_t gva, size_t use, bool store);
  TlbEntry* LookUp(const std::vector<TlbProbe>& probes, uint64_t gva, int& page);
  void Keep(const std::vector<TlbProbe>& probes, uint64_t gva, const Found& found);
  void DropPage(uint64_t gva);
  bool Walk(uint64_t gva, bool store, Found& found, bool& full);
  int BeginGuestWalk(uint64_t gva, uint64_t& table);
  bool ReachTable(uint64_t gpa, int row, uint64_t& hpa);
  bool TranslateGpa(uint64_t gpa, int row, bool store, EptFound& found);
  bool FindNested(uint64_t gpa, bool store, EptFound& found);
  bool WalkEpt(uint64_t gpa, int row, EptFound& found);
  void KeepNested(uint64_t gpa, const EptFound& found);
  uint64_t LoadEntry(uint64_t hpa, int guest_level, int ept_level);
  int TouchData(unsigned use, uint64_t hpa, size_t& server);
  void AccessData(size_t use, uint64_t hpa, unsigned size);

  MmuConfig config_;
  PhysicalMemory memory_;
  MmuSpace space_;
  MmuCounters counters_;
  std::vector<TlbArray> tlbs_;
  // These are by TLB level less one, then by use.
  std::array<std::array<std::vector<TlbProbe>, MmuCounters::kUses>, 2> probes_;
  std::array<int, MmuCounters::kUses> l2_cycles_{};
  // These are by level of the entries kept; the second dimension's in [1].
  std::array<std::array<WalkCache, 6>, 2> walk_caches_;
  std::array<int, 2> walk_cache_cycles_{};
  std::vector<NestedArray> nested_;
  int nested_cycles_ = 0;
  std::vector<DataLevel> data_;
  std::array<std::vector<DataLevel*>, 4> data_paths_;  // by use, the nearest first
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MMU_MODEL_H_
