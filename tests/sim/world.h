// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This machine is for tests of the software CPU alone: it has memory, and both dimensions' tables
// written by hand, with no engine.

#ifndef TDP_TESTS_SIM_WORLD_H_
#define TDP_TESTS_SIM_WORLD_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

inline constexpr uint64_t kRwx = 7;
inline constexpr uint64_t kWriteBack = uint64_t{6} << 3;
// These are present, writable and the user's; accessed and dirty so that no walk writes.
inline constexpr uint64_t kGuestTable = 0x27;
inline constexpr uint64_t kGuestLeaf = 0x67;

class World {
 public:
  explicit World(const CpuConfig& config = {}, PagingMode mode = PagingMode::k4Level,
                 int ept_levels = 4)
      : cpu_(memory_.physical(), config), mode_(mode), ept_levels_(ept_levels) {
    ept_root_ = NewFrame();
    SetMode(mode);
  }

  Cpu& cpu() { return cpu_; }
  HostMemory& memory() { return memory_; }
  PhysicalMemory physical() { return memory_.physical(); }
  uint64_t Load(uint64_t hpa) { return physical().Load(hpa); }
  void Store(uint64_t hpa, uint64_t value) { physical().Store(hpa, value); }

  // Returns a zeroed frame of host memory.
  uint64_t NewFrame() {
    const uint64_t frame = next_frame_;
    next_frame_ += kPageSize;
    return frame;
  }

  // --- the second dimension ---

  Eptp eptp(bool accessed_dirty = false) const {
    return Eptp::Make(Hpa(ept_root_), ept_levels_, accessed_dirty);
  }

  // Maps the page at `gpa` by an entry at `level`; tables on the way have every right. Returns the
  // place of the entry.
  uint64_t MapEpt(uint64_t gpa, uint64_t hpa, int level = 1, uint64_t bits = kRwx | kWriteBack) {
    const uint64_t place = EptEntryAt(gpa, level);
    Store(place, hpa | bits | (level > 1 ? ept::kLargePage : 0));
    return place;
  }

  // Returns the place of the entry of `level` on the way to `gpa`, and makes the tables above it.
  uint64_t EptEntryAt(uint64_t gpa, int level) {
    uint64_t table = ept_root_;
    for (int l = ept_levels_;; --l) {
      const uint64_t place = table + (gpa >> (12 + 9 * (l - 1)) & 511) * 8;
      if (l == level) return place;
      if (Load(place) == 0) Store(place, NewFrame() | kRwx | ept::kUserExecute);
      table = Load(place) & ept::kAddressMask;
    }
  }

  // --- the first dimension ---

  void SetMode(PagingMode mode) {
    mode_ = mode;
    Registers r;
    r.cr0 = kCr0Pe | (mode == PagingMode::kNone ? 0 : kCr0Pg | kCr0Wp);
    if (mode >= PagingMode::kPae) r.cr4 |= kCr4Pae;
    if (mode == PagingMode::k32Bit) r.cr4 |= kCr4Pse;
    if (mode == PagingMode::k5Level) r.cr4 |= kCr4La57;
    if (mode >= PagingMode::kPae) r.efer |= kEferNxe;
    if (Is64Bit(mode)) r.efer |= kEferLme | kEferLma;
    cpu_.SetRegisters(r);
  }

  // Applies `change` to a copy of the registers and loads it.
  template <typename Change>
  void ChangeRegisters(Change change) {
    Registers r = cpu_.registers();
    change(r);
    cpu_.SetRegisters(r);
  }

  // Returns a frame of guest memory, mapped by EPT at `level` so that guest tables lie in pages of
  // that size.
  uint64_t NewGuestFrame(int ept_level = 1) {
    const uint64_t bytes = uint64_t{1} << (12 + 9 * (ept_level - 1));
    if (next_guest_ % bytes == 0 || ept_level == 1) {
      // The frame is backed at an address of the same alignment, far from the frames of tables.
      MapEpt(next_guest_, kGuestMemory + next_guest_, ept_level);
    }
    const uint64_t gpa = next_guest_;
    next_guest_ += kPageSize;
    return gpa;
  }
  // Returns where a frame from `NewGuestFrame` lies.
  static uint64_t HpaOfGuest(uint64_t gpa) { return kGuestMemory + gpa; }

  // Maps `gva` in the guest's own tables, which lie in pages of `ept_level`. Returns the hpa of the
  // entry.
  uint64_t MapGuest(uint64_t gva, uint64_t gpa, int level = 1, uint64_t bits = kGuestLeaf,
                    int ept_level = 1) {
    const uint64_t place = GuestEntryAt(gva, level, ept_level);
    StoreGuest(place, gpa | bits | (level > 1 ? kGuestLargePage : 0));
    return place;
  }

  uint64_t GuestEntryAt(uint64_t gva, int level, int ept_level = 1) {
    const bool narrow = mode_ == PagingMode::k32Bit;
    const int index_bits = narrow ? 10 : 9;
    uint64_t table = GuestRoot(gva, ept_level);
    for (int l = GuestLevels(mode_);; --l) {
      const uint64_t index = gva >> (12 + index_bits * (l - 1)) & ((uint64_t{1} << index_bits) - 1);
      const uint64_t place = HpaOfGuest(table) + index * (narrow ? 4 : 8);
      if (l == level) return place;
      if (LoadGuest(place) == 0) StoreGuest(place, NewGuestFrame(ept_level) | kGuestTable);
      table = LoadGuest(place) & 0xffffffffff000;
    }
  }

  uint64_t LoadGuest(uint64_t hpa) {
    return mode_ == PagingMode::k32Bit ? physical().Load<uint32_t>(hpa) : Load(hpa);
  }
  void StoreGuest(uint64_t hpa, uint64_t value) {
    if (mode_ == PagingMode::k32Bit) {
      physical().Store<uint32_t>(hpa, static_cast<uint32_t>(value));
    } else {
      Store(hpa, value);
    }
  }

  Event Enter(bool accessed_dirty = false) { return cpu_.Enter(eptp(accessed_dirty)); }

  static constexpr uint64_t kGuestMemory = GiB(4);

 private:
  // Returns CR3, or the PDPTE of `gva` under PAE paging.
  uint64_t GuestRoot(uint64_t gva, int ept_level) {
    Registers r = cpu_.registers();
    if (mode_ == PagingMode::kPae) {
      uint64_t& pdpte = r.pdptes[gva >> 30 & 3];
      if (pdpte == 0) pdpte = NewGuestFrame(ept_level) | 1;
      cpu_.SetRegisters(r);
      return pdpte & ~uint64_t{1};
    }
    if (r.cr3 == 0) {
      r.cr3 = NewGuestFrame(ept_level);
      cpu_.SetRegisters(r);
    }
    return r.cr3;
  }

  HostMemory memory_{{.size = GiB(16)}};
  Cpu cpu_;
  PagingMode mode_;
  int ept_levels_;
  uint64_t ept_root_ = 0;
  uint64_t next_frame_ = MiB(2);
  uint64_t next_guest_ = GiB(1);
};

// Returns a CPU without caches, for tests of walks.
inline CpuConfig NoCaches() {
  CpuConfig config;
  config.caches = *CachePreset("none");
  return config;
}

}  // namespace tdp::sim

#endif  // TDP_TESTS_SIM_WORLD_H_
