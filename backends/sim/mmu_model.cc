// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/mmu_model.h"

#include <algorithm>

#include "tdp/backends/sim/level_array.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

constexpr int kCacheLineShift = 6;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kLinearMask = (uint64_t{1} << 57) - 1;
// Bits of a guest's paging-structure entry (SDM vol. 3A, 5.5.4).
constexpr uint64_t kPresent = 1 << 0;
constexpr uint64_t kDirty = 1 << 6;
constexpr uint64_t kLarge = 1 << 7;
constexpr uint64_t kAddressMask = 0x000f'ffff'ffff'f000;

constexpr uint64_t OffsetMask(int level) { return (uint64_t{1} << ShiftOf(level)) - 1; }
constexpr uint64_t EntryOffset(uint64_t address, int level) {
  return (address >> ShiftOf(level) & 511) * 8;
}
constexpr bool IsLeaf(uint64_t entry, int level) {
  return level == 1 || (level <= 3 && (entry & kLarge) != 0);
}

constexpr uint64_t PcidOfTag(uint64_t tag) { return tag >> 47; }

TagArray MakeTags(const MmuShape& shape) {
  return TagArray(shape.sets, shape.ways, shape.replacement);
}

}  // namespace

uint64_t MmuModel::TagOf(uint64_t pcid, uint64_t address, int level) {
  return (pcid << 45 | IndexOf(address, level)) << 2 | static_cast<uint64_t>(level);
}

// Each level's walk cache is an array of its own: the tag need not say which.
uint64_t MmuModel::WalkTagOf(uint64_t pcid, uint64_t address, int level) {
  return (pcid << 45 | IndexOf(address, level)) << 2 | 1;
}

// Page numbers choose the set, those of large pages as well.
uint64_t MmuModel::IndexOf(uint64_t address, int level) {
  return (address & kLinearMask) >> ShiftOf(level);
}

MmuModel::MmuModel(const MmuConfig& config, const PhysicalMemory& memory)
    : config_(config), memory_(memory) {
  tlbs_.reserve(config_.tlbs.size());
  for (const MmuTlb& tlb : config_.tlbs) {
    tlbs_.push_back({MakeTags(tlb.shape), {}, tlb.pages, tlb.shape.cycles});
    TlbArray& array = tlbs_.back();
    array.entries.resize(array.tags.entries());
    for (size_t use = 0; use < MmuCounters::kUses; ++use) {
      if ((tlb.uses >> use & 1) == 0) continue;
      for (int page = 1; page <= 3; ++page) {
        if ((tlb.pages & PageBit(page)) == 0) continue;
        probes_[AsIndex(tlb.level - 1)][use].push_back({&array, page});
      }
      if (tlb.level == 2) l2_cycles_[use] = std::max(l2_cycles_[use], tlb.shape.cycles);
    }
  }
  for (const MmuWalkCache& cache : config_.walk_caches) {
    WalkCache& kept = walk_caches_[cache.ept ? 1 : 0][AsIndex(cache.level)];
    kept.tags = MakeTags(cache.shape);
    kept.tables.assign(kept.tags.entries(), 0);
    int& cycles = walk_cache_cycles_[cache.ept ? 1 : 0];
    cycles = std::max(cycles, cache.shape.cycles);
  }
  for (const MmuNestedTlb& tlb : config_.nested_tlbs) {
    nested_.push_back({MakeTags(tlb.shape), {}, tlb.pages});
    nested_.back().leaves.assign(nested_.back().tags.entries(), 0);
    nested_cycles_ = std::max(nested_cycles_, tlb.shape.cycles);
  }
  data_.reserve(config_.data_caches.size());
  for (const MmuDataCache& cache : config_.data_caches) {
    data_.push_back({MakeTags(cache.shape), cache.shape.cycles, AsIndex(cache.level - 1)});
  }
  for (size_t use = 0; use < 4; ++use) {
    for (size_t server = 0; server < 3; ++server) {
      for (size_t i = 0; i < data_.size(); ++i) {
        const bool served = (config_.data_caches[i].uses >> use & 1) != 0;
        if (served && data_[i].server == server) data_paths_[use].push_back(&data_[i]);
      }
    }
  }
}

