// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/model/engine_model.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/mmu/walker.h"

namespace tdp::model {
namespace {

using sim::AccessKind;
using sim::Event;

absl::Status Wrong(std::string what) { return absl::InternalError(std::move(what)); }

AccessKind KindOf(uint8_t how) {
  constexpr AccessKind kKinds[] = {AccessKind::kLoad, AccessKind::kStore, AccessKind::kFetch};
  return kKinds[how % 3];
}

tdp::Access AccessOf(uint8_t how) {
  constexpr tdp::Access kAccesses[] = {tdp::Access::Read(), tdp::Access::Write(),
                                       tdp::Access::Execute()};
  return kAccesses[how % 3];
}

}  // namespace

SimMachineOptions EngineModel::Machine() {
  return {.cpus = kCpus, .memory = {.size = GiB(1), .shuffled = true, .fragmentation = 0.3}};
}

EngineModel::EngineModel(const VmOptions& options, int host_order, Mistake mistake,
                         uint64_t ring_entries)
    : SimWorld({.vm = options, .vcpus = 0, .cpus = Machine().cpus, .memory = Machine().memory}) {
  backend().forgets_flushes = mistake == Mistake::kForgetsFlushes;
  Start(host_order, ring_entries);
}

EngineModel::EngineModel(SimMachine& machine, const VmOptions& options, int host_order,
                         uint64_t ring_entries)
    : SimWorld({.vm = options, .vcpus = 0, .machine = &machine}) {
  Start(host_order, ring_entries);
}

void EngineModel::Start(int host_order, uint64_t ring_entries) {
  is_quota_set_ = vm().options().table_quota != VmOptions().table_quota;
  if (ring_entries != 0) TDP_CHECK(vm().EnableDirtyRing(ring_entries).ok());
  for (int i = 0; i < kCpus; ++i) AddVcpu();
  for (const Hva host : {kHost, kPrivateHost}) {
    TDP_CHECK(memory().Map(host, kHostPages * kPageSize, {.order = host_order}).ok());
  }
  for (size_t view = kBaseView + 1; HasViews() && view < kViews; ++view) {
    TDP_CHECK(vm().CreateView().ok());
  }
  for (int i = 0; i < kCpus; ++i) {
    sim::Registers unpaged;
    unpaged.cr0 = sim::kCr0Pe;
    cpu(i).SetRegisters(unpaged);
  }
}

absl::Status EngineModel::Apply(const Op& op) {
  const absl::Status status = Make(op);
  oracle().SettleAll();  // the operation has returned: what it changed is due
  NoteReclaims();
  Note(static_cast<uint64_t>(status.code()));
  return status;
}

absl::Status EngineModel::Make(const Op& op) {
  switch (op.kind) {
    case OpKind::kAccess:
      return Access(op);
    case OpKind::kSetSlot:
      return SetSlot(op);
    case OpKind::kDeleteSlot:
      return DeleteSlot(op);
    case OpKind::kZap:
    case OpKind::kZapAll:
      return Zap(op);
    case OpKind::kDiscard:
    case OpKind::kMigrate:
    case OpKind::kProtect:
      return HostChange(op);
    case OpKind::kNewVcpu:
      return NewVcpu(op);
    case OpKind::kAge:
      return Age(op);
    case OpKind::kSplit:
      return Split(op);
    case OpKind::kCollapse:
      return Collapse(op);
    case OpKind::kPrefault:
      return Prefault(op);
    case OpKind::kSetView:
      return SetView(op);
    case OpKind::kRights:
      return SetRights(op);
    case OpKind::kAttributes:
      return SetAttributes(op);
    case OpKind::kMemoryTypes:
      return SetMemoryTypes(op);
    case OpKind::kQuota:
      return SetQuota(op);
    case OpKind::kTakeLog:
      return TakeLog(op);
    case OpKind::kMarkDirty:
      return MarkDirty(op);
    case OpKind::kPushDownLog:
      return PushDownLog(op);
    case OpKind::kFrames:
      return SetFrames(op);
    case OpKind::kPopulate:
      return Populate(op);
    case OpKind::kBatch:
      return ApplyBatch(op);
    case OpKind::kCount:
      break;
  }
  return absl::OkStatus();
}

absl::Status EngineModel::Check() {
  for (ViewId view = 0; view < (HasViews() ? kViews : 1); ++view) {
    if (absl::Status shown = CheckLeavesShown(view); !shown.ok()) return shown;
  }
  return SimWorld::Check();
}

const EngineModel::Slot* EngineModel::SlotAt(uint64_t page) const {
  for (const auto& [id, slot] : slots_) {
    if (page >= slot.page && page - slot.page < slot.count) return &slot;
  }
  return nullptr;
}

bool EngineModel::OverlapsAnother(uint32_t id, uint64_t page, uint64_t count) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](const auto& other) {
    return other.first != id && page < other.second.page + other.second.count &&
           other.second.page < page + count;
  });
}

