// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image/root_search.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <unordered_map>

#include "tdp/backends/sim/ept_rules.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::tools {
namespace {

// Says what a page comes to if it is taken for a table of some level.
struct Table {
  bool is_legal = false;
  bool has_flags = false;  // an entry with A or D
  uint64_t leaves = 0;
  uint64_t bytes = 0;
};

class RootSearch {
 public:
  RootSearch(const MemoryImage& image, int physical_address_bits)
      : image_(image), rules_(FeaturesOf(physical_address_bits), false, false) {}

  std::vector<EptRoot> Find() {
    std::vector<EptRoot> roots;
    for (int levels : {5, 4}) {
      for (const MemoryImage::Segment& segment : image_.segments()) {
        const uint64_t first = (segment.address + 4095) & ~uint64_t{4095};
        for (uint64_t page = first; page + 4096 <= segment.end(); page += 4096) {
          Try(page, levels, roots);
        }
      }
    }
    // The tables of one walk may look like the tops of others: a table that holds only tables.
    std::erase_if(roots, [this](const EptRoot& root) {
      return below_a_root_.contains(root.eptp.root().raw());
    });
    std::sort(roots.begin(), roots.end(), [](const EptRoot& a, const EptRoot& b) {
      return a.eptp.root().raw() < b.eptp.root().raw();
    });
    return roots;
  }

 private:
  static sim::CpuFeatures FeaturesOf(int physical_address_bits) {
    sim::CpuFeatures features;
    features.physical_address_bits = physical_address_bits;
    return features;
  }

  void Try(uint64_t page, int levels, std::vector<EptRoot>& roots) {
    // The first entry tells most pages apart, without a look below.
    if (!MayBeTable(page, levels)) return;
    const Table& table = Judge(page, levels);
    if (!table.is_legal || table.leaves == 0) return;
    roots.push_back({Eptp::Make(Hpa(page), levels, table.has_flags), table.leaves, table.bytes});
    MarkBelow(page, levels);
  }

  bool MayBeTable(uint64_t page, int level) const {
    const char* bytes = image_.At(page, 4096);
    for (int i = 0; i < 512; ++i) {
      uint64_t entry;
      std::memcpy(&entry, bytes + i * 8, 8);
      if (!rules_.IsPresent(entry)) continue;
      return !rules_.IsMisconfigured(entry, level) && !sim::EptRules::IsLeaf(entry, level) &&
             image_.At(entry & ept::kAddressMask, 4096) != nullptr;
    }
    return false;
  }

  // Each page is judged once for each level.
  const Table& Judge(uint64_t page, int level) {
    auto& known = judged_[static_cast<size_t>(level)];
    if (const auto found = known.find(page); found != known.end()) return found->second;
    return known.emplace(page, JudgeAnew(page, level)).first->second;
  }

  Table JudgeAnew(uint64_t page, int level) {
    const char* bytes = image_.At(page, 4096);
    if (bytes == nullptr) return {};
    Table table{.is_legal = true};
    for (int i = 0; i < 512; ++i) {
      uint64_t entry;
      std::memcpy(&entry, bytes + i * 8, 8);
      if (!rules_.IsPresent(entry)) {
        // A leaf whose rights an engine has put aside, to see the next access, keeps its address.
        // Higher up there are no such entries, only text and numbers.
        if (level > 3 && (entry & ept::kAddressMask) != 0) return {};
        continue;
      }
      if ((entry & ept::kRightsMask) == ept::kMmioPattern && level == 1) continue;
      if (rules_.IsMisconfigured(entry, level) || !Add(entry, level, table)) return {};
    }
    return table;
  }

  bool Add(uint64_t entry, int level, Table& table) {
    table.has_flags |= (entry & ept::kAccessed) != 0;
    if (sim::EptRules::IsLeaf(entry, level)) {
      ++table.leaves;
      table.bytes += uint64_t{1} << (12 + 9 * (level - 1));
      return true;
    }
    const Table below = Judge(entry & ept::kAddressMask, level - 1);
    table.has_flags |= below.has_flags;
    table.leaves += below.leaves;
    table.bytes += below.bytes;
    return below.is_legal;
  }

  void MarkBelow(uint64_t page, int level) {
    const char* bytes = image_.At(page, 4096);
    for (int i = 0; i < 512; ++i) {
      uint64_t entry;
      std::memcpy(&entry, bytes + i * 8, 8);
      if (!rules_.IsPresent(entry) || sim::EptRules::IsLeaf(entry, level)) continue;
      const uint64_t table = entry & ept::kAddressMask;
      if (below_a_root_.insert(table).second && level > 2) MarkBelow(table, level - 1);
    }
  }

  const MemoryImage& image_;
  const sim::EptRules rules_;
  std::array<std::unordered_map<uint64_t, Table>, 6> judged_;
  std::set<uint64_t> below_a_root_;
};

}  // namespace

std::vector<EptRoot> FindEptRoots(const MemoryImage& image, int physical_address_bits) {
  return RootSearch(image, physical_address_bits).Find();
}

}  // namespace tdp::tools