void MmuModel::SetSpace(const MmuSpace& space) {
  if (space == space_) return;
  // Combined and guest-physical mappings carry no tag of their EPT here.
  if (space.ept != space_.ept || !(space.eptp == space_.eptp)) FlushAll();
  space_ = space;
}

// --- invalidation ---

void MmuModel::DropPage(uint64_t gva) {
  for (TlbArray& array : tlbs_) {
    for (int page = 1; page <= 3; ++page) {
      if ((array.pages & PageBit(page)) == 0) continue;
      array.tags.Erase(IndexOf(gva, page), TagOf(space_.pcid, gva, page));
    }
  }
}

void MmuModel::Invlpg(uint64_t gva) {
  DropPage(gva);
  for (WalkCache& cache : walk_caches_[0]) {
    for (size_t place = 0; place < cache.tags.entries(); ++place) {
      const uint64_t tag = cache.tags.TagAt(place);
      if (tag != 0 && PcidOfTag(tag) == space_.pcid) cache.tags.EraseAt(place);
    }
  }
}

void MmuModel::FlushPcid(uint16_t pcid) {
  const auto drop = [pcid](TagArray& tags) {
    for (size_t place = 0; place < tags.entries(); ++place) {
      const uint64_t tag = tags.TagAt(place);
      if (tag != 0 && PcidOfTag(tag) == pcid) tags.EraseAt(place);
    }
  };
  for (TlbArray& array : tlbs_) drop(array.tags);
  for (WalkCache& cache : walk_caches_[0]) drop(cache.tags);
}

void MmuModel::FlushAll() {
  for (TlbArray& array : tlbs_) array.tags.Clear();
  for (auto& dimension : walk_caches_) {
    for (WalkCache& cache : dimension) cache.tags.Clear();
  }
  for (NestedArray& array : nested_) array.tags.Clear();
}

// --- data ---

// Returns the cycles of a load or store at `hpa`; its line is then in every level.
int MmuModel::TouchData(unsigned use, uint64_t hpa, size_t& server) {
  const uint64_t line = hpa >> kCacheLineShift;
  const std::vector<DataLevel*>& path = data_paths_[use];
  size_t hit = 0;
  while (hit < path.size() && path[hit]->lines.Find(line, line + 1) == TagArray::kNone) ++hit;
  for (size_t i = 0; i < hit; ++i) path[i]->lines.Insert(line, line + 1);
  server = hit < path.size() ? path[hit]->server : MmuCounters::kServers - 1;
  return hit < path.size() ? path[hit]->cycles : config_.memory_cycles;
}

void MmuModel::AccessData(size_t use, uint64_t hpa, unsigned size) {
  const uint64_t last = (hpa + size - 1) >> kCacheLineShift;
  for (uint64_t line = hpa >> kCacheLineShift; line <= last; ++line) {
    size_t server;
    counters_.program_cycles += static_cast<uint64_t>(
        TouchData(static_cast<unsigned>(use), line << kCacheLineShift, server));
    ++counters_.program_served[server];
  }
}

uint64_t MmuModel::LoadEntry(uint64_t hpa, int guest_level, int ept_level) {
  constexpr unsigned kWalk = 3;
  size_t server;
  const auto cycles = static_cast<uint64_t>(TouchData(kWalk, hpa, server));
  ++counters_.references[AsIndex(guest_level)][AsIndex(ept_level)][server];
  counters_.reference_cycles[AsIndex(guest_level)][AsIndex(ept_level)] += cycles;
  return memory_.Load(hpa);
}

// --- the TLBs ---

MmuModel::TlbEntry* MmuModel::LookUp(const std::vector<TlbProbe>& probes, uint64_t gva, int& page) {
  for (const TlbProbe& probe : probes) {
    if (probe.array->tags.live() == 0) continue;
    const size_t place =
        probe.array->tags.Find(IndexOf(gva, probe.page), TagOf(space_.pcid, gva, probe.page));
    if (place == TagArray::kNone) continue;
    page = probe.page;
    return &probe.array->entries[place];
  }
  return nullptr;
}

// Keeps the page, or the part of it with `gva` of the next smaller size that the level has room
// for.
void MmuModel::Keep(const std::vector<TlbProbe>& probes, uint64_t gva, const Found& found) {
  const TlbProbe* best = nullptr;
  for (const TlbProbe& probe : probes) {
    if (probe.page <= found.page && (best == nullptr || probe.page > best->page)) best = &probe;
  }
  if (best == nullptr) return;
  const size_t place =
      best->array->tags.Insert(IndexOf(gva, best->page), TagOf(space_.pcid, gva, best->page));
  best->array->entries[place] = {found.hpa & ~OffsetMask(best->page), found.dirty};
}