// Runs the access as an embedder would, until it is done or ends otherwise.
absl::StatusOr<EngineModel::Reached> EngineModel::AccessUntilDone(int cpu, Gpa gpa,
                                                                  AccessKind kind) {
  constexpr int kTries = 8;  // a right may have to be found missing level by level, and no more
  Reached reached;
  absl::Status status;
  const auto attempt = [&] {
    const sim::AccessResult access = SimWorld::cpu(cpu).AccessGpa(gpa, kind, 8);
    reached.hpa = access.hpa;
    return access.event;
  };
  const auto answer = [&](const sim::Exit& exit) {
    status = DrainPml(cpu);
    if (!status.ok() || exit.event == Event::kPmlFull) return status.ok();
    const FaultResult result = AnswerEptExit(vcpu(cpu), exit);
    if (result.outcome == FaultOutcome::kDirtyRingFull) EmptyRing(vcpu(cpu));
    if (result.outcome == FaultOutcome::kDirtyRingFull || result.outcome <= FaultOutcome::kRetry) {
      return true;
    }
    reached = {result.outcome, Hpa(0)};
    status = result.status;
    return false;
  };
  if (!Run(cpu, attempt, answer, kTries)) {
    return Wrong(
        absl::StrFormat("gpa 0x%x is still not mapped after %d faults", gpa.raw(), kTries));
  }
  TDP_RETURN_IF_ERROR(status);
  TDP_RETURN_IF_ERROR(DrainPml(cpu));
  return reached;
}

absl::Status EngineModel::Access(const Op& op) {
  const int cpu = op.cpu % kCpus;
  const uint64_t page = op.page % kGuestPages;
  const Gpa gpa = Gfn(page).address() + (op.count % kPageSize & ~uint64_t{7});
  const AccessKind kind = KindOf(op.how);
  const FaultOutcome expected = ExpectedOutcome(cpu, page, AccessOf(op.how));
  auto reached = AccessUntilDone(cpu, gpa, kind);
  if (absl::IsPermissionDenied(reached.status())) return absl::OkStatus();  // the host, as it may
  TDP_RETURN_IF_ERROR(reached.status());
  Note(static_cast<uint64_t>(reached->outcome));
  Note(reached->hpa.raw());
  NoteReclaims();
  accesses_mmio_ += expected == FaultOutcome::kMmio;
  accesses_denied_ += expected == FaultOutcome::kViewDenied;
  accesses_private_ += private_[page] != 0 && expected != FaultOutcome::kMmio;
  if (reached->outcome != expected) {
    return Wrong(absl::StrFormat("gpa 0x%x: an access came to %s instead of %s", gpa.raw(),
                                 FaultOutcomeName(reached->outcome), FaultOutcomeName(expected)));
  }
  if (expected != FaultOutcome::kFixed) return absl::OkStatus();
  ++accesses_mapped_;
  NoteAccess(cpu, page, Writes(kind));
  const ViewId view = view_of_[static_cast<size_t>(cpu)];
  accesses_shown_ += ShownAt(view, page).has_value();
  accesses_to_frames_ += SlotAt(page)->has_frames() && !ShownAt(view, page) && !private_[page];
  TDP_ASSIGN_OR_RETURN(Hpa want, ExpectedFrame(view, *SlotAt(page), page));
  want = want + gpa.page_offset();
  if (reached->hpa == want) return absl::OkStatus();
  return Wrong(absl::StrFormat("gpa 0x%x reached 0x%x instead of 0x%x", gpa.raw(),
                               reached->hpa.raw(), want.raw()));
}

