// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a PC keeps its memory.

#ifndef TDP_TOOLS_GUEST_MEMORY_MAP_H_
#define TDP_TOOLS_GUEST_MEMORY_MAP_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/base/address.h"

namespace tdp::tools {

enum class RegionKind {
  kRam,
  kRom,   // a read-only slot
  kMmio,  // no slot: an access there is the device model's
};

struct MapRegion {
  RegionKind kind = RegionKind::kRam;
  const char* name = "";
  Gpa base;
  ByteCount size = 0;
  // Where the region's memory stands in its backing; two regions may show the same bytes.
  ByteCount backing_offset = 0;

  constexpr Gpa end() const { return base + size; }
  constexpr bool Contains(Gpa gpa) const { return gpa >= base && gpa < end(); }
};

// RAM up to the hole below 4 GiB, with the VGA window and the BIOS's shadow in the first MiB; in
// the hole the MMIO window and the BIOS ROM; the rest of RAM from 4 GiB up. Regions ascend and
// leave no gap up to the end of RAM or 4 GiB, whichever is higher.
class MemoryMap {
 public:
  static constexpr ByteCount kMinRam = MiB(8);
  static constexpr ByteCount kMaxRam = TiB(1);
  static constexpr ByteCount kHole = GiB(3);
  static constexpr ByteCount kAboveHole = GiB(4);
  static constexpr ByteCount kRomBytes = KiB(256);

  // InvalidArgument unless `ram` is a multiple of 2 MiB from kMinRam to kMaxRam.
  static absl::StatusOr<MemoryMap> ForPc(ByteCount ram);

  const std::vector<MapRegion>& regions() const { return regions_; }
  // Returns the region, or null above the last one.
  const MapRegion* Find(Gpa gpa) const;

  ByteCount ram_below_hole() const { return below_; }
  ByteCount ram_above_hole() const { return above_; }
  // Returns how many bytes back all regions with memory: RAM at its own address below the hole,
  // then the RAM above it, then the ROM.
  ByteCount backing_size() const { return below_ + above_ + kRomBytes; }

 private:
  MemoryMap(ByteCount below, ByteCount above);

  std::vector<MapRegion> regions_;
  ByteCount below_;
  ByteCount above_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_GUEST_MEMORY_MAP_H_
