// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/world.h"

#include <algorithm>
#include <array>
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
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"

namespace tdp::explore {
namespace {

// The guest's own tables, and those of a hypervisor in it, stand in these frames of slot 0: root,
// two upper tables, and the tables of frames [0, 512) and [512, 1024). They map every frame of slot
// 0 at its own number, and so do three more tables those of the small slots.
constexpr uint64_t kTables = 64;
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
  };
  return *kinds;
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
      .size = version.pages * kPageSize};
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
    TDP_CHECK(StartGuest(guest).ok());
  }
  // Guests have run, and slot 0 logs from before that, from after it, or not.
  const uint64_t logging = random.Below(3);
  const MemoryRegion logs = {
      .flags = kSlotLogDirtyPages, .size = kFirstPages * kPageSize, .hva = ExploredHost::kRam};
  const auto log = [&] {
    if (kind.options.private_memory) return;
    TDP_CHECK(vm_->SetMemoryRegion(logs).ok());
    SlotVersion version = *model_.FindSlot(0);
    version.logs = true;
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
  SlotVersion first = {.id = 0, .base = Gfn(0), .pages = kFirstPages, .first = 0};
  MemoryRegion region = {.size = kFirstPages * kPageSize, .hva = ExploredHost::kRam};
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
  const bool read_only = random.Below(4) == 0;
  const SlotVersion second = {.id = 1,
                              .base = kSecond,
                              .pages = kSmallPages,
                              .first = kSecondPages,
                              .writable = !read_only};
  TDP_CHECK(vm_->SetMemoryRegion({.slot = 1,
                                  .flags = read_only ? kSlotReadOnly : 0,
                                  .gpa = kSecond.address(),
                                  .size = kSmallPages * kPageSize,
                                  .hva = ExploredHost::HvaOf(kSecondPages)})
                .ok());
  model_.SettleSlot(1, &second);
}

void World::MakeSlotsInSmm(bool logs) {
  const auto make = [this](const SlotVersion& version) {
    TDP_CHECK(vm_->SetMemoryRegion(RegionOf(host_, version)).ok());
    model_.SettleSlot(version.id, &version);
  };
  make({.id = kSharedInSmm, .space = 1, .pages = kFirstPages, .first = 0, .logs = logs});
  make({.id = kSmram, .space = 1, .base = kSecond, .pages = kSmallPages, .first = kSmramPages});
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
  for (const Gfn slot : {kSecond, kElsewhere, kHole}) {
    table(2)[slot.raw() / 512] = (kTables + next) << kPageShift | link;
    for (uint64_t i = 0; i < kSmallPages; ++i) {
      table(next)[i] = (slot.raw() + i) << kPageShift | leaf;
    }
    ++next;
  }
}

absl::Status World::StartGuest(Guest& guest) {
  switch (kind_.mode) {
    case GuestMode::kDirect:
      return absl::OkStatus();
    case GuestMode::kView:
      return guest.vcpu->SetView(view_);
    case GuestMode::kShadow: {
      GuestControls controls;
      controls.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect | guest::kCr0ProtectionEnable;
      controls.cr4 = guest::kCr4PhysicalAddressExtension;
      controls.efer =
          guest::kEferLongModeActive | guest::kEferLongModeEnable | guest::kEferNoExecute;
      controls.physical_address_bits = 46;
      return guest.vcpu->shadow()->SetPaging(controls, kTables << kPageShift).status();
    }
    case GuestMode::kNested: {
      NestedContext context;
      context.eptp = Eptp::Make(Hpa(kTables << kPageShift), 4, false);
      context.rules = {.capabilities = EptCapabilities::All(), .physical_address_bits = 46};
      return guest.vcpu->nested()->Enter(context);
    }
  }
  return absl::OkStatus();
}

void World::EnterContext(Vcpu& vcpu, GuestCpu& cpu, const GuestEntry& entry) const {
  CpuContext context;
  context.space = vcpu.address_space();
  context.view = vcpu.view();
  context.eptp_list = eptp_list_;
  if (kind_.mode == GuestMode::kShadow) {
    context.format = TableFormat::kLinear;
    context.root = Hpa(vcpu.shadow()->registers().cr3 & ept::kAddressMask);
  } else {
    context.root = entry.eptp().root();
    context.levels = entry.eptp().levels();
    context.accessed_dirty = entry.eptp().accessed_dirty();
    context.logs_pages = kind_.options.dirty_tracking == DirtyTracking::kPml;
  }
  cpu.Enter(context);
}