MmuAnswer MmuModel::AccessPage(uint64_t gva, size_t use, bool store) {
  ++counters_.accesses[use];
  int page = 0;
  bool assist = false;
  for (size_t level = 0; level < 2; ++level) {
    const TlbEntry* entry = LookUp(probes_[level][use], gva, page);
    if (entry == nullptr) {
      if (level == 1) counters_.l2_miss_cycles += static_cast<uint64_t>(l2_cycles_[use]);
      continue;
    }
    if (level == 1) counters_.l2_hit_cycles += static_cast<uint64_t>(l2_cycles_[use]);
    if (store && !entry->dirty) {
      // The first store through a translation walks, so that the D flag is set (SDM 5.8).
      assist = true;
      break;
    }
    const uint64_t hpa = entry->hpa | (gva & OffsetMask(page));
    if (level == 0) {
      ++counters_.l1_hits[use];
      return {hpa, MmuSource::kL1};
    }
    ++counters_.l2_hits[use];
    Keep(probes_[0][use], gva, {hpa, page, entry->dirty});
    return {hpa, MmuSource::kL2};
  }
  if (assist) {
    ++counters_.assists;
    DropPage(gva);
  }
  ++counters_.walks[use];
  Found found;
  bool full = false;
  if (!Walk(gva, store, found, full)) return {};
  counters_.full_walks += full ? 1 : 0;
  Keep(probes_[1][use], gva, found);
  Keep(probes_[0][use], gva, found);
  return {found.hpa, full ? MmuSource::kFullWalk : MmuSource::kCachedWalk};
}

MmuAnswer MmuModel::Access(uint64_t gva, AccessKind kind, unsigned size) {
  const bool store = Writes(kind);
  const size_t use = kind == AccessKind::kFetch ? 0 : store ? 2 : 1;
  const uint64_t in_page = kPageBytes - gva % kPageBytes;
  const auto first = static_cast<unsigned>(std::min<uint64_t>(size, in_page));
  const MmuAnswer answer = AccessPage(gva, use, store);
  if (config_.program_data && answer.source != MmuSource::kUnmapped) {
    AccessData(use, answer.hpa, first);
  }
  if (first == size) return answer;
  const MmuAnswer rest = AccessPage(gva + first, use, store);
  if (config_.program_data && rest.source != MmuSource::kUnmapped) {
    AccessData(use, rest.hpa, size - first);
  }
  return answer;
}

// --- the first dimension ---

// Returns the level to start at, with the host address of its table in `table`; 0 if the root is to
// be reached first.
int MmuModel::BeginGuestWalk(uint64_t gva, uint64_t& table) {
  counters_.guest_cache_cycles += static_cast<uint64_t>(walk_cache_cycles_[0]);
  for (int level = 2; level <= space_.guest_levels; ++level) {
    WalkCache& cache = walk_caches_[0][AsIndex(level)];
    const size_t place = cache.tags.Find(IndexOf(gva, level), WalkTagOf(space_.pcid, gva, level));
    if (place == TagArray::kNone) continue;
    ++counters_.guest_cache_hits;
    table = cache.tables[place];
    return level - 1;
  }
  return 0;
}

bool MmuModel::ReachTable(uint64_t gpa, int row, uint64_t& hpa) {
  if (!space_.ept) {
    hpa = gpa;
    return true;
  }
  EptFound found;
  if (!TranslateGpa(gpa, row, false, found)) return false;
  hpa = (found.leaf & kAddressMask & ~OffsetMask(found.level)) | (gpa & OffsetMask(found.level));
  return true;
}

