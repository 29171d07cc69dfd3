// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This second model of a core's memory-management unit follows docs/mmu.md in the plainest way:
// lists in place of arrays, maps in place of tags. It shares the names of the counters and of the
// configuration with the first, and no code.

#ifndef TDP_TESTS_SIM_MMU_REFERENCE_H_
#define TDP_TESTS_SIM_MMU_REFERENCE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "tdp/backends/sim/mmu_config.h"
#include "tdp/backends/sim/mmu_counters.h"

namespace tdp::sim {

// Holds sets of ways, each with its own idea of who goes next.
class ReferenceCache {
 public:
  using Key = std::tuple<uint64_t, uint64_t, int>;  // PCID, page or line number, page size
  struct Way {
    bool used = false;
    Key key;
    uint64_t value = 0;
    bool dirty = false;
    uint64_t when = 0;
  };

  explicit ReferenceCache(const MmuShape& shape) : shape_(shape) {}

  Way* Find(const Key& key) {
    Set& set = SetOf(key);
    for (size_t i = 0; i < set.ways.size(); ++i) {
      if (!set.ways[i].used || set.ways[i].key != key) continue;
      Use(set, i);
      return &set.ways[i];
    }
    return nullptr;
  }

  void Keep(const Key& key, uint64_t value, bool dirty) {
    Way* way = Find(key);
    if (way == nullptr) {
      Set& set = SetOf(key);
      size_t victim = 0;
      while (victim < set.ways.size() && set.ways[victim].used) ++victim;
      if (victim == set.ways.size()) victim = Victim(set);
      Use(set, victim);
      way = &set.ways[victim];
    }
    const uint64_t when = way->when;
    *way = {true, key, value, dirty, when};
  }

  void DropIf(const std::function<bool(const Key&)>& drop) {
    for (auto& [index, set] : sets_) {
      for (Way& way : set.ways) way.used = way.used && !drop(way.key);
    }
  }

 private:
  struct Set {
    std::vector<Way> ways;
    std::vector<bool> right;  // a binary tree in an array: node n has children 2n and 2n + 1
  };

  Set& SetOf(const Key& key) {
    Set& set = sets_[std::get<1>(key) % shape_.sets];
    if (set.ways.empty()) {
      set.ways.resize(shape_.ways);
      set.right.assign(2 * shape_.ways, false);
    }
    return set;
  }

  void Use(Set& set, size_t way) {
    set.ways[way].when = ++clock_;
    // The loop goes up from the leaf: each node points to the child that was not used.
    for (size_t node = way + shape_.ways; node > 1; node /= 2) set.right[node / 2] = node % 2 == 0;
  }

  size_t Victim(const Set& set) const {
    if (shape_.replacement == Replacement::kLru) {
      const auto oldest =
          std::min_element(set.ways.begin(), set.ways.end(),
                           [](const Way& a, const Way& b) { return a.when < b.when; });
      return static_cast<size_t>(oldest - set.ways.begin());
    }
    size_t node = 1;
    while (node < shape_.ways) node = 2 * node + (set.right[node] ? 1 : 0);
    return node - shape_.ways;
  }

  const MmuShape shape_;
  uint64_t clock_ = 0;
  std::map<uint64_t, Set> sets_;
};

// Pseudo-LRU parts have a power of two of ways.
class MmuReference {
 public:
  // Returns what the tables say: an entry's word.
  using Load = std::function<uint64_t(uint64_t hpa)>;

  MmuReference(const MmuConfig& config, Load load) : config_(config), load_(std::move(load)) {
    for (const MmuTlb& tlb : config.tlbs) tlbs_.emplace_back(tlb.shape);
    for (const MmuWalkCache& cache : config.walk_caches) walk_caches_.emplace_back(cache.shape);
    for (const MmuNestedTlb& tlb : config.nested_tlbs) nested_.emplace_back(tlb.shape);
    for (const MmuDataCache& cache : config.data_caches) data_.emplace_back(cache.shape);
  }

  // These are the paging of the program.
  uint64_t cr3 = 0;
  int guest_levels = 4;
  uint64_t pcid = 0;
  std::optional<uint64_t> ept_root;
  int ept_levels = 4;