FaultOutcome EngineModel::ExpectedOutcome(int cpu, uint64_t page, tdp::Access access) const {
  const Slot* slot = SlotAt(page);
  const ViewId view = view_of_[static_cast<size_t>(cpu)];
  const bool has_memory = slot != nullptr && (HasPrivateMemory(*slot) || ShownAt(view, page));
  if (private_[page] && !has_memory) return FaultOutcome::kMemoryFault;
  if (slot == nullptr) return FaultOutcome::kMmio;
  if (access.can_write() && (slot->flags & kSlotReadOnly) != 0) {
    return private_[page] ? FaultOutcome::kMemoryFault : FaultOutcome::kMmio;
  }
  return RightsAt(view, page).Covers(access) ? FaultOutcome::kFixed : FaultOutcome::kViewDenied;
}

Hva EngineModel::HostOf(const Slot& slot, uint64_t page) const {
  return (private_[page] ? kPrivateHost : kHost) + (slot.host + page - slot.page) * kPageSize;
}

// Half of the time sizes and places are multiples of 2 MiB, so that large pages come about.
EngineModel::Slot EngineModel::SlotFrom(const Op& op) const {
  const uint64_t grain = (op.how & 4) != 0 ? 512 : 1;
  Slot slot;
  slot.count = std::max<uint64_t>(1, op.count % (MiB(16) >> kPageShift) / grain) * grain;
  slot.page = op.page % (kGuestPages - slot.count) / grain * grain;
  slot.host = op.host % (kHostPages - slot.count) / grain * grain;
  slot.flags = op.how & 3;
  if (vm().options().private_memory && (op.how & 8) != 0) {
    slot.flags = kSlotPrivateMemory;
  } else if ((op.how & 16) != 0) {
    slot.flags |= kSlotHostFrames;
    if (HasViews() && (op.how & 32) != 0) slot.rights = RightsOf(op.how >> 6);
  }
  return slot;
}

MemoryRegion EngineModel::RegionOf(uint32_t id, const Slot& slot) const {
  MemoryRegion region{.slot = id,
                      .flags = slot.flags,
                      .gpa = Gfn(slot.page).address(),
                      .size = slot.count * kPageSize,
                      .rights = slot.rights};
  if (slot.has_frames()) {
    region.hpa = kFrames + slot.host * kPageSize;
  } else {
    region.hva = kHost + slot.host * kPageSize;
    region.private_hva = kPrivateHost + slot.host * kPageSize;
  }
  return region;
}

absl::Status EngineModel::SetSlot(const Op& op) {
  ForgetUse();
  const uint32_t id = op.slot % kSlots;
  const Slot slot = SlotFrom(op);
  const absl::Status status = vm().SetMemoryRegion(RegionOf(id, slot));
  const auto old = slots_.find(id);
  constexpr uint32_t kFixed = kSlotReadOnly | kSlotHostFrames;
  if (old != slots_.end() &&
      (old->second.count != slot.count || old->second.host != slot.host ||
       ((old->second.flags ^ slot.flags) & kFixed) != 0 || old->second.rights != slot.rights ||
       HasPrivateMemory(old->second) || HasPrivateMemory(slot))) {
    return absl::IsInvalidArgument(status)
               ? absl::OkStatus()
               : Wrong("a slot changed what cannot change: " + status.ToString());
  }
  if (OverlapsAnother(id, slot.page, slot.count)) {
    return absl::IsAlreadyExists(status) ? absl::OkStatus()
                                         : Wrong("overlapping slots: " + status.ToString());
  }
  TDP_RETURN_IF_ERROR(status);
  const bool logged = old != slots_.end() && (old->second.flags & kSlotLogDirtyPages) != 0;
  // A log that goes on keeps what it has; one that ends, or begins, has nothing to show.
  if (!logged || (slot.flags & kSlotLogDirtyPages) == 0) unshown_.erase(id);
  slots_[id] = slot;
  return absl::OkStatus();
}

