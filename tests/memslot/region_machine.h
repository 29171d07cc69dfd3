// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests of regions share these: a sink that checks like a VM, and a PC.

#ifndef TDP_TESTS_MEMSLOT_REGION_MACHINE_H_
#define TDP_TESTS_MEMSLOT_REGION_MACHINE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/dirty_log_request.h"
#include "tdp/memslot/guest_memory.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {

// Puts a `SlotSet` behind the interface of a VM, with writes of a guest that has no CPU.
class SlotSetSink : public GuestMemory {
 public:
  explicit SlotSetSink(const SlotLimits& limits = {}) : set_(limits) {}

  absl::Status SetMemoryRegion(const MemoryRegion& region) override {
    ++calls_;
    if (fail_at_ == calls_) return absl::ResourceExhaustedError("asked to fail");
    TDP_ASSIGN_OR_RETURN(SlotUpdate update, set_.Prepare(region));
    if (update.takes_away()) set_.PublishInvalid(update);
    set_.Publish(std::move(update));
    return absl::OkStatus();
  }
  absl::Status GetDirtyLog(uint32_t slot, DirtyLog::Visitor visit,
                           AddressSpaceId address_space) override {
    TDP_ASSIGN_OR_RETURN(const MemorySlot found, SlotToGetDirtyLog(set_, address_space, slot));
    if (!is_manual_) return found.state->dirty_log()->Take(visit);
    found.state->dirty_log()->Copy(visit);
    return absl::OkStatus();
  }
  absl::Status ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                             absl::Span<const uint64_t> bits,
                             AddressSpaceId address_space) override {
    TDP_ASSIGN_OR_RETURN(const MemorySlot found,
                         SlotToClearDirtyLog(set_, address_space, slot, range));
    return found.state->dirty_log()->Clear(range.first_page, range.num_pages, bits,
                                           [](uint64_t, uint64_t) {});
  }
  absl::Status SetManualDirtyLogProtect(uint64_t flags) override {
    is_manual_ = flags != 0;
    return absl::OkStatus();
  }

  // Writes to the page of `gpa` as a guest does.
  void Write(Gpa gpa, AddressSpaceId address_space = 0) {
    const std::optional<MemorySlot> slot = set_.FindByGfn(address_space, Gfn::Of(gpa));
    TDP_CHECK(slot.has_value() && slot->state->dirty_log() != nullptr);
    const uint64_t index = slot->IndexOf(Gfn::Of(gpa));
    TDP_CHECK(slot->state->dirty_log()->Prepare(index).ok());
    slot->state->dirty_log()->Mark(index);
  }

  // Dirty pages go to rings from here on, and no call reads them.
  void UseRings() { set_.set_dirty_bitmap_policy(DirtyBitmapPolicy::kRings); }

  const SlotSet& set() const { return set_; }
  int calls() const { return calls_; }
  // Lets the call with this number, from 1, fail.
  void FailAt(int call) { fail_at_ = call; }

 private:
  SlotSet set_;
  bool is_manual_ = false;
  int calls_ = 0;
  int fail_at_ = 0;
};

inline Region* MustCreate(RegionTree& tree, RegionSpec spec) {
  absl::StatusOr<Region*> region = tree.Create(std::move(spec));
  TDP_CHECK(region.ok());
  return *region;
}

inline void MustAttach(RegionTree& tree, Region* parent, Region* child, uint64_t offset,
                       int priority = 0) {
  TDP_CHECK(tree.Attach(parent, child, offset, priority).ok());
}

inline Region* AddAlias(RegionTree& tree, Region* parent, std::string name, Region* of,
                        uint64_t of_offset, RegionSize size, uint64_t offset, int priority = 0) {
  RegionSpec spec{.name = std::move(name), .kind = RegionKind::kAlias, .size = size};
  spec.alias_of = of;
  spec.alias_offset = of_offset;
  Region* const alias = MustCreate(tree, std::move(spec));
  MustAttach(tree, parent, alias, offset, priority);
  return alias;
}

// Is the memory map of a PC with 4 GiB: RAM below and above the hole, the VGA window, the BIOS with
// its copy below 1 MiB, a PCI hole, and SMRAM, which shows in place of the VGA window when it is
// enabled.
struct Pc {
  explicit Pc(RegionTree& tree) {
    system = MustCreate(tree, {.name = "system", .size = kWholeAddressSpace});
    RegionSpec ram_spec{.name = "ram", .kind = RegionKind::kRam, .size = GiB(4)};
    ram_spec.host = Hva(0x100000000000);
    ram_spec.log_dirty = true;
    ram = MustCreate(tree, std::move(ram_spec));
    RegionSpec bios_spec{.name = "bios", .kind = RegionKind::kRom, .size = KiB(256)};
    bios_spec.host = Hva(0x200000000000);
    bios = MustCreate(tree, std::move(bios_spec));
    pci = MustCreate(tree, {.name = "pci", .size = kWholeAddressSpace});
    vga = MustCreate(tree, {.name = "vga", .kind = RegionKind::kMmio, .size = KiB(128)});
    tree.Begin();
    AddAlias(tree, system, "ram-below-4g", ram, 0, GiB(3), 0);
    AddAlias(tree, system, "ram-above-4g", ram, GiB(3), GiB(1), GiB(4));
    MustAttach(tree, system, pci, 0, -1);
    MustAttach(tree, pci, bios, GiB(4) - KiB(256));
    AddAlias(tree, pci, "isa-bios", bios, KiB(128), KiB(128), KiB(896), 1);
    MustAttach(tree, pci, vga, 0xa0000, 1);
    AddAlias(tree, system, "vga-window", pci, 0xa0000, KiB(128), 0xa0000, 1);
    bios_window = AddAlias(tree, system, "pam-bios", pci, KiB(896), KiB(128), KiB(896), 1);
    smram = AddAlias(tree, system, "smram", ram, 0xa0000, KiB(128), 0xa0000, 2);
    TDP_CHECK(tree.SetEnabled(smram, false).ok());
    TDP_CHECK(tree.Commit().ok());
  }

  Region* system;
  Region* ram;
  Region* bios;
  Region* pci;
  Region* vga;
  Region* bios_window;
  Region* smram;
};

}  // namespace tdp

#endif  // TDP_TESTS_MEMSLOT_REGION_MACHINE_H_
