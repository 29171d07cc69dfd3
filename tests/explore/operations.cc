// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/operations.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/policy/memory_types.h"
#include "tdp/mmu/vm/change.h"
#include "tests/explore/explored_host.h"
#include "tests/explore/flat_model.h"
#include "tests/explore/slot_operations.h"
#include "tests/explore/view_operations.h"
#include "tests/explore/visitor.h"
#include "tests/explore/walked_tables.h"

namespace tdp::explore {
namespace {

// --- Which machines have what

bool Always(const MachineKind&) { return true; }
bool OnEpt(const MachineKind& kind) { return kind.options.paging == Paging::kEpt; }
bool SplitsLeaves(const MachineKind& kind) { return OnEpt(kind) && !kind.options.reverse_map; }
bool Plain(const MachineKind& kind) {
  return kind.mode == GuestMode::kDirect || kind.mode == GuestMode::kView;
}
bool HasOwnTables(const MachineKind& kind) { return !Plain(kind); }
bool HasView(const MachineKind& kind) { return kind.mode == GuestMode::kView; }
bool HasEptpList(const MachineKind& kind) { return kind.vmfunc; }
bool HasSmm(const MachineKind& kind) { return kind.smm; }
bool HasGib(const MachineKind& kind) { return kind.gib; }
bool HasVe(const MachineKind& kind) {
  return kind.options.virtualization_exceptions != Use::kNever;
}
bool CanView(const MachineKind& kind) {
  return Plain(kind) && !kind.options.reverse_map && !kind.options.private_memory;
}
bool HasPrivate(const MachineKind& kind) { return kind.options.private_memory; }
bool CanLog(const MachineKind& kind) { return !kind.options.private_memory; }
bool HasBitmap(const MachineKind& kind) { return CanLog(kind) && !kind.ring; }
bool HasManual(const MachineKind& kind) { return kind.manual; }
bool HasRing(const MachineKind& kind) { return kind.ring; }

// --- Zaps

void Zap(World& world, Gfn first, uint64_t pages, bool hold, AddressSpaceId space = 0) {
  const uint64_t since = world.model().Now();
  absl::StatusOr<PendingFlush> flush = world.vm().ZapRange(first, PageCount(pages), space);
  world.Expect(flush.status(), "ZapRange");
  if (!flush.ok()) return;
  if (hold) world.HoldOn();
  flush->Settle();
  world.CheckForgotten(space, first, pages, since);
}

void ZapFew(World& world) { Zap(world, kFew, kFewPages, false); }
void ZapFewHeld(World& world) { Zap(world, kFew, kFewPages, true); }
void ZapFewInSmm(World& world) { Zap(world, kFew, kFewPages, true, 1); }
void ZapMany(World& world) { Zap(world, Gfn(0), 512, false); }

void ZapEverything(World& world, bool hold) {
  const uint64_t since = world.model().Now();
  absl::StatusOr<PendingFlush> flush = world.vm().ZapAll();
  world.Expect(flush.status(), "ZapAll");
  if (!flush.ok()) return;
  if (hold) world.HoldOn();
  flush->Settle();
  world.CheckForgotten(0, Gfn(0), 1 << 20, since);
}

void ZapAll(World& world) { ZapEverything(world, false); }
void ZapAllHeld(World& world) { ZapEverything(world, true); }

// --- The host takes memory back

template <typename Pages>
void RevokeAll(World& world, const Pages& frames) {
  for (const Hfn frame : frames) world.Revoke(frame);
  world.CheckPromises();
}

std::vector<Hfn> Move(World& world, HostPageNumber first, HostPageNumber pages) {
  std::vector<Hfn> old;
  for (HostPageNumber i = 0; i < pages; ++i) old.push_back(world.host().Move(first + i));
  return old;
}

void Invalidate(World& world, HostPageNumber first, HostPageNumber pages) {
  world.HostChanges(1);
  const std::vector<Hfn> old = Move(world, first, pages);
  world.Expect(world.vm().InvalidateHostRange(ExploredHost::HvaOf(first), pages * kPageSize),
               "InvalidateHostRange");
  world.HostChanges(-1);
  RevokeAll(world, old);
}

void InvalidateFew(World& world) { Invalidate(world, 1, 2); }
void InvalidateOther(World& world) { Invalidate(world, 2, 2); }
void InvalidateSecond(World& world) { Invalidate(world, World::kSecondPages, 1); }

void BeginAndEnd(World& world) {
  world.Expect(world.vm().BeginHostInvalidation(ExploredHost::HvaOf(2), 2 * kPageSize),
               "BeginHostInvalidation");
  const std::vector<Hfn> old = Move(world, 2, 2);
  RevokeAll(world, old);
  world.HoldOn();
  world.CheckPromises();
  world.vm().EndHostInvalidation();
}

void Age(World& world, bool hold) {
  absl::StatusOr<AgeResult> aged =
      world.vm().AgeHostRange(ExploredHost::kRam, World::kFirstPages * kPageSize);
  world.Expect(aged.status(), "AgeHostRange");
  if (!aged.ok()) return;
  if (hold) world.HoldOn();
  aged->flush.Settle();
}

void AgeAll(World& world) { Age(world, false); }
void AgeAllHeld(World& world) { Age(world, true); }
void TestAge(World& world) {
  world.Expect(world.vm().TestAge(ExploredHost::HvaOf(1), kPageSize).status(), "TestAge");
}

// --- Dirty logs

void Take(World& world) { world.TakeLog(0); }
void TakeSecond(World& world) { world.TakeLog(1); }
void TakeInSmm(World& world) { world.TakeLog(World::kSharedInSmm); }

void PushDown(World& world) {
  const absl::Status status = world.vm().PushDownDirtyLog(0);
  if (!absl::IsNotFound(status)) world.Expect(status, "PushDownDirtyLog");
  world.CheckPromises();
}

using Bits = std::array<uint64_t, World::kFirstPages / 64>;

// The bits are a take's that began at `mark`.
void CheckShown(World& world, uint64_t mark, uint32_t id, const Bits& bits) {
  const SlotVersion* slot = world.model().FindSlot(id);
  for (uint64_t page = 0; slot != nullptr && page < slot->pages; ++page) {
    if ((bits[page / 64] >> page % 64 & 1) == 0) continue;
    world.model().Showed(slot->first + static_cast<HostPageNumber>(page));
  }
  world.CheckShown(mark, id);
}

// Pages are read after they were cleared, as a migration does.
void GetAndClear(World& world) {
  Bits bits{};
  const uint64_t mark = world.BeginTake();
  absl::Status status =
      world.vm().GetDirtyLog(0, [&](uint64_t base, uint64_t mask) { bits[base / 64] = mask; });
  if (absl::IsNotFound(status)) return;
  world.Expect(status, "GetDirtyLog");
  CheckShown(world, mark, 0, bits);
  status = world.vm().ClearDirtyLog(0, {.num_pages = World::kFirstPages}, bits);
  if (absl::IsNotFound(status)) return;
  world.Expect(status, "ClearDirtyLog");
  for (uint64_t page = 0; page < World::kFirstPages; ++page) {
    if ((bits[page / 64] >> page % 64 & 1) != 0) world.model().Took(0, page);
  }
  world.CheckPromises();
}

// A device writes a page of slot 0 and one of slot 1.
void DeviceWrites(World& world) {
  for (const uint32_t id : {0, 1}) {
    const SlotVersion* slot = world.model().FindSlot(id);
    if (slot == nullptr) continue;
    const HostPageNumber page = slot->first + 2;
    world.fibers().SeeAll();
    const uint64_t begun = world.model().BeginDeviceWrite();
    world.Expect(world.vm().MarkDirty((slot->base + PageCount(2)).address() + 8, 8), "MarkDirty");
    world.model().EndDeviceWrite(page, begun);
  }
}

void HarvestAndReset(World& world) {
  const MutexLock lock(world.rings());
  world.HarvestRings();
  world.ResetRings();
}

// --- Leaves

void Split(World& world) {
  absl::StatusOr<PendingFlush> flush = world.vm().SplitRange(Gfn(0), PageCount(512));
  world.Expect(flush.status(), "SplitRange");
  if (flush.ok()) flush->Settle();
}
void Collapse(World& world) {
  world.Expect(world.vm().CollapseRange(Gfn(0), PageCount(512)).status(), "CollapseRange");
}

void SetTypes(World& world) {
  const MutexLock lock(world.types());
  constexpr uint64_t kMtrrsOn = uint64_t{1} << 11;
  for (const MemoryType type : {MemoryType::kUncacheable, MemoryType::kWriteBack}) {
    GuestMemoryTypes types;
    types.non_coherent_dma = type == MemoryType::kUncacheable;
    types.mtrrs.default_type = kMtrrsOn | static_cast<uint64_t>(type);
    world.model().OfferType(type);
    world.Expect(world.vm().SetMemoryTypes(types), "SetMemoryTypes");
    world.model().SettleType(type);
    world.CheckPromises();
  }
}

void SetQuota(World& world) {
  world.set_may_run_out(true);
  world.Expect(world.vm().SetTableQuota(8), "SetTableQuota");
  world.HoldOn();
  world.Expect(world.vm().SetTableQuota(1000), "SetTableQuota");
}

void SetAttributes(World& world) {
  const MutexLock lock(world.types());
  for (const bool is_private : {true, false}) {
    world.model().OfferPrivate(is_private);
    world.Expect(world.vm().SetMemoryAttributes(Gfn(FlatModel::kFirstPrivate).address(),
                                                FlatModel::kPrivateFrames * kPageSize,
                                                is_private ? kMemoryAttributePrivate : 0),
                 "SetMemoryAttributes");
    world.model().SettlePrivate(is_private);
    world.CheckPromises();
  }
}

// --- vCPUs

void VcpuComesAndGoes(World& world) {
  Visitor visitor(world);
  Random random(3);
  if (Plain(world.kind())) world.Touch(*visitor, visitor.cpu(), 4, random);
}

// Pushes down, as the first write of a log, what protects the other pages as well.
void WriteElsewhere(World& world) {
  Visitor visitor(world);
  world.TouchOnce(*visitor, visitor.cpu(), Gfn(512), Access::Write());
}

void Prefault(World& world) {
  Visitor visitor(world);
  constexpr HostPageNumber kPages = 16;
  const int self = world.fibers().current();
  world.host().ForgetAsked(self);
  const absl::StatusOr<ByteCount> done =
      visitor->Prefault(Gpa(0), kPages * kPageSize, Access::ReadWrite());
  // Memory may go on changing.
  if (!absl::IsUnavailable(done.status())) world.Expect(done.status(), "Prefault");
  // Once as one of a table, 16 times by itself and once more with memory for a log; by itself only
  // up to where it stopped.
  const uint64_t last = done.ok() ? *done / kPageSize : 0;
  const auto of_table = static_cast<HostPageNumber>(last + 1);
  if (world.host().MostAsked(self, 0, of_table) > 18 ||
      world.host().MostAsked(self, of_table, kPages) > 1) {
    world.Fail("Prefault asks again and again");
  }
}

void Populate(World& world) {
  const absl::StatusOr<ByteCount> done =
      world.vm().Populate(Gpa(0), 16 * kPageSize, 0, world.view());
  if (!absl::IsUnavailable(done.status())) world.Expect(done.status(), "Populate");
}

// These slots come and go.
void PrefaultSecond(World& world) {
  Visitor visitor(world);
  const absl::StatusOr<ByteCount> done =
      visitor->Prefault(world.second().address(), World::kSmallPages * kPageSize, Access::Read());
  if (!absl::IsUnavailable(done.status()) && !absl::IsNotFound(done.status())) {
    world.Expect(done.status(), "Prefault");
  }
}

void PopulateFrames(World& world) {
  MakeOfFrames(world);
  const absl::StatusOr<ByteCount> done =
      world.vm().Populate(world.hole().address(), World::kSmallPages * kPageSize, 0, world.view());
  if (!absl::IsUnavailable(done.status()) && !absl::IsNotFound(done.status())) {
    world.Expect(done.status(), "Populate");
  }
}

// --- The guest's own tables

// A vCPU in every address space and view that there is: each walk finds what the last one has kept.
template <typename Work>
void InEachSpace(World& world, Vcpu& vcpu, Work work) {
  work();
  if (world.kind().smm) {
    world.Expect(vcpu.SetAddressSpace(1), "SetAddressSpace");
    work();
  }
  if (HasView(world.kind())) {
    world.Expect(vcpu.SetView(world.view()), "SetView");
    work();
  }
}

void Walk(World& world) {
  Visitor visitor(world);
  InEachSpace(world, *visitor, [&] {
    world.walked().Walk(*visitor, WalkedTables::Page::kInSecondSlot, GuestAccess::Write());
    world.walked().Walk(*visitor, WalkedTables::Page::kInFirstSlot, GuestAccess::Read());
  });
  world.walked().Walk(*visitor, WalkedTables::Page::kInSecondSlot, GuestAccess::Read());
}

void RewriteTables(World& world) {
  const MutexLock lock(world.types());
  Visitor visitor(world);
  for (const auto page : {WalkedTables::Page::kInFirstSlot, WalkedTables::Page::kInSecondSlot}) {
    world.walked().Rewrite(*visitor, visitor.cpu(), page);
  }
}

void Remap(World& world) {
  const MutexLock lock(world.types());
  Visitor visitor(world);
  world.Expect(world.Start(*visitor), "a guest with tables of its own");
  const auto remap = [&](uint64_t by, bool writable) {
    world.Remap(*visitor, visitor.cpu(), FlatModel::kRemapped + PageCount(by), writable);
    world.TouchOnce(*visitor, visitor.cpu(), FlatModel::kRemapped, Access::Read());
  };
  remap(1, true);
  remap(0, false);
  remap(0, true);
}

// --- Questions

void AskStats(World& world) { (void)world.vm().Stats(); }
void Translate(World& world) { (void)world.vm().Translate(kFew.address()); }
void CheckInvariants(World& world) {
  // Between a change of the host and the call that tells of it no leaf can agree with the host.
  const uint64_t changes = world.host_changes();
  const bool untold = world.host_is_ahead();
  const absl::Status sound = world.vm().CheckInvariants();
  if (!untold && world.host_changes() == changes) world.Expect(sound, "CheckInvariants");
}

constexpr Operation kOperations[] = {
    {"zap", ZapFew, Always},
    {"zap_held", ZapFewHeld, Always},
    {"zap_many", ZapMany, Always},
    {"zap_all", ZapAll, Always},
    {"zap_all_held", ZapAllHeld, Always},
    {"invalidate", InvalidateFew, Always},
    {"invalidate_other", InvalidateOther, Always},
    {"invalidate_second", InvalidateSecond, Always},
    {"begin_end", BeginAndEnd, Always},
    {"age", AgeAll, Always},
    {"age_held", AgeAllHeld, Always},
    {"test_age", TestAge, Always},
    {"delete", DeleteSecond, Always},
    {"delete_and_show", DeleteAndShow, CanLog},
    {"make_anew", MakeAnew, Always},
    {"move", MoveSecond, Always},
    {"make_in_hole", MakeInHole, Always},
    {"delete_in_hole", DeleteInHole, Always},
    {"make_of_frames", MakeOfFrames, Always},
    {"make_anew_at_once", MakeAnewAtOnce, Always},
    {"log_on", LogOn, CanLog},
    {"log_off", LogOff, CanLog},
    {"log_and_move", LogSecondAndMove, CanLog},
    {"take", Take, HasBitmap},
    {"take_second", TakeSecond, HasBitmap},
    {"push_down", PushDown, HasBitmap},
    {"get_and_clear", GetAndClear, HasManual},
    {"device", DeviceWrites, CanLog},
    {"reset_rings", HarvestAndReset, HasRing},
    {"split", Split, SplitsLeaves},
    {"collapse", Collapse, SplitsLeaves},
    {"types", SetTypes, OnEpt},
    {"quota", SetQuota, Plain},
    {"attributes", SetAttributes, HasPrivate},
    {"make_view", MakeView, CanView},
    {"make_ruled_view", MakeRuledView, HasEptpList},
    {"view_rights", SetRights, HasView},
    {"view_rights_at_once", SetRightsAtOnce, HasView},
    {"deny_at_once", DenyAtOnce, HasView},
    {"view_frames", SetFrames, HasView},
    {"raises_ve", SetRaisesVe, HasVe},
    {"switch_view", SwitchView, HasView},
    {"zap_in_smm", ZapFewInSmm, HasSmm},
    {"log_on_in_smm", LogOnInSmm, HasSmm},
    {"log_off_in_smm", LogOffInSmm, HasSmm},
    {"take_in_smm", TakeInSmm, HasSmm},
    {"move_smram", MoveSmram, HasSmm},
    {"make_smram_anew", MakeSmramAnew, HasSmm},
    {"swap_at_once", SwapAtOnce, HasSmm},
    {"vcpu", VcpuComesAndGoes, Always},
    {"write_elsewhere", WriteElsewhere, HasGib},
    {"prefault", Prefault, Plain},
    {"prefault_second", PrefaultSecond, Plain},
    {"populate", Populate, Plain},
    {"populate_frames", PopulateFrames, Plain},
    {"walk", Walk, Always},
    {"rewrite", RewriteTables, Plain},
    {"remap", Remap, HasOwnTables},
    {"stats", AskStats, Always},
    {"translate", Translate, Always},
    {"check", CheckInvariants, Always},
};

}  // namespace

std::vector<const Operation*> OperationsOf(const MachineKind& kind) {
  // Where slot 0 is a GiB, these are about what stands between its leaves and the root.
  constexpr std::string_view kOfGib[] = {
      "zap",       "zap_all", "invalidate", "age",      "log_on",   "log_off",        "take",
      "push_down", "split",   "quota",      "collapse", "prefault", "write_elsewhere"};
  std::vector<const Operation*> offered;
  for (const Operation& operation : kOperations) {
    if (kind.gib &&
        std::find(std::begin(kOfGib), std::end(kOfGib), operation.name) == std::end(kOfGib))
      continue;
    if (operation.offered(kind)) offered.push_back(&operation);
  }
  return offered;
}

const Operation* FindOperation(std::string_view name) {
  for (const Operation& operation : kOperations) {
    if (operation.name == name) return &operation;
  }
  return nullptr;
}

}  // namespace tdp::explore