absl::Status EngineModel::DeleteSlot(const Op& op) {
  ForgetUse();
  const uint32_t id = op.slot % kSlots;
  const absl::Status status =
      vm().DeleteSlot(id, [&](uint64_t base, uint64_t mask) { NoteShownWord(id, base, mask); });
  if (!slots_.contains(id)) {
    return absl::IsInvalidArgument(status) ? absl::OkStatus()
                                           : Wrong("deleted a slot that was not there");
  }
  TDP_RETURN_IF_ERROR(status);
  const absl::Status shown = HasRings() ? absl::OkStatus() : CheckAllShown(id);
  slots_.erase(id);
  unshown_.erase(id);
  return shown;
}

absl::Status EngineModel::Zap(const Op& op) {
  ForgetUse();
  // The quota refuses neither of these.
  auto flush = op.kind == OpKind::kZapAll
                   ? vm().ZapAll()
                   : vm().ZapRange(Gfn(op.page % kGuestPages), PageCount(op.count % 2048));
  TDP_RETURN_IF_ERROR(flush.status());
  flush->Settle();
  return absl::OkStatus();
}

// Changes what stands behind the host's pages, and tells the VM before and after, as the kernel
// does.
absl::Status EngineModel::HostChange(const Op& op) {
  ForgetUse();
  const uint64_t count = 1 + op.count % 1024;
  const Hva start =
      (op.slot % 4 == 0 ? kPrivateHost : kHost) + op.host % (kHostPages - count) * kPageSize;
  const ByteCount size = count * kPageSize;
  TDP_RETURN_IF_ERROR(vm().BeginHostInvalidation(start, size));
  absl::Status status;
  if (op.kind == OpKind::kDiscard) {
    status = memory().Discard(start, size);
  } else if (op.kind == OpKind::kMigrate) {
    status = memory().Migrate(start, size);
  } else {
    status = memory().Protect(start, size, op.how % 4 != 0);
  }
  vm().EndHostInvalidation();
  return status;
}

absl::Status EngineModel::NewVcpu(const Op& op) {
  ReplaceVcpu(op.cpu % kCpus);
  view_of_[op.cpu % kCpus] = kBaseView;
  return absl::OkStatus();
}

// With a reverse map leaves keep their size.
bool EngineModel::IsUnsupported(const absl::Status& status) const {
  return vm().options().reverse_map && absl::IsFailedPrecondition(status);
}

void EngineModel::NoteAccess(int cpu, uint64_t page, bool write) {
  const bool shown = ShownAt(view_of_[static_cast<size_t>(cpu)], page).has_value();
  // Private memory is not aged, and frames that are named have no age.
  if (!private_[page] && !shown && !SlotAt(page)->has_frames()) used_.insert(page);
  if (!write) return;
  written_.insert({view_of_[static_cast<size_t>(cpu)], page});
  if (shown) return;  // nothing was written to the slot
  for (const auto& [id, slot] : slots_) {
    const bool holds = page >= slot.page && page - slot.page < slot.count;
    if (holds && (slot.flags & kSlotLogDirtyPages) != 0) unshown_[id].insert(page - slot.page);
  }
}

void EngineModel::NoteReclaims() {
  const VmStats stats = vm().Stats();
  Note(stats.tables_in_use);
  Note(stats.flush_generation);
  if (std::exchange(reclaims_, stats.table_reclaims) != stats.table_reclaims) ForgetUse();
}

void EngineModel::ForgetUse() {
  used_.clear();
  written_.clear();
}

bool EngineModel::UsedInHostRange(uint64_t host, uint64_t count) const {
  return std::any_of(used_.begin(), used_.end(), [&](uint64_t page) {
    const Slot* slot = SlotAt(page);
    return slot != nullptr && slot->host + page - slot->page - host < count;
  });
}

