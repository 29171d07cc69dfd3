// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a world's guests run: entries, accesses, and what comes of their exits.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tests/explore/world.h"

namespace tdp::explore {
namespace {

// A hypervisor in the guest runs its own guest on this EPTP.
const Eptp kEptp12 = Eptp::Make(Hpa(World::kTables << kPageShift), 4, false);

EntryRules RulesOfL1() {
  return {.capabilities = EptCapabilities::All(), .physical_address_bits = 46};
}

// Returns where the guest's own tables say what `FlatModel::kRemapped` is.
constexpr uint64_t kRemappingTable = World::kTables + 3 + FlatModel::kRemapped.raw() / 512;

}  // namespace

absl::Status World::Start(Vcpu& vcpu) {
  switch (kind_.mode) {
    case GuestMode::kDirect:
      return absl::OkStatus();
    case GuestMode::kView:
      return vcpu.SetView(view_);
    case GuestMode::kShadow: {
      GuestControls controls;
      controls.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect | guest::kCr0ProtectionEnable;
      controls.cr4 = guest::kCr4PhysicalAddressExtension;
      controls.efer =
          guest::kEferLongModeActive | guest::kEferLongModeEnable | guest::kEferNoExecute;
      controls.physical_address_bits = 46;
      return vcpu.shadow()->SetPaging(controls, kTables << kPageShift).status();
    }
    case GuestMode::kNested: {
      NestedContext context;
      context.eptp = kEptp12;
      context.rules = RulesOfL1();
      return vcpu.nested()->Enter(context);
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
  // Below a GiB they stay in slot 0: what a vCPU has noted of the way to a table lives longer then.
  constexpr size_t kInFirst = 11;
  const std::array<uint64_t, 14> frames = {
      0, 1, 1, 2, 2, 3, 5, 7, 511, 512, 513, second().raw(), elsewhere().raw(), hole().raw()};
  // The guest's own tables stand in slot 0.
  const std::array<uint64_t, 16> own_frames = {0,
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
                                               second().raw(),
                                               second().raw() + 1,
                                               elsewhere().raw(),
                                               hole().raw()};
  Touched touch;
  const bool own_tables = kind_.mode == GuestMode::kShadow || kind_.mode == GuestMode::kNested;
  touch.gfn = Gfn(own_tables ? own_frames[random.Below(own_frames.size())]
                             : frames[random.Below(kind_.gib ? kInFirst : frames.size())]);
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

int World::RunInGuest(Vcpu& vcpu, GuestCpu& cpu, Random& random, int most, bool stay) {
  if (kind_.mode == GuestMode::kShadow && fibers_.running() && random.Below(8) == 0) {
    ForgetRemapped(vcpu, cpu);
  }
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

// Makes the calls that a thread with a `GuestEntry` may make. They must not wait for a thread that
// waits for this one.
void World::CallFromGuest() {
  (void)vm_->Stats();
  (void)vm_->Translate(Gpa(0));
  Expect(vm_->MarkDirty(Gpa(7 * kPageSize), kPageSize), "MarkDirty");
}

bool World::Store(Vcpu& vcpu, GuestCpu& cpu, Gfn gfn, GuestStore store) {
  RunOne(vcpu, cpu, {.gfn = gfn, .kind = Access::Write(), .from_links = false, .store = &store});
  return store.done;
}

void World::TouchOnce(Vcpu& vcpu, GuestCpu& cpu, Gfn gfn, Access kind) {
  RunOne(vcpu, cpu, {.gfn = gfn, .kind = kind, .from_links = false});
}

bool World::RunOne(Vcpu& vcpu, GuestCpu& cpu, const Touched& touch) {
  constexpr int kTries = 48;
  for (int tries = 0; tries < kTries; ++tries) {
    CpuEvent event;
    {
      GuestEntry entry = vcpu.EnterGuest();
      EnterContext(vcpu, cpu, entry);
      event = cpu.Touch(touch.gfn, touch.kind, touch.from_links, touch.store);
      cpu.Exit();
      cpu.TakeKick();
      const std::vector<Gpa> log = cpu.TakeLog();
      if (!log.empty()) Expect(vcpu.LogPml(log), "LogPml");
    }
    if (event == CpuEvent::kNone) return true;
    if (event == CpuEvent::kKick || event == CpuEvent::kLogFull) continue;
    if (!Handle(vcpu, cpu, touch, event)) return true;
  }
  return false;
}

void World::Remap(Vcpu& vcpu, GuestCpu& cpu, Gfn to, bool writable) {
  const bool shadow = kind_.mode == GuestMode::kShadow;
  const uint64_t rights = writable ? 7 : 5;
  // Where the frame is another, the guest's A and D are clear as well.
  const uint64_t flags = shadow && to == FlatModel::kRemapped ? 0x60 : 0;
  const uint64_t type = shadow ? 0 : 6 << ept::kMemoryTypeShift;
  model_.OfferMapping(to, writable);
  const bool done = Store(vcpu, cpu, Gfn(kRemappingTable),
                          {.index = FlatModel::kRemapped.raw() % 512,
                           .value = to.address().raw() | rights | flags | type,
                           .page = static_cast<HostPageNumber>(kRemappingTable)});
  model_.SettleMapping(done);
  ForgetRemapped(vcpu, cpu);
}

void World::ForgetRemapped(Vcpu& vcpu, GuestCpu& cpu) {
  // This CPU sees what another one has stored by now before it is told to forget.
  fibers_.SeeAll();
  const uint64_t begun = model_.Now();
  if (kind_.mode == GuestMode::kShadow) {
    Expect(vcpu.shadow()->Invlpg(Gva(FlatModel::kRemapped.address().raw())), "INVLPG");
    cpu.ForgetMappingsBefore(begun);
    return;
  }
  constexpr uint64_t kSingleContext = 1;
  Expect(vcpu.nested()->Invept(kSingleContext, kEptp12, RulesOfL1()).status(), "INVEPT");
  model_.ForgetMappingsBefore(begun);
  CheckPromises();
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

template <typename Result>
bool World::TryAgainAfter(const Result& result, const char* what) {
  using Outcome = decltype(result.outcome);
  switch (result.outcome) {
    case Outcome::kFixed:
    case Outcome::kSpurious:
      return true;
    case Outcome::kRetry:
    case Outcome::kBlocked:
      return TryAgain(true);
    case Outcome::kError:
      Expect(result.status, what);
      return false;
    default:
      return false;
  }
}

bool World::HandleDirect(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found) {
  const FaultResult result =
      event == CpuEvent::kMisconfiguration
          ? vcpu.HandleEptMisconfiguration(touch.gfn.address())
          : vcpu.HandleEptViolation(touch.gfn.address(),
                                    ExitQualification::Make(touch.kind, found, true, true));
  return TryAgainAfter(result, "a fault");
}

bool World::HandleShadow(Vcpu& vcpu, const Touched& touch, Access found) {
  const uint32_t code = (found.is_empty() ? 0 : 1) | (touch.kind.can_write() ? 2 : 0) |
                        (touch.kind.can_execute() ? 16 : 0);
  const uint64_t offset = touch.store == nullptr ? 0 : touch.store->index * sizeof(uint64_t);
  const PagingFaultResult result =
      vcpu.shadow()->HandlePageFault(Gva(touch.gfn.address().raw() + offset), code);
  if (result.outcome == PagingOutcome::kEmulateWrite) {
    return EmulateWrite(vcpu, result.gpa, touch.store);
  }
  return TryAgainAfter(result, "a page fault");
}

// Emulates the instruction that met a table. It writes `store`, or what stands there already.
bool World::EmulateWrite(Vcpu& vcpu, Gpa gpa, GuestStore* store) {
  const uint64_t begun = model_.BeginDeviceWrite();
  const absl::Status written =
      vcpu.shadow()->EmulateWrite(gpa, sizeof(uint64_t), [&](std::byte* place) {
        if (store == nullptr) return;
        AtomicRef<uint64_t>(*reinterpret_cast<uint64_t*>(place))
            .store(store->value, std::memory_order_release);
        store->done = true;
      });
  if (absl::IsUnavailable(written)) return TryAgain(true);
  Expect(written, "EmulateWrite");
  if (store != nullptr && store->done) model_.EndDeviceWrite(store->page, begun);
  return false;
}

bool World::HandleNested(Vcpu& vcpu, const Touched& touch, CpuEvent event, Access found) {
  if (event == CpuEvent::kMisconfiguration) Fail("L2 met a misconfigured entry");
  const NestedFaultResult result = vcpu.nested()->HandleViolation(
      touch.gfn.address(), ExitQualification::Make(touch.kind, found, true, true));
  return TryAgainAfter(result, "a violation of L2");
}

}  // namespace tdp::explore