  MmuCounters counters;

  // Returns the host address of the byte at `gva`, and counts all that it took.
  uint64_t Access(uint64_t gva, size_t use, unsigned size) {
    gva = Linear(gva);
    const auto in_page = static_cast<unsigned>(std::min<uint64_t>(size, 4096 - gva % 4096));
    const uint64_t hpa = Translate(gva, use);
    Data(hpa, use, in_page);
    if (in_page < size) Data(Translate(gva + in_page, use), use, size - in_page);
    return hpa;
  }

  void Invlpg(uint64_t gva) {
    gva = Linear(gva);
    for (ReferenceCache& tlb : tlbs_) {
      tlb.DropIf([&](const auto& key) {
        const auto& [space, page, size] = key;
        return space == pcid && page == gva >> Shift(size);
      });
    }
    DropWalkCaches([&](uint64_t space) { return space == pcid; });
  }
  void FlushPcid(uint64_t which) {
    for (ReferenceCache& tlb : tlbs_) {
      tlb.DropIf([&](const auto& key) { return std::get<0>(key) == which; });
    }
    DropWalkCaches([&](uint64_t space) { return space == which; });
  }
  void FlushAll() {
    const auto all = [](const auto&) { return true; };
    for (auto* caches : {&tlbs_, &walk_caches_, &nested_}) {
      for (ReferenceCache& cache : *caches) cache.DropIf(all);
    }
  }

 private:
  // The bits above the 57 repeat the highest of them, and are no part of a page's number.
  static uint64_t Linear(uint64_t gva) { return gva % (uint64_t{1} << 57); }
  static int Shift(int level) { return 3 + 9 * level; }
  static uint64_t Offset(uint64_t address, int level) {
    return address & ((uint64_t{1} << Shift(level)) - 1);
  }
  static uint64_t Frame(uint64_t entry) { return entry & 0xffffffffff000; }

  void DropWalkCaches(const std::function<bool(uint64_t)>& drop) {
    for (size_t i = 0; i < walk_caches_.size(); ++i) {
      if (config_.walk_caches[i].ept) continue;
      walk_caches_[i].DropIf([&](const auto& key) { return drop(std::get<0>(key)); });
    }
  }

  // Returns the cycles of a line, which every level then has.
  uint64_t Line(uint64_t hpa, unsigned use, size_t& server) {
    const ReferenceCache::Key line = {0, hpa / 64, 0};
    std::vector<ReferenceCache*> missed;
    for (int level = 1; level <= 3; ++level) {
      for (size_t i = 0; i < data_.size(); ++i) {
        const MmuDataCache& cache = config_.data_caches[i];
        if (cache.level != level || (cache.uses >> use & 1) == 0) continue;
        if (data_[i].Find(line) != nullptr) {
          for (ReferenceCache* nearer : missed) nearer->Keep(line, 0, false);
          server = static_cast<size_t>(level - 1);
          return static_cast<uint64_t>(cache.shape.cycles);
        }
        missed.push_back(&data_[i]);
      }
    }
    for (ReferenceCache* cache : missed) cache->Keep(line, 0, false);
    server = 3;
    return static_cast<uint64_t>(config_.memory_cycles);
  }

  void Data(uint64_t hpa, size_t use, unsigned size) {
    if (!config_.program_data) return;
    for (uint64_t line = hpa / 64; line <= (hpa + size - 1) / 64; ++line) {
      size_t server = 0;
      counters.program_cycles += Line(line * 64, static_cast<unsigned>(use), server);
      ++counters.program_served[server];
    }
  }

  uint64_t Entry(uint64_t hpa, int g, int e) {
    size_t server = 0;
    const uint64_t cycles = Line(hpa, 3, server);
    ++counters.references[static_cast<size_t>(g)][static_cast<size_t>(e)][server];
    counters.reference_cycles[static_cast<size_t>(g)][static_cast<size_t>(e)] += cycles;
    return load_(hpa);
  }

