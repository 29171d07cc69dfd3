// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/world.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/check.h"
#include "tdp/mmu/format/ept_format.h"
#include "tests/explore/walked_tables.h"

namespace tdp::explore {
namespace {

constexpr int kTableCount = 8;

Capabilities OfferedCapabilities() {
  Capabilities offered;
  offered.ept = EptCapabilities::All();
  offered.pml = true;
  offered.ve = true;
  offered.mbec = true;
  offered.eptp_switching = true;
  offered.shadow_paging = true;
  return offered;
}

}  // namespace

const std::vector<MachineKind>& MachineKinds() {
  using enum DirtyTracking;
  static const auto* kinds = new std::vector<MachineKind>{
      {.name = "wp", .options = {.dirty_tracking = kWriteProtection}},
      {.name = "dbits", .options = {.dirty_tracking = kDirtyBits}},
      {.name = "pml", .options = {.dirty_tracking = kPml}},
      {.name = "ring", .options = {.dirty_tracking = kWriteProtection}, .ring = true},
      {.name = "manual", .options = {.dirty_tracking = kWriteProtection}, .manual = true},
      {.name = "noad", .options = {.accessed_dirty = Use::kNever}},
      {.name = "rmap", .options = {.reverse_map = true}},
      {.name = "view",
       .options = {.dirty_tracking = kDirtyBits, .virtualization_exceptions = Use::kIfOffered},
       .mode = GuestMode::kView},
      {.name = "private", .options = {.private_memory = true}},
      {.name = "shadow", .options = {.paging = Paging::kShadow}, .mode = GuestMode::kShadow},
      {.name = "nested", .options = {.nested = true}, .mode = GuestMode::kNested},
      {.name = "vmfunc",
       .options = {.dirty_tracking = kDirtyBits},
       .mode = GuestMode::kView,
       .vmfunc = true},
      {.name = "smm", .options = {.address_spaces = 2}, .smm = true},
      {.name = "gib", .options = {.dirty_tracking = kWriteProtection}, .gib = true},
  };
  return *kinds;
}

std::vector<const char*> NamesOfKinds() {
  std::vector<const char*> names;
  for (const MachineKind& kind : MachineKinds()) names.push_back(kind.name);
  return names;
}

const MachineKind& KindOf(std::string_view name) {
  const std::vector<MachineKind>& kinds = MachineKinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(),
                                  [name](const MachineKind& kind) { return kind.name == name; });
  TDP_CHECK(found != kinds.end());
  return *found;
}

MemoryRegion RegionOf(const ExploredHost& host, const SlotVersion& version) {
  MemoryRegion region = {
      .slot = version.id & 0xffff,
      .address_space = version.space,
      .flags = (version.logs ? kSlotLogDirtyPages : 0) | (version.writable ? 0 : kSlotReadOnly),
      .gpa = version.base.address(),
      .size = (version.pages + version.pages_behind) * kPageSize};
  if (version.names_frames) {
    region.flags |= kSlotHostFrames;
    region.hpa = host.FrameOf(version.first).address();
  } else {
    region.hva = ExploredHost::HvaOf(version.first);
  }
  return region;
}

World::World(FiberScheduler& fibers, Arena& arena, const MachineKind& kind, uint64_t seed,
             int guests, int accesses, int operators)
    : fibers_(fibers),
      kind_(kind),
      host_(fibers, arena, OfferedCapabilities(), seed % 3 == 0 ? 9 : 0),
      model_(host_),
      operators_(operators) {
  Random random(seed + 1);
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(host_, kind.options);
  TDP_CHECK(vm.ok());
  vm_ = *std::move(vm);
  if (kind.ring) TDP_CHECK(vm_->EnableDirtyRing(1024).ok());
  if (kind.manual) TDP_CHECK(vm_->SetManualDirtyLogProtect(kDirtyLogManualProtect).ok());
  MakeSlots(random);
  if (kind.smm) MakeSlotsInSmm(random.Below(2) == 0);
  WriteGuestTables();
  walked_ = std::make_unique<WalkedTables>(*this);
  if (kind.mode == GuestMode::kView) {
    view_ = *vm_->CreateView();
    TDP_CHECK(view_ == FlatModel::kRuled);
  }
  if (kind.vmfunc) eptp_list_ = *vm_->EptpList();
  guests_.resize(static_cast<size_t>(guests));
  for (Guest& guest : guests_) {
    guest.vcpu = *vm_->CreateVcpu();
    guest.cpu = std::make_unique<GuestCpu>(host_, model_);
    guest.random = std::make_unique<Random>(random.Next());
    host_.Attach(guest.vcpu->id(), guest.cpu.get());
    TDP_CHECK(Start(*guest.vcpu).ok());
  }
  // Guests have run, and slot 0 logs from before that, from after it, or not.
  const uint64_t logging = random.Below(3);
  const auto log = [&] {
    if (kind.options.private_memory) return;
    SlotVersion version = *model_.FindSlot(0);
    version.logs = true;
    TDP_CHECK(vm_->SetMemoryRegion(RegionOf(host_, version)).ok());
    model_.SettleSlot(0, &version);
  };
  if (logging == 1) log();
  for (Guest& guest : guests_) {
    Touch(*guest.vcpu, *guest.cpu, accesses, *guest.random);
  }
  if (logging == 2) log();
}

