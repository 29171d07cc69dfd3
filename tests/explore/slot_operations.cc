// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/slot_operations.h"

#include <bit>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/vm/change.h"
#include "tests/explore/flat_model.h"

namespace tdp::explore {
namespace {

// Lets one operator at a time change slots where the model has to know what was there before.
class SlotTurn {
 public:
  explicit SlotTurn(World& world) : lock_(world.slots()) {}

 private:
  MutexLock lock_;
};

void Delete(World& world, uint32_t id) {
  const SlotTurn turn(world);
  const SlotVersion* old = world.model().FindSlot(id);
  if (old == nullptr) return;
  world.model().ForgetDirty(id);
  const absl::Status status = world.vm().SetMemoryRegion(
      {.slot = id & 0xffff, .address_space = static_cast<AddressSpaceId>(id >> 16), .size = 0});
  world.Expect(status, "SetMemoryRegion");
  if (!status.ok()) return;
  world.model().SettleSlot(id, nullptr);
  world.CheckPromises();
}

// Changes or makes the slot `version.id`.
void Set(World& world, const SlotVersion& version) {
  world.model().OfferSlot(version);
  const absl::Status status = world.vm().SetMemoryRegion(RegionOf(world.host(), version));
  world.Expect(status, "SetMemoryRegion");
  if (!status.ok()) return;
  world.model().SettleSlot(version.id, &version);
  world.CheckPromises();
}

void Move(World& world, uint32_t id) {
  const SlotTurn turn(world);
  const SlotVersion* old = world.model().FindSlot(id);
  if (old == nullptr) return;
  SlotVersion version = *old;
  version.base = version.base == world.second() ? world.elsewhere() : world.second();
  Set(world, version);
}

void SetLogging(World& world, uint32_t id, bool logs) {
  const SlotTurn turn(world);
  const SlotVersion* old = world.model().FindSlot(id);
  if (old == nullptr || (logs && !old->writable)) return;
  SlotVersion version = *old;
  version.logs = logs;
  if (!logs) world.model().ForgetDirty(id);
  Set(world, version);
}

// The host's moves do not reach these pages, so frames that the slot names stay what they are.
void MakeThird(World& world, bool names_frames) {
  const SlotTurn turn(world);
  if (world.model().FindSlot(2) != nullptr) return;
  Set(world, {.id = 2,
              .base = world.hole(),
              .pages = World::kSmallPages,
              .first = World::kThirdPages + World::kSmallPages,
              .names_frames = names_frames});
}

}  // namespace

void DeleteSecond(World& world) { Delete(world, 1); }
void DeleteInHole(World& world) { Delete(world, 2); }

void MakeAnew(World& world) {
  Delete(world, 1);
  const SlotTurn turn(world);
  if (world.model().FindSlot(1) != nullptr) return;
  // The new slot is over other memory, so that whatever is left of the old one shows.
  Set(world,
      {.id = 1, .base = world.second(), .pages = World::kSmallPages, .first = World::kThirdPages});
}

void MoveSecond(World& world) { Move(world, 1); }

void MakeInHole(World& world) { MakeThird(world, false); }
void MakeOfFrames(World& world) { MakeThird(world, true); }

// In one batch slot 1 goes and comes over other memory, and a few pages are zapped; then comes a
// batch with a change that is refused, after which all is as it was.
void MakeAnewAtOnce(World& world) {
  const SlotTurn turn(world);
  std::vector<Change> changes;
  if (world.model().FindSlot(1) != nullptr) {
    world.model().ForgetDirty(1);
    changes.push_back(Change::Region({.slot = 1, .size = 0}));
  }
  const SlotVersion version{
      .id = 1, .base = world.elsewhere(), .pages = World::kSmallPages, .first = World::kThirdPages};
  changes.push_back(Change::Region(RegionOf(world.host(), version)));
  changes.push_back(Change::Zap(kFew, PageCount(kFewPages)));
  world.model().OfferSlot(version);
  const absl::Status made = world.vm().Apply(changes);
  world.Expect(made, "Apply");
  if (!made.ok()) return;
  world.model().SettleSlot(1, &version);
  world.CheckPromises();
  // This change is refused, since slot 0 is in the way.
  MemoryRegion overlapping = RegionOf(world.host(), version);
  overlapping.gpa = Gpa(0);
  changes = {Change::Region({.slot = 1, .size = 0}), Change::Region(overlapping)};
  if (!absl::IsAlreadyExists(world.vm().Apply(changes))) world.Fail("an overlap was not refused");
}

void LogOn(World& world) { SetLogging(world, 0, true); }
void LogOff(World& world) { SetLogging(world, 0, false); }
void LogSecondAndMove(World& world) {
  SetLogging(world, 1, true);
  MoveSecond(world);
}

// The log that is shown must have every write that was over before the slot went.
void DeleteAndShow(World& world) {
  SetLogging(world, 1, true);
  const SlotTurn turn(world);
  const SlotVersion* old = world.model().FindSlot(1);
  if (old == nullptr || !old->logs) return;
  world.HoldOn();
  world.model().SetDeleting(true);
  const absl::Status status = world.vm().DeleteSlot(1, [&](uint64_t base, uint64_t mask) {
    for (; mask != 0; mask &= mask - 1) {
      world.model().Took(1, base + static_cast<uint64_t>(std::countr_zero(mask)));
    }
  });
  world.Expect(status, "DeleteSlot");
  if (!world.uses_rings()) world.CheckShown(world.model().Now(), 1);
  world.model().ForgetDirty(1);
  world.model().SettleSlot(1, nullptr);
  world.model().SetDeleting(false);
  world.CheckPromises();
}

// --- Slots of address space 1

void LogOnInSmm(World& world) { SetLogging(world, World::kSharedInSmm, true); }
void LogOffInSmm(World& world) { SetLogging(world, World::kSharedInSmm, false); }
void MoveSmram(World& world) { Move(world, World::kSmram); }

void MakeSmramAnew(World& world) {
  Delete(world, World::kSmram);
  const SlotTurn turn(world);
  if (world.model().FindSlot(World::kSmram) != nullptr) return;
  Set(world, {.id = World::kSmram,
              .space = 1,
              .base = world.second(),
              .pages = World::kSmallPages,
              .first = World::kSmramPages + World::kSmallPages});
}

void SwapAtOnce(World& world) {
  const SlotTurn turn(world);
  const SlotVersion* second = world.model().FindSlot(1);
  const SlotVersion* smram = world.model().FindSlot(World::kSmram);
  if (second == nullptr || smram == nullptr) return;
  SlotVersion moved = *smram;
  moved.base = moved.base == world.second() ? world.elsewhere() : world.second();
  world.model().ForgetDirty(1);
  world.model().OfferSlot(moved);
  const absl::Status made = world.vm().Apply(
      {Change::Region({.slot = 1, .size = 0}), Change::Region(RegionOf(world.host(), moved))});
  world.Expect(made, "Apply");
  if (!made.ok()) return;
  world.model().SettleSlot(1, nullptr);
  world.model().SettleSlot(World::kSmram, &moved);
  world.CheckPromises();
}

}  // namespace tdp::explore