bool MmuModel::Walk(uint64_t gva, bool store, Found& found, bool& full) {
  uint64_t table = 0;
  int level = BeginGuestWalk(gva, table);
  full = level == 0;
  if (full) {
    level = space_.guest_levels;
    if (!ReachTable(space_.cr3 & kAddressMask, level, table)) return false;
  }
  uint64_t entry;
  while (true) {
    entry = LoadEntry(table + EntryOffset(gva, level), level, 0);
    if ((entry & kPresent) == 0) return false;
    if (IsLeaf(entry, level)) break;
    --level;
    if (!ReachTable(entry & kAddressMask, level, table)) return false;
    WalkCache& cache = walk_caches_[0][AsIndex(level + 1)];
    const size_t place =
        cache.tags.Insert(IndexOf(gva, level + 1), WalkTagOf(space_.pcid, gva, level + 1));
    if (place != TagArray::kNone) cache.tables[place] = table;
  }
  const uint64_t gpa = (entry & kAddressMask & ~OffsetMask(level)) | (gva & OffsetMask(level));
  found = {gpa, level, (entry & kDirty) != 0};
  if (!space_.ept) return true;
  EptFound ept;
  if (!TranslateGpa(gpa, 0, store, ept)) return false;
  found.hpa = (ept.leaf & kAddressMask & ~OffsetMask(ept.level)) | (gpa & OffsetMask(ept.level));
  found.page = std::min(level, ept.level);
  found.dirty &= !space_.eptp.accessed_dirty() || (ept.leaf & ept::kDirty) != 0;
  return true;
}

// --- the second dimension ---

bool MmuModel::FindNested(uint64_t gpa, bool store, EptFound& found) {
  if (nested_.empty()) return false;
  ++counters_.nested_tlb_lookups;
  counters_.nested_tlb_cycles += static_cast<uint64_t>(nested_cycles_);
  for (NestedArray& array : nested_) {
    for (int page = 1; page <= 3; ++page) {
      if ((array.pages & PageBit(page)) == 0) continue;
      const size_t place = array.tags.Find(IndexOf(gpa, page), TagOf(0, gpa, page));
      if (place == TagArray::kNone) continue;
      found = {array.leaves[place], page};
      // The first store through this entry finds the D flag that it lacks in the tables alone.
      if (store && space_.eptp.accessed_dirty() && (found.leaf & ept::kDirty) == 0) return false;
      ++counters_.nested_tlb_hits;
      return true;
    }
  }
  return false;
}

void MmuModel::KeepNested(uint64_t gpa, const EptFound& found) {
  NestedArray* best = nullptr;
  int best_page = 0;
  for (NestedArray& array : nested_) {
    for (int page = best_page + 1; page <= found.level; ++page) {
      if ((array.pages & PageBit(page)) == 0) continue;
      best = &array;
      best_page = page;
    }
  }
  if (best == nullptr) return;
  const size_t place = best->tags.Insert(IndexOf(gpa, best_page), TagOf(0, gpa, best_page));
  // A smaller part of a large page has a leaf of its own here.
  best->leaves[place] = found.leaf | (gpa & OffsetMask(found.level) & ~OffsetMask(best_page));
}

bool MmuModel::WalkEpt(uint64_t gpa, int row, EptFound& found) {
  ++counters_.ept_walks;
  counters_.ept_cache_cycles += static_cast<uint64_t>(walk_cache_cycles_[1]);
  int level = space_.eptp.levels();
  uint64_t table = space_.eptp.raw() & kAddressMask;
  for (int upper = 2; upper <= space_.eptp.levels(); ++upper) {
    WalkCache& cache = walk_caches_[1][AsIndex(upper)];
    const size_t place = cache.tags.Find(IndexOf(gpa, upper), WalkTagOf(0, gpa, upper));
    if (place == TagArray::kNone) continue;
    ++counters_.ept_cache_hits;
    table = cache.tables[place];
    level = upper - 1;
    break;
  }
  while (true) {
    const uint64_t entry = LoadEntry(table + EntryOffset(gpa, level), row, level);
    if ((entry & ept::kRightsMask) == 0) return false;
    if (IsLeaf(entry, level)) {
      found = {entry, level};
      return true;
    }
    table = entry & kAddressMask;
    WalkCache& cache = walk_caches_[1][AsIndex(level)];
    const size_t place = cache.tags.Insert(IndexOf(gpa, level), WalkTagOf(0, gpa, level));
    if (place != TagArray::kNone) cache.tables[place] = table;
    --level;
  }
}

bool MmuModel::TranslateGpa(uint64_t gpa, int row, bool store, EptFound& found) {
  if (FindNested(gpa, store, found)) return true;
  if (!WalkEpt(gpa, row, found)) return false;
  KeepNested(gpa, found);
  return true;
}

}  // namespace tdp::sim