World::Touched World::NextTouch(Random& random) const {
  static constexpr std::array<uint64_t, 14> kFrames = {
      0, 1, 1, 2, 2, 3, 5, 7, 511, 512, 513, kSecond.raw(), kElsewhere.raw(), kHole.raw()};
  // The guest's own tables stand in slot 0.
  static constexpr std::array<uint64_t, 16> kOwnFrames = {0,
                                                          1,
                                                          1,
                                                          2,
                                                          2,
                                                          3,
                                                          5,
                                                          511,
                                                          512,
                                                          513,
                                                          600,
                                                          kTables + 3,
                                                          kSecond.raw(),
                                                          kSecond.raw() + 1,
                                                          kElsewhere.raw(),
                                                          kHole.raw()};
  Touched touch;
  const bool own_tables = kind_.mode == GuestMode::kShadow || kind_.mode == GuestMode::kNested;
  touch.gfn = Gfn(own_tables ? kOwnFrames[random.Below(kOwnFrames.size())]
                             : kFrames[random.Below(kFrames.size())]);
  const uint64_t kind = random.Below(8);
  touch.kind = kind < 4 ? Access::Write() : kind < 7 ? Access::Read() : Access::Execute();
  touch.from_links = random.Below(2) == 0;
  return touch;
}

void World::Touch(Vcpu& vcpu, GuestCpu& cpu, int accesses, Random& random) {
  // Faults and kicks take turns too.
  for (int tries = 0; accesses > 0 && tries < 4 * 12; ++tries) {
    accesses -= RunInGuest(vcpu, cpu, random, accesses, false);
  }
}

void World::RunGuest(int guest, int accesses, bool all) {
  Guest& self = guests_[static_cast<size_t>(guest)];
  while (operators_ > 0 || (all && accesses > 0)) {
    accesses -= RunInGuest(*self.vcpu, *self.cpu, *self.random, std::max(accesses, 0), true);
  }
}

void World::OperatorDone() {
  --operators_;
  fibers_.Tell();
}

int World::RunInGuest(Vcpu& vcpu, GuestCpu& cpu, Random& random, int most, bool stay) {
  if (kind_.smm && random.Below(3) == 0) {
    // An SMI, or RSM.
    Expect(vcpu.SetAddressSpace(vcpu.address_space() == 0 ? 1 : 0), "SetAddressSpace");
  }
  Touched touch;
  CpuEvent event = CpuEvent::kNone;
  int done = 0;
  {
    GuestEntry entry = vcpu.EnterGuest();
    EnterContext(vcpu, cpu, entry);
    if (fibers_.running()) {
      const std::string why = cpu.CheckReach();
      if (!why.empty()) Fail(absl::StrCat("a vCPU entered the guest with ", why));
    }
    while (event == CpuEvent::kNone && done < most) {
      MaySwitch(cpu, random);
      touch = NextTouch(random);
      event = cpu.Touch(touch.gfn, touch.kind, touch.from_links);
      ++done;
    }
    if (fibers_.running() && random.Below(8) == 0) CallFromGuest();
    // It stays in the guest until somebody wants it out.
    while (event == CpuEvent::kNone && stay && operators_ > 0 && !cpu.is_kicked()) {
      fibers_.Pause();
    }
    if (event == CpuEvent::kNone || event == CpuEvent::kKick) cpu.WriteSilently();
    cpu.Exit();
    cpu.TakeKick();
    const std::vector<Gpa> log = cpu.TakeLog();
    if (!log.empty()) Expect(vcpu.LogPml(log), "LogPml");
  }
  if (eptp_list_ != Hpa(0)) {
    // Where the guest was. A view that has gone meanwhile answers for nothing any more.
    const absl::Status known = vcpu.SetView(cpu.view());
    if (absl::IsNotFound(known)) return done;
    Expect(known, "SetView");
  }
  if (event == CpuEvent::kViolation || event == CpuEvent::kMisconfiguration) {
    if (Handle(vcpu, cpu, touch, event)) --done;
  }
  return done;
}