  // Returns the entry of a TLB level, with the size of its page.
  ReferenceCache::Way* InTlb(int level, size_t use, uint64_t gva, int& size) {
    for (size_t i = 0; i < tlbs_.size(); ++i) {
      const MmuTlb& tlb = config_.tlbs[i];
      if (tlb.level != level || (tlb.uses >> use & 1) == 0) continue;
      for (size = 1; size <= 3; ++size) {
        if ((tlb.pages >> size & 1) == 0) continue;
        if (auto* way = tlbs_[i].Find({pcid, gva >> Shift(size), size})) return way;
      }
    }
    return nullptr;
  }

  void KeepInTlb(int level, size_t use, uint64_t gva, uint64_t hpa, int size, bool dirty) {
    for (; size >= 1; --size) {
      for (size_t i = 0; i < tlbs_.size(); ++i) {
        const MmuTlb& tlb = config_.tlbs[i];
        if (tlb.level != level || (tlb.uses >> use & 1) == 0) continue;
        if ((tlb.pages >> size & 1) == 0) continue;
        tlbs_[i].Keep({pcid, gva >> Shift(size), size}, hpa - Offset(hpa, size), dirty);
        return;
      }
    }
  }

  uint64_t SecondLevelCycles(size_t use) const {
    int cycles = 0;
    for (const MmuTlb& tlb : config_.tlbs) {
      if (tlb.level == 2 && (tlb.uses >> use & 1) != 0) cycles = std::max(cycles, tlb.shape.cycles);
    }
    return static_cast<uint64_t>(cycles);
  }

  uint64_t Translate(uint64_t gva, size_t use) {
    const bool store = use == 2;
    ++counters.accesses[use];
    int size = 0;
    auto* way = InTlb(1, use, gva, size);
    const bool first = way != nullptr;
    if (!first) {
      way = InTlb(2, use, gva, size);
      (way != nullptr ? counters.l2_hit_cycles : counters.l2_miss_cycles) += SecondLevelCycles(use);
    }
    if (way != nullptr && (!store || way->dirty)) {
      ++(first ? counters.l1_hits : counters.l2_hits)[use];
      const uint64_t hpa = way->value + Offset(gva, size);
      if (!first) KeepInTlb(1, use, gva, hpa, size, way->dirty);
      return hpa;
    }
    if (way != nullptr) {
      ++counters.assists;
      for (ReferenceCache& tlb : tlbs_) {
        tlb.DropIf([&](const auto& key) {
          const auto& [space, page, its_size] = key;
          return space == pcid && page == gva >> Shift(its_size);
        });
      }
    }
    ++counters.walks[use];
    bool dirty = false;
    const uint64_t hpa = Walk(gva, store, size, dirty);
    KeepInTlb(2, use, gva, hpa, size, dirty);
    KeepInTlb(1, use, gva, hpa, size, dirty);
    return hpa;
  }

  // Returns the table that a walk cache knows, and its level; `top` at the root.
  std::optional<uint64_t> InWalkCaches(bool ept, uint64_t space, uint64_t address, int top,
                                       int& level) {
    int cycles = 0;
    std::optional<uint64_t> table;
    for (const MmuWalkCache& cache : config_.walk_caches) {
      if (cache.ept == ept) cycles = std::max(cycles, cache.shape.cycles);
    }
    (ept ? counters.ept_cache_cycles : counters.guest_cache_cycles) +=
        static_cast<uint64_t>(cycles);
    for (level = 2; level <= top && !table.has_value(); ++level) {
      for (size_t i = 0; i < walk_caches_.size(); ++i) {
        const MmuWalkCache& cache = config_.walk_caches[i];
        if (cache.ept != ept || cache.level != level) continue;
        if (auto* way = walk_caches_[i].Find({space, address >> Shift(level), 0})) {
          table = way->value;
        }
      }
    }
    if (table.has_value()) {
      ++(ept ? counters.ept_cache_hits : counters.guest_cache_hits);
      level -= 2;  // the loop went one further, and the table is one below its entry
    } else {
      level = top;
    }
    return table;
  }

  void KeepInWalkCache(bool ept, uint64_t space, uint64_t address, int level, uint64_t table) {
    for (size_t i = 0; i < walk_caches_.size(); ++i) {
      const MmuWalkCache& cache = config_.walk_caches[i];
      if (cache.ept == ept && cache.level == level) {
        walk_caches_[i].Keep({space, address >> Shift(level), 0}, table, false);
      }
    }
  }