World::~World() = default;

void World::MakeSlots(Random& random) {
  SlotVersion first = {.id = 0,
                       .base = Gfn(0),
                       .pages = kFirstPages,
                       .pages_behind = PagesBehind().raw(),
                       .first = 0};
  MemoryRegion region = RegionOf(host_, first);
  if (kind_.options.private_memory) {
    // Half as large, so that there is room for the private half.
    first.has_private = true;
    first.first_private = kPrivatePages;
    first.pages = 512;
    region.size = 512 * kPageSize;
    region.flags = kSlotPrivateMemory;
    region.private_hva = ExploredHost::HvaOf(kPrivatePages);
  }
  TDP_CHECK(vm_->SetMemoryRegion(region).ok());
  model_.SettleSlot(0, &first);
  const SlotVersion small = {.id = 1,
                             .base = second(),
                             .pages = kSmallPages,
                             .first = kSecondPages,
                             .writable = random.Below(4) != 0};
  TDP_CHECK(vm_->SetMemoryRegion(RegionOf(host_, small)).ok());
  model_.SettleSlot(1, &small);
}

void World::MakeSlotsInSmm(bool logs) {
  const auto make = [this](const SlotVersion& version) {
    TDP_CHECK(vm_->SetMemoryRegion(RegionOf(host_, version)).ok());
    model_.SettleSlot(version.id, &version);
  };
  make({.id = kSharedInSmm, .space = 1, .pages = kFirstPages, .first = 0, .logs = logs});
  make({.id = kSmram, .space = 1, .base = second(), .pages = kSmallPages, .first = kSmramPages});
}

std::vector<uint32_t> World::Slots() const {
  std::vector<uint32_t> slots = {0, 1, 2};
  if (kind_.smm) slots.insert(slots.end(), {kSharedInSmm, kSmram});
  return slots;
}

void World::WriteGuestTables() {
  if (kind_.mode != GuestMode::kShadow && kind_.mode != GuestMode::kNested) return;
  const bool shadow = kind_.mode == GuestMode::kShadow;
  const uint64_t link = shadow ? 0x67 : 0x7;
  const uint64_t leaf = shadow ? 0x67 : 0x7 | 6 << ept::kMemoryTypeShift;
  const auto table = [this](uint64_t n) {
    return reinterpret_cast<uint64_t*>(host_.AtPage(static_cast<HostPageNumber>(kTables + n)));
  };
  for (uint64_t n = 0; n < kTableCount; ++n) std::fill_n(table(n), 512, 0);
  table(0)[0] = (kTables + 1) << kPageShift | link;
  table(1)[0] = (kTables + 2) << kPageShift | link;
  table(2)[0] = (kTables + 3) << kPageShift | link;
  table(2)[1] = (kTables + 4) << kPageShift | link;
  for (uint64_t i = 0; i < kFirstPages; ++i) table(3 + i / 512)[i % 512] = i << kPageShift | leaf;
  uint64_t next = 5;
  for (const Gfn slot : {second(), elsewhere(), hole()}) {
    table(2)[slot.raw() / 512] = (kTables + next) << kPageShift | link;
    for (uint64_t i = 0; i < kSmallPages; ++i) {
      table(next)[i] = (slot.raw() + i) << kPageShift | leaf;
    }
    ++next;
  }
}

void World::OperatorDone() {
  --operators_;
  fibers_.Tell();
}

void World::Revoke(Hfn frame) {
  host_.Revoke(frame);
  walked_->Guard(frame);
}

void World::HoldOn() {
  if (fibers_.running()) fibers_.Yield();
}