// With A bits the CPU may go on below what it has cached without setting them, so only what aging
// by rights says is exact.
absl::Status EngineModel::Age(const Op& op) {
  const uint64_t count = 1 + op.count % 1024;
  const uint64_t host = op.host % (kHostPages - count);
  const Hva start = kHost + host * kPageSize;
  const bool exact = vm().options().accessed_dirty == Use::kNever;
  TDP_ASSIGN_OR_RETURN(const bool tested, vm().TestAge(start, count * kPageSize));
  TDP_ASSIGN_OR_RETURN(AgeResult aged, vm().AgeHostRange(start, count * kPageSize));
  aged.flush.Settle();
  if (tested != aged.young) return Wrong("a test of age and aging disagree");
  if (exact && !aged.young && UsedInHostRange(host, count)) {
    return Wrong(absl::StrFormat("host pages 0x%x+0x%x are old but were used", host, count));
  }
  TDP_ASSIGN_OR_RETURN(const bool after, vm().TestAge(start, count * kPageSize));
  if (after) return Wrong("pages are young that were just aged");
  used_.clear();
  return absl::OkStatus();
}

absl::Status EngineModel::CheckDirtyKept() {
  if (!vm().eptp().accessed_dirty()) return absl::OkStatus();
  for (const auto& [view, page] : written_) {
    const auto found = vm().Translate(Gfn(page).address(), 0, view);
    if (found.ok() && !found->entry.dirty()) {
      return Wrong(absl::StrFormat("page 0x%x was written and has lost its D", page));
    }
  }
  return absl::OkStatus();
}

absl::Status EngineModel::Split(const Op& op) {
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = op.count % 4096;
  const Level to = op.how % 2 == 0 ? kLevel4K : kLevel2M;
  absl::StatusOr<PendingFlush> flush = vm().SplitRange(Gfn(first), PageCount(count), to);
  if (IsUnsupported(flush.status())) return absl::OkStatus();
  if (is_quota_set_ && absl::IsResourceExhausted(flush.status())) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(flush.status());
  flush->Settle();
  {
    const Walker walker(vm());
    for (uint64_t page = first; page < std::min(first + count, kGuestPages); ++page) {
      const Translation found = walker.Walk(Gfn(page));
      if (found.is_mapped() && found.level > to) {
        return Wrong("a leaf is larger than it was split to");
      }
    }
  }
  return CheckDirtyKept();
}

// Checks that `Vm::VisitLeaves` shows of every page what a walk finds, and no page twice.
absl::Status EngineModel::CheckLeavesShown(ViewId view) {
  std::vector<LeafRun> runs;
  const absl::Status shown = vm().VisitLeaves(
      Gfn(0), PageCount(kGuestPages), [&](const LeafRun& run) { runs.push_back(run); }, 0, view);
  if (!shown.ok()) return shown;
  const Walker walker(vm(), 0, view);
  auto run = runs.begin();
  for (uint64_t page = 0; page < kGuestPages;) {
    while (run != runs.end() && run->gfn + run->pages <= Gfn(page)) ++run;
    const Translation found = walker.Walk(Gfn(page));
    // A walk answers for all of the entry that it ends at.
    const uint64_t end = std::min(kGuestPages, (page | (found.level.pages().raw() - 1)) + 1);
    const bool starts = run != runs.end() && run->gfn <= Gfn(page);
    const bool is_right = found.is_mapped()
                              ? starts && Gfn(end) <= run->gfn + run->pages &&
                                    found.FrameOf(Gfn(page)) == run->hfn + (Gfn(page) - run->gfn) &&
                                    found.access == run->access && found.level == run->level
                              : run == runs.end() || run->gfn >= Gfn(end);
    if (!is_right) {
      return absl::InternalError(absl::StrFormat(
          "VisitLeaves of page 0x%x in view %u: not what a walk finds", page, view));
    }
    page = end;
  }
  return absl::OkStatus();
}

absl::Status EngineModel::Collapse(const Op& op) {
  const absl::StatusOr<uint64_t> collapsed =
      vm().CollapseRange(Gfn(op.page % kGuestPages), PageCount(op.count % 8192));
  if (IsUnsupported(collapsed.status())) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(collapsed.status());
  collapsed_ += *collapsed;
  return CheckDirtyKept();
}