  uint64_t Walk(uint64_t gva, bool store, int& size, bool& dirty) {
    int level = 0;
    std::optional<uint64_t> table = InWalkCaches(false, pcid, gva, guest_levels, level);
    if (!table.has_value()) {
      ++counters.full_walks;
      table = Host(Frame(cr3), level);
    }
    uint64_t entry = Entry(*table + (gva >> Shift(level)) % 512 * 8, level, 0);
    while (level > 1 && (entry & 0x80) == 0) {
      table = Host(Frame(entry), level - 1);
      KeepInWalkCache(false, pcid, gva, level, *table);
      --level;
      entry = Entry(*table + (gva >> Shift(level)) % 512 * 8, level, 0);
    }
    const uint64_t gpa = Frame(entry) - Offset(Frame(entry), level) + Offset(gva, level);
    dirty = (entry & 0x40) != 0;
    size = level;
    if (!ept_root.has_value()) return gpa;
    int ept_size = 0;
    const uint64_t leaf = EptLeaf(gpa, 0, ept_size, store);
    dirty = dirty && (leaf & 0x200) != 0;
    size = std::min(size, ept_size);
    return Frame(leaf) - Offset(Frame(leaf), ept_size) + Offset(gpa, ept_size);
  }

  uint64_t Host(uint64_t gpa, int row) {
    if (!ept_root.has_value()) return gpa;
    int size = 0;
    const uint64_t leaf = EptLeaf(gpa, row, size, false);
    return Frame(leaf) - Offset(Frame(leaf), size) + Offset(gpa, size);
  }

  // Returns the leaf that maps `gpa`, of a page of `size`. The EPT has A and D flags.
  uint64_t EptLeaf(uint64_t gpa, int row, int& size, bool store) {
    if (!nested_.empty()) {
      ++counters.nested_tlb_lookups;
      int cycles = 0;
      for (const MmuNestedTlb& tlb : config_.nested_tlbs) {
        cycles = std::max(cycles, tlb.shape.cycles);
      }
      counters.nested_tlb_cycles += static_cast<uint64_t>(cycles);
      for (size_t i = 0; i < nested_.size(); ++i) {
        for (size = 1; size <= 3; ++size) {
          if ((config_.nested_tlbs[i].pages >> size & 1) == 0) continue;
          auto* way = nested_[i].Find({0, gpa >> Shift(size), size});
          if (way == nullptr) continue;
          if (store && (way->value & 0x200) == 0) return EptWalk(gpa, row, size);
          ++counters.nested_tlb_hits;
          return way->value;
        }
      }
    }
    return EptWalk(gpa, row, size);
  }

  uint64_t EptWalk(uint64_t gpa, int row, int& size) {
    ++counters.ept_walks;
    int level = 0;
    uint64_t table = InWalkCaches(true, 0, gpa, ept_levels, level).value_or(Frame(*ept_root));
    uint64_t entry = Entry(table + (gpa >> Shift(level)) % 512 * 8, row, level);
    while (level > 1 && (entry & 0x80) == 0) {
      table = Frame(entry);
      KeepInWalkCache(true, 0, gpa, level, table);
      --level;
      entry = Entry(table + (gpa >> Shift(level)) % 512 * 8, row, level);
    }
    size = level;
    for (int kept = level; kept >= 1; --kept) {
      for (size_t i = 0; i < nested_.size(); ++i) {
        if ((config_.nested_tlbs[i].pages >> kept & 1) == 0) continue;
        const uint64_t part = Offset(gpa, level) - Offset(gpa, kept);
        nested_[i].Keep({0, gpa >> Shift(kept), kept}, entry + part, false);
        return entry;
      }
    }
    return entry;
  }

  const MmuConfig config_;
  const Load load_;
  std::vector<ReferenceCache> tlbs_, walk_caches_, nested_, data_;
};

}  // namespace tdp::sim

#endif  // TDP_TESTS_SIM_MMU_REFERENCE_H_