void World::CheckPromises() {
  for (const Guest& guest : guests_) {
    const std::string why = guest.cpu->CheckReach();
    if (!why.empty()) Fail(absl::StrCat("a vCPU in the guest can reach ", why));
    guest.cpu->WriteSilently();
  }
  const std::string why = walked_->Check();
  if (!why.empty()) Fail(why);
}

void World::CheckLeft(ViewId view) {
  if (eptp_list_ != Hpa(0) && host_.EntriesAt(eptp_list_)[view] != 0) return;
  for (const Guest& guest : guests_) {
    if (guest.cpu->IsOn(view)) Fail(absl::StrCat("a vCPU runs on view ", view, ", destroyed"));
  }
}

void World::CheckForgotten(AddressSpaceId space, Gfn first, uint64_t pages, uint64_t since) {
  for (const Guest& guest : guests_) {
    const std::string why = guest.cpu->CheckForgotten(space, first, pages, since);
    if (!why.empty()) Fail(why);
  }
}

void World::Expect(const absl::Status& status, const char* what) {
  if (status.ok() || (may_run_out_ && absl::IsResourceExhausted(status))) return;
  Fail(absl::StrCat(what, ": ", status.ToString()));
}

void World::Fail(const std::string& finding) {
  if (fibers_.running()) fibers_.Fail(finding);
  internal::CheckFailed(__FILE__, __LINE__, finding.c_str());
}

void World::HarvestRings() {
  const uint64_t mark = BeginTake();
  const absl::Status status = vm_->HarvestDirtyRings([&](const DirtyRingEntry& entry) {
    const SlotVersion* slot = model_.FindSlot(entry.slot);
    if (slot == nullptr || entry.index >= slot->pages) return;
    const HostPageNumber page = slot->first + static_cast<HostPageNumber>(entry.index);
    harvested_.push_back(page);
    model_.Showed(page);
  });
  Expect(status, "HarvestDirtyRings");
  for (const uint32_t slot : Slots()) CheckShown(mark, slot);
}

// The thread that takes was told of what is over before the take, and so it sees it.
uint64_t World::BeginTake() {
  fibers_.SeeAll();
  return model_.BeginTake();
}

void World::CheckShown(uint64_t mark, uint32_t slot) {
  const std::string missed = model_.MissedBy(mark, slot);
  if (!missed.empty()) Fail(missed);
}

void World::ResetRings() {
  vm_->ResetDirtyRings();
  for (const HostPageNumber page : harvested_) model_.ReadPage(page);
  harvested_.clear();
  CheckPromises();
}

absl::Status World::TakeDirtyLog(uint32_t slot, absl::FunctionRef<void()> also) {
  return vm_->TakeDirtyLog(
      slot & 0xffff,
      [&](uint64_t base, uint64_t mask) {
        for (uint64_t i = 0; i < 64; ++i) {
          if ((mask >> i & 1) != 0) model_.Took(slot, base + i);
        }
        also();
      },
      static_cast<AddressSpaceId>(slot >> 16));
}

void World::TakeLog(uint32_t slot) {
  const uint64_t mark = BeginTake();
  const absl::Status status = TakeDirtyLog(slot, [this] { CheckPromises(); });
  if (absl::IsNotFound(status)) return;
  Expect(status, "TakeDirtyLog");
  CheckShown(mark, slot);
  CheckPromises();
}

// Nobody runs any more: the logs must show what was written, and the tables be sound.
std::string World::Judge() {
  if (const std::string why = walked_->Check(); !why.empty()) return why;
  // A vCPU may have noted the way to either table as writable.
  for (Guest& guest : guests_) {
    std::vector<uint64_t> frames = {0, 1, 2, 3, 5, 7, 511, 512, 513};
    if (&guest != guests_.data()) std::reverse(frames.begin(), frames.end());
    for (const uint64_t gfn : frames) {
      if (RunOne(*guest.vcpu, *guest.cpu, {Gfn(gfn), Access::Write(), false})) continue;
      return absl::StrCat("a write of gfn ", gfn, " faults for ever");
    }
  }
  if (kind_.ring) {
    HarvestRings();
    ResetRings();
  } else {
    for (const uint32_t slot : Slots()) {
      const absl::Status status = TakeDirtyLog(slot, [] {});
      if (!status.ok() && !absl::IsNotFound(status)) return status.ToString();
    }
  }
  if (const HostPageNumber page = model_.FirstDirty(); page != ExploredHost::kPages) {
    return absl::StrCat("host page ", page, " was written, and no log shows it");
  }
  const absl::Status sound = vm_->CheckInvariants();
  return sound.ok() ? "" : sound.ToString();
}

}  // namespace tdp::explore