void World::MaySwitch(GuestCpu& cpu, Random& random) const {
  if (eptp_list_ == Hpa(0) || random.Below(3) != 0) return;
  // Where there is no such view VMFUNC is an exit, after which the guest goes on.
  (void)cpu.SwitchView(static_cast<ViewId>(random.Below(GuestCpu::kListed)));
}

// What a thread with a `GuestEntry` may call, and must not have to wait for what waits for it.
void World::CallFromGuest() {
  (void)vm_->Stats();
  (void)vm_->Translate(Gpa(0));
  Expect(vm_->MarkDirty(Gpa(7 * kPageSize), kPageSize), "MarkDirty");
}

// Whoever tries again lets others go on first.
bool World::TryAgain(bool again) {
  if (again && fibers_.running()) fibers_.Pause();
  return again;
}

bool World::Handle(Vcpu& vcpu, GuestCpu& cpu, const Touched& touch, CpuEvent event) {
  switch (kind_.mode) {
    case GuestMode::kShadow:
      return HandleShadow(vcpu, touch, cpu.found());
    case GuestMode::kNested:
      return HandleNested(vcpu, touch, event, cpu.found());
    default:
      return HandleDirect(vcpu, touch, event, cpu.found());
  }
}

bool World::HandleDirect(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found) {
  const FaultResult result =
      event == CpuEvent::kMisconfiguration
          ? vcpu.HandleEptMisconfiguration(touch.gfn.address())
          : vcpu.HandleEptViolation(touch.gfn.address(),
                                    ExitQualification::Make(touch.kind, found, true, true));
  switch (result.outcome) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
      return true;
    case FaultOutcome::kRetry:
    case FaultOutcome::kBlocked:
      return TryAgain(true);
    case FaultOutcome::kError:
      Expect(result.status, "a fault");
      return false;
    default:
      return false;
  }
}

bool World::HandleShadow(Vcpu& vcpu, const Touched& touch, Access found) {
  const uint32_t code = (found.is_empty() ? 0 : 1) | (touch.kind.can_write() ? 2 : 0) |
                        (touch.kind.can_execute() ? 16 : 0);
  const PagingFaultResult result =
      vcpu.shadow()->HandlePageFault(Gva(touch.gfn.raw() << kPageShift), code);
  switch (result.outcome) {
    case PagingOutcome::kFixed:
    case PagingOutcome::kSpurious:
      return true;
    case PagingOutcome::kRetry:
    case PagingOutcome::kBlocked:
      return TryAgain(true);
    case PagingOutcome::kEmulateWrite: {
      // It writes what stands there.
      const absl::Status written =
          vcpu.shadow()->EmulateWrite(result.gpa, 8, [](std::byte* /*place*/) {});
      if (absl::IsUnavailable(written)) return TryAgain(true);
      Expect(written, "EmulateWrite");
      return false;
    }
    case PagingOutcome::kError:
      Expect(result.status, "a page fault");
      return false;
    default:
      return false;
  }
}

bool World::HandleNested(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found) {
  if (event == CpuEvent::kMisconfiguration) Fail("L2 met a misconfigured entry");
  const NestedFaultResult result = vcpu.nested()->HandleViolation(
      touch.gfn.address(), ExitQualification::Make(touch.kind, found, true, true));
  switch (result.outcome) {
    case NestedOutcome::kFixed:
    case NestedOutcome::kSpurious:
      return true;
    case NestedOutcome::kRetry:
    case NestedOutcome::kBlocked:
      return TryAgain(true);
    case NestedOutcome::kError:
      Expect(result.status, "a violation of L2");
      return false;
    default:
      return false;
  }
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
}

void World::CheckLeft(ViewId view) {
  if (eptp_list_ != Hpa(0) && host_.EntriesAt(eptp_list_)[view] != 0) return;
  for (const Guest& guest : guests_) {
    if (guest.cpu->IsOn(view)) Fail(absl::StrCat("a vCPU runs on view ", view, ", destroyed"));
  }
}

void World::CheckRootLeft(Hpa root) {
  fibers_.SeeAll();
  for (const Guest& guest : guests_) {
    if (vm_->eptp().root() == root || !guest.cpu->IsOn(kBaseView)) continue;
    if (guest.cpu->root() == root) Fail("a vCPU runs on a root that was replaced");
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

// What is over before a take is over for the thread that takes: it was told so.
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
