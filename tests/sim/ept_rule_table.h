// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is a table of the SDM's rules on EPT entries (vol. 3C, 29.3.3.1), for the tests alone: the
// model does not read it.

#ifndef TDP_TESTS_SIM_EPT_RULE_TABLE_H_
#define TDP_TESTS_SIM_EPT_RULE_TABLE_H_

#include <cstdint>
#include <vector>

#include "tdp/backends/sim/features.h"

namespace tdp::sim {

// Describes a CPU, as far as the rules depend on it.
struct EptRuleCpu {
  const char* name;
  int width;  // MAXPHYADDR
  bool execute_only;
  bool pages_2m;
  bool pages_1g;
  bool mbec;
  bool paging_write;
};

inline CpuFeatures FeaturesOf(const EptRuleCpu& cpu) {
  CpuFeatures features;
  features.physical_address_bits = cpu.width;
  if (!cpu.execute_only) features.ept = features.ept.Without(uint64_t{1} << 0);
  if (!cpu.pages_2m) features.ept = features.ept.Without(uint64_t{1} << 16);
  if (!cpu.pages_1g) features.ept = features.ept.Without(uint64_t{1} << 17);
  return features;
}

inline bool Bit(uint64_t entry, int bit) { return (entry >> bit & 1) != 0; }

// Is one line of the table: bits `high` to `low` must be zero in entries of these kinds.
enum EntryKind { kTable5, kTable4, kTable3, kTable2, kLeaf3, kLeaf2, kLeaf1 };
struct MustBeZero {
  int high;
  int low;
  std::vector<EntryKind> kinds;
};

inline const std::vector<MustBeZero>& ReservedBits() {
  static const auto* const table = new std::vector<MustBeZero>{
      {6, 3, {kTable5, kTable4, kTable3, kTable2}},
      {7, 7, {kTable5, kTable4}},
      {20, 12, {kLeaf2}},
      {29, 12, {kLeaf3}},
  };
  return *table;
}

inline EntryKind KindOf(uint64_t entry, int level) {
  if (level == 1) return kLeaf1;
  if (level == 2) return Bit(entry, 7) ? kLeaf2 : kTable2;
  if (level == 3) return Bit(entry, 7) ? kLeaf3 : kTable3;
  return level == 4 ? kTable4 : kTable5;
}

inline bool ExpectPresent(uint64_t entry, const EptRuleCpu& cpu) {
  return (entry & 7) != 0 || (cpu.mbec && Bit(entry, 10));
}

// Goes through the SDM's list of misconfigurations in its order, for an entry that is present.
inline bool ExpectMisconfigured(uint64_t entry, int level, const EptRuleCpu& cpu) {
  const bool r = Bit(entry, 0);
  const bool w = Bit(entry, 1);
  const bool x = Bit(entry, 2) || (cpu.mbec && Bit(entry, 10));
  if (!r && w) return true;
  if (!r && x && !cpu.execute_only) return true;
  const EntryKind kind = KindOf(entry, level);
  for (int bit = cpu.width; bit <= 51; ++bit) {
    if (Bit(entry, bit)) return true;
  }
  for (const MustBeZero& rule : ReservedBits()) {
    for (const EntryKind reserved_kind : rule.kinds) {
      if (kind != reserved_kind) continue;
      for (int bit = rule.low; bit <= rule.high; ++bit) {
        if (Bit(entry, bit)) return true;
      }
    }
  }
  if (kind == kLeaf2 && !cpu.pages_2m) return true;
  if (kind == kLeaf3 && !cpu.pages_1g) return true;
  if (kind >= kLeaf3) {
    const uint64_t type = entry >> 3 & 7;
    if (type == 2 || type == 3 || type == 7) return true;
    if (cpu.paging_write && Bit(entry, 58) && !r) return true;
  }
  return false;
}

}  // namespace tdp::sim

#endif  // TDP_TESTS_SIM_EPT_RULE_TABLE_H_