// Prefault gets as far as there is memory, unless the host refuses a page.
absl::Status EngineModel::Prefault(const Op& op) {
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(1 + op.count % 2048, kGuestPages - first);
  const int cpu = op.cpu % kCpus;
  const tdp::Access access = AccessOf(op.how);
  uint64_t expected = 0;
  while (expected < count &&
         ExpectedOutcome(cpu, first + expected, access) == FaultOutcome::kFixed) {
    ++expected;
  }
  const auto done = SimWorld::vcpu(cpu).Prefault(Gfn(first).address(), count * kPageSize, access);
  const uint64_t pages = done.ok() ? *done >> kPageShift : 0;
  for (uint64_t page = first; page < first + pages; ++page) {
    TDP_ASSIGN_OR_RETURN(
        const Translation found,
        vm().Translate(Gfn(page).address(), 0, view_of_[static_cast<size_t>(cpu)]));
    if (!found.access.Covers(access)) return Wrong("a prefaulted page lacks the right");
  }
  const bool refused = access.can_write() && (done.ok() || absl::IsPermissionDenied(done.status()));
  const bool short_of_tables =
      is_quota_set_ && (done.ok() || absl::IsResourceExhausted(done.status()));
  Vcpu& vcpu = SimWorld::vcpu(cpu);
  const bool ring_full = vcpu.dirty_ring() != nullptr && vcpu.dirty_ring()->is_nearly_full();
  if (ring_full) EmptyRing(vcpu);
  if (pages == expected || (pages < expected && (refused || short_of_tables || ring_full))) {
    return absl::OkStatus();
  }
  return Wrong(absl::StrFormat("prefault of 0x%x pages from 0x%x got 0x%x instead of 0x%x: %s",
                               count, first, pages, expected, done.status().ToString()));
}

// --- Views and attributes

absl::Status EngineModel::SetView(const Op& op) {
  if (!HasViews()) return absl::OkStatus();
  const auto view = static_cast<ViewId>(op.slot % kViews);
  view_of_[op.cpu % kCpus] = view;
  return vcpu(op.cpu % kCpus).SetView(view);
}

absl::Status EngineModel::SetRights(const Op& op) {
  if (!HasViews()) return absl::OkStatus();
  ForgetUse();
  const auto view = static_cast<ViewId>(op.slot % kViews);
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(1 + op.count % 1024, kGuestPages - first);
  const tdp::Access rights = RightsOf(op.how);
  rights_[view].Set(first, count, rights);
  return vm().SetViewRights(view, Gfn(first), PageCount(count), rights);
}

absl::Status EngineModel::SetAttributes(const Op& op) {
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(1 + op.count % 2048, kGuestPages - first);
  const bool is_private = op.how % 2 != 0;
  const absl::Status status = vm().SetMemoryAttributes(Gfn(first).address(), count * kPageSize,
                                                       is_private ? kMemoryAttributePrivate : 0);
  if (!vm().options().private_memory) {
    return absl::IsFailedPrecondition(status) ? absl::OkStatus() : Wrong(status.ToString());
  }
  ForgetUse();
  private_.Set(first, count, is_private);
  return status;
}

absl::Status EngineModel::SetMemoryTypes(const Op& op) {
  ForgetUse();
  GuestMemoryTypes types;
  types.non_coherent_dma = op.how % 4 != 0;
  types.caches_disabled = op.how % 8 == 5;
  types.mtrrs.default_type = uint64_t{6} | uint64_t{1} << 11;  // write-back, on
  const uint64_t size = MiB(1) << op.count % 4;
  const uint64_t width = uint64_t{1} << types.mtrrs.physical_address_bits;
  types.mtrrs.variable[0] = {.base = op.page % kGuestPages * kPageSize / size * size,
                             .mask = (width - size) | uint64_t{1} << 11};
  return vm().SetMemoryTypes(types);
}

// The quota is small enough that tables have to be taken back, and large enough for the stocks of
// vCPUs and zaps.
absl::Status EngineModel::SetQuota(const Op& op) {
  ForgetUse();
  is_quota_set_ = true;
  return vm().SetTableQuota(size_t{128} + op.how);
}

}  // namespace tdp::model
