// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/memory_map.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tdp::tools {
namespace {

constexpr ByteCount kVgaWindow = KiB(640);
constexpr ByteCount kShadowRom = KiB(768);
constexpr ByteCount kHighMemory = MiB(1);

}  // namespace

absl::StatusOr<MemoryMap> MemoryMap::ForPc(ByteCount ram) {
  if (ram < kMinRam || ram > kMaxRam || ram % MiB(2) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ram is ", ram, " bytes, but must be a multiple of 2 MiB from 8 MiB to 1 TiB"));
  }
  const ByteCount below = std::min(ram, kHole);
  return MemoryMap(below, ram - below);
}

MemoryMap::MemoryMap(ByteCount below, ByteCount above) : below_(below), above_(above) {
  const ByteCount rom = below + above;
  const Gpa rom_base(kAboveHole - kRomBytes);
  regions_ = {
      {RegionKind::kRam, "conventional RAM", Gpa(0), kVgaWindow, 0},
      {RegionKind::kMmio, "VGA window", Gpa(kVgaWindow), kShadowRom - kVgaWindow, 0},
      {RegionKind::kRom, "BIOS shadow", Gpa(kShadowRom), kRomBytes, rom},
      {RegionKind::kRam, "RAM below the hole", Gpa(kHighMemory), below - kHighMemory, kHighMemory},
      {RegionKind::kMmio, "MMIO window", Gpa(below), rom_base.raw() - below, 0},
      {RegionKind::kRom, "BIOS ROM", rom_base, kRomBytes, rom},
  };
  if (above != 0) {
    regions_.push_back({RegionKind::kRam, "RAM above 4 GiB", Gpa(kAboveHole), above, below});
  }
}

const MapRegion* MemoryMap::Find(Gpa gpa) const {
  for (const MapRegion& region : regions_) {
    if (region.Contains(gpa)) return &region;
  }
  return nullptr;
}

}  // namespace tdp::tools
