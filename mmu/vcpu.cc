// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vcpu.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"

namespace tdp {
namespace {

// Another vCPU may be faster with the tables that a fault has freed, so it takes several tries.
constexpr int kTableReclaims = 8;

ABSL_ATTRIBUTE_NOINLINE FaultResult Error(absl::Status status) {
  return {FaultOutcome::kError, kLevel4K, std::move(status)};
}

// The embedder waits for a page that may come later; other answers of the host are its errors.
FaultResult FromResolveError(absl::Status status) {
  if (absl::IsUnavailable(status)) return {FaultOutcome::kBlocked};
  return Error(std::move(status));
}

FaultResult ResultOf(MapResult mapped) {
  static_assert(
      static_cast<int>(MapOutcome::kInstalled) == static_cast<int>(FaultOutcome::kFixed) &&
      static_cast<int>(MapOutcome::kSpurious) == static_cast<int>(FaultOutcome::kSpurious));
  return {static_cast<FaultOutcome>(mapped.outcome()), mapped.level()};
}

PageFault Classify(Gpa gpa, ExitQualification qualification) {
  PageFault fault;
  fault.gpa = gpa;
  fault.gfn = Gfn::Of(gpa);
  fault.access = qualification.access();
  fault.reached_leaf = qualification.reached_leaf();
  return fault;
}

}  // namespace

Vcpu::Vcpu(Engine& engine, VcpuId id)
    : engine_(engine),
      id_(id),
      view_(&engine.views(0).base()),
      reverse_mapped_(engine.reverse_mapped(0)),
      reader_(engine.mmu_lock()),
      slots_(engine.slots()),
      tables_(engine.pool()),
      flush_member_(engine.clock(), id),
      window_(engine.backend(), engine.slots(), engine.sequence()) {
  TDP_CHECK(view_->Enter());  // a base view is never closed
  window_.SetPolicy(policy(), reader_);
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.AddVcpu(); });
}

Vcpu::~Vcpu() {
  TDP_CHECK(!is_in_guest());
  view_->Leave();
  engine_.ChangeQuotas([](MemoryQuotas& quotas) { quotas.RemoveVcpu(); });
  engine_.vcpus().Remove(id_, std::move(dirty_ring_), stats());
}

// What this vCPU answers faults by, besides its EPT or instead of it.
absl::Status Vcpu::StartShadows() {
  switch (engine_.paging_kind()) {
    case PagingKind::kDirect:
    case PagingKind::kReverseMapped:
      break;
    case PagingKind::kNested:
      nested_ = std::make_unique<NestedVcpu>(engine_.nested_parts(), flush_member_, window_,
                                             dirty_ring_.get());
      break;
    case PagingKind::kShadow: {
      TDP_ASSIGN_OR_RETURN(shadow_,
                           ShadowVcpu::Create(engine_.shadow_parts(), flush_member_, window_));
      break;
    }
  }
  return absl::OkStatus();
}

// A root that is zapped from here on is emptied, and this vCPU kicked.
GuestEntry Vcpu::EnterOnShadow() {
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  if (shadow_->TakeFlush() || owed) {
    counters_.flushes.Add();
    engine_.backend().InvalidateLinear(id_);
  }
  return GuestEntry(this, Eptp());
}

// Two roots are in use, L1's and L2's, so a flush is always of all.
GuestEntry Vcpu::EnterNestable() {
  // INVEPT drops combined translations of every VPID, and L1 and L2 have no others.
  const bool owed = flush_member_.EnterGuest() != FlushClock::Member::Owed::kNothing;
  if (nested_->TakeFlush() || owed) {
    counters_.flushes.Add();
    engine_.backend().InvalidateAll(id_);
  }
  return GuestEntry(this, nested_->is_entered() ? nested_->eptp() : mmu().eptp());
}

absl::Status Vcpu::CheckRunsOnEpt() const {
  if (shadow_ != nullptr) {
    return absl::FailedPreconditionError("VmOptions.paging is kShadow: there is no EPT");
  }
  if (nested_ != nullptr && nested_->is_entered()) {
    return absl::FailedPreconditionError("the vCPU runs L2: its faults are nested()'s");
  }
  return absl::OkStatus();
}

GuestEntry Vcpu::EnterGuest() {
  if (ABSL_PREDICT_FALSE(shadow_ != nullptr)) return EnterOnShadow();
  if (ABSL_PREDICT_FALSE(nested_ != nullptr)) return EnterNestable();
  const FlushClock::Member::Owed owed = flush_member_.EnterGuest();
  // The root is read after the vCPU counts as in the guest: whoever replaces it from here on will
  // kick.
  const Eptp eptp = mmu().eptp();
  if (ABSL_PREDICT_FALSE(owed != FlushClock::Member::Owed::kNothing)) {
    counters_.flushes.Add();
    if (owed == FlushClock::Member::Owed::kAllRoots || uses_several_roots_ ||
        engine_.views(address_space_).has_list()) {
      engine_.backend().InvalidateAll(id_);
    } else {
      engine_.backend().Invalidate(id_, eptp);
    }
  }
  return GuestEntry(this, eptp);
}

absl::Status Vcpu::SetAddressSpace(AddressSpaceId space) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  if (space >= engine_.address_spaces()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("address space %u: the VM has %u", space, engine_.address_spaces()));
  }
  if (nested_ != nullptr && nested_->is_entered()) {
    return absl::FailedPreconditionError("the vCPU runs L2: NestedVcpu::Leave comes first");
  }
  if (shadow_ != nullptr) {
    TDP_RETURN_IF_ERROR(shadow_->SetAddressSpace(space));
    flush_member_.ForgetCpu();  // linear translations are not tagged by their root
  }
  View& base = engine_.views(space).base();
  TDP_CHECK(base.Enter());
  if (nested_ != nullptr) nested_->SetAddressSpace(space);
  address_space_ = space;
  Adopt(base);
  reverse_mapped_ = engine_.reverse_mapped(space);
  window_.SetAddressSpace(space);
  return absl::OkStatus();
}

absl::Status Vcpu::SetView(ViewId id) {
  if (is_in_guest()) return absl::FailedPreconditionError("the vCPU is in the guest");
  View* view = engine_.views(address_space_).Find(id);
  if (view == nullptr || !view->Enter()) {
    return absl::NotFoundError(
        absl::StrFormat("view %u: address space %u has no such view", id, address_space_));
  }
  Adopt(*view);
  return absl::OkStatus();
}

// A view that was entered, in place of the one before. Translations of both may be cached from now
// on, so a flush that is owed has to be of all roots; a switch itself owes none.
void Vcpu::Adopt(View& view) {
  view_->Leave();
  uses_several_roots_ = uses_several_roots_ || &view != view_;
  view_ = &view;
  memo_ = LeafMemo();
  window_.SetPolicy(policy(), reader_);
}

// The steps of a fault that every fault takes are inlined into it: the path is short enough for
// calls to show.

ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Vcpu::IsPlausible(Gpa gpa,
                                                           ExitQualification qualification) const {
  return gpa < engine_.guest_end() && qualification.is_possible() && !is_in_guest() &&
         shadow_ == nullptr && ABSL_PREDICT_TRUE(nested_ == nullptr || !nested_->is_entered());
}

// Whether nothing but the host has a say in the fault: no log, no write that is refused, no reverse
// map, no rules, and no leaf that may only lack a right.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Vcpu::IsPlain(const PageFault& fault) const {
  return fault.slot->flags == 0 && !fault.slot->invalid && reverse_mapped_ == nullptr &&
         !MayWidenInPlace(fault) && !policy().restricts();
}

// Aging leaves nothing present, so it does not show in the qualification.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Vcpu::MayWidenInPlace(const PageFault& fault) const {
  return fault.reached_leaf || engine_.tracks_access();
}

template <bool kPlain>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline LeafRequest Vcpu::RequestFor(const PageFault& fault) const {
  return {
      fault.gfn, policy().LargestLevel<kPlain>(*fault.slot, fault.gfn, *fault.page, fault.access),
      fault.access, policy().UsedLeaf<kPlain>(*fault.slot, fault.gfn, *fault.page, fault.access),
      kPlain ? Unprotect::kLift : policy().UnprotectIn(*fault.slot)};
}

FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification) {
  FaultResult result = Fault(gpa, qualification);
  if (ABSL_PREDICT_FALSE(lacks_memory_)) {
    result = FaultWithMemory(gpa, qualification, std::move(result), kTableReclaims);
  }
  Count(result);
  return result;
}

FaultResult Vcpu::HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted) {
  if (!engine_.options().private_memory) {
    return Error(absl::FailedPreconditionError("VmOptions.private_memory is off"));
  }
  wanted_ = wanted;
  FaultResult result = HandleEptViolation(gpa, qualification);
  wanted_ = Privacy::kAsSet;
  return result;
}

// Again with memory for what the log or the reverse map lacks, and with tables that the guest does
// not use, if those may be taken up to `reclaims` times.
FaultResult Vcpu::FaultWithMemory(Gpa gpa, ExitQualification qualification, FaultResult result,
                                  int reclaims) {
  while (std::exchange(lacks_memory_, false)) {
    if (IsShortOfRoom()) {
      if (const absl::Status room = MakeRoom(gpa); !room.ok()) return Error(room);
    } else {
      if (reclaims-- == 0 || engine_.RecycleTables(TableCache::kFaultMaximum) == 0) {
        return result;
      }
      engine_.CountTableReclaim();
    }
    result = FaultOnce(gpa, qualification);
  }
  return result;
}

FaultResult Vcpu::FaultOnce(Gpa gpa, ExitQualification qualification) {
  return Fault(gpa, qualification);
}

// Life of a fault, top to bottom. docs/design.md has the same list with the reasons for its order.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline FaultResult Vcpu::Fault(Gpa gpa,
                                                            ExitQualification qualification) {
  if (ABSL_PREDICT_FALSE(!IsPlausible(gpa, qualification))) return Refuse(gpa, qualification);
  PageFault fault = Classify(gpa, qualification);
  fault.sequence = engine_.sequence().Current();
  fault.slot = slots_.Find(address_space_, fault.gfn);
  if (ABSL_PREDICT_FALSE(fault.slot == nullptr)) return Mmio(fault.gfn, fault.sequence);
  fault.hva = fault.slot->HvaOf(fault.gfn);
  if (ABSL_PREDICT_FALSE(!IsPlain(fault))) {
    return SpecialFault(gpa, qualification, fault.sequence, *fault.slot);
  }
  if (IsMappedBesideLast(fault)) {
    counters_.fast.Add();
    return {FaultOutcome::kSpurious};
  }
  return MapFaulting<true>(fault);
}

// The same where the slot or the exit asks for more. It classifies again: were the fault handed
// over as it is, it would have to be in memory in `Fault` too.
FaultResult Vcpu::SpecialFault(Gpa gpa, ExitQualification qualification, uint64_t sequence,
                               const MemorySlot& slot) {
  if (slot.invalid) return {FaultOutcome::kRetry};
  PageFault fault = Classify(gpa, qualification);
  if (fault.access.can_write() && slot.is_read_only()) return Emulate(fault.gfn, sequence);
  fault.sequence = sequence;
  fault.slot = &slot;
  fault.hva = slot.HvaOf(fault.gfn);
  if (policy().restricts()) {
    if (FaultResult end; !PassRules(fault, qualification, end)) return end;
  }
  fault.log_write = slot.logs_dirty_pages() && fault.access.can_write();
  fault.need_room =
      fault.log_write || (slot.logs_dirty_pages() && IsByHardware(engine_.dirty_tracking()));
  if (fault.log_write && dirty_ring_ != nullptr && dirty_ring_->is_nearly_full()) {
    return {FaultOutcome::kDirtyRingFull};
  }
  if (FaultResult fast; MayWidenInPlace(fault) && TryWidenInPlace(fault, fast)) return fast;
  return MapFaulting<false>(fault);
}

// The second half: asks the host and maps what it says. `kPlain` leaves out what `IsPlain` faults
// do not need.
template <bool kPlain>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline FaultResult Vcpu::MapFaulting(PageFault& fault) {
  // Whether tables are needed at all shows in the section; without them it may still go well.
  if (ABSL_PREDICT_FALSE(!tables_.IsStocked())) refill_status_ = tables_.Refill();
  absl::StatusOr<HostPage> page = engine_.backend().Resolve(fault.hva, fault.access);
  if (ABSL_PREDICT_FALSE(!page.ok())) return FromResolveError(page.status());
  fault.page = &*page;

  MapResult mapped;
  {
    MmuReadSection section(reader_);
    if (engine_.sequence().MovedSince(fault.sequence, fault.hva)) return {FaultOutcome::kRetry};
    page->order = engine_.sequence().StableOrder(fault.hva, page->hfn, page->order);
    if (!kPlain && fault.need_room && !HasRoomToLog(fault)) return {FaultOutcome::kRetry};
    mapped = kPlain || reverse_mapped_ == nullptr
                 ? mmu().Map(RequestFor<kPlain>(fault), memo_, tables_)
                 : MapWithReverse(fault);
    if (!kPlain && fault.log_write && mapped.is_mapped()) MarkDirty(fault);
    if (ABSL_PREDICT_FALSE(mapped.flush_owed())) OweFlush();
  }
  if (ABSL_PREDICT_FALSE(!mapped.is_mapped() || mapped.flush_owed())) {
    return Finish(fault.gfn, mapped);
  }
  return ResultOf(mapped);
}

absl::Status Vcpu::CheckAddress(Gpa gpa) const {
  if (is_in_guest()) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  TDP_RETURN_IF_ERROR(CheckRunsOnEpt());
  return CheckWidth(gpa);
}

absl::Status Vcpu::CheckWidth(Gpa gpa) const {
  if (gpa < engine_.guest_end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("gpa 0x%x is beyond the guest's width (0x%x)",
                                                    gpa.raw(), engine_.guest_end().raw()));
}

FaultResult Vcpu::Refuse(Gpa gpa, ExitQualification qualification) const {
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return Error(std::move(bad));
  return Error(qualification.Check());
}

// What attributes and view say of the frame, and how. False if the fault ends here.
ABSL_ATTRIBUTE_NOINLINE bool Vcpu::PassRules(PageFault& fault, ExitQualification qualification,
                                             FaultResult& result) {
  const MmuReadSection section(reader_);
  result.outcome = FaultOutcome::kRetry;
  if (engine_.sequence().Current() != fault.sequence) return false;
  result.outcome = FaultOutcome::kMemoryFault;
  const bool is_private = policy().IsPrivate(fault.gfn);
  if (wanted_ != Privacy::kAsSet && (wanted_ == Privacy::kPrivate) != is_private) return false;
  const std::optional<Hva> hva = policy().HvaOf(*fault.slot, fault.gfn);
  if (!hva) return false;
  fault.hva = *hva;
  if (policy().options().execute_by_mode) {
    const Capabilities& offered = engine_.backend().capabilities();
    fault.access = qualification.access_by_mode(offered.ept.advanced_exit_information());
  }
  return PassView(fault, result);
}

bool Vcpu::PassView(PageFault& fault, FaultResult& result) {
  constexpr Access kFetch = Access::Execute() | Access::UserExecute();
  const ViewRule rule = policy().RuleOf(fault.gfn);
  const Access missing = fault.access.Without(rule.rights);
  if (ABSL_PREDICT_TRUE(missing.is_empty())) return true;
  if (fault.access == kFetch && missing != kFetch) {
    // In which mode is not known, and one is allowed: if it was the other, it shows next time.
    fault.access = rule.rights & kFetch;
    return true;
  }
  if (rule.raises_ve && CanRaiseVe(fault)) {
    // The guest is to hear of it, once there is an entry that lets the CPU tell it.
    fault.access = rule.rights.can_write() ? Access::ReadWrite() : rule.rights;
    return true;
  }
  result.outcome = FaultOutcome::kViewDenied;
  result.denied = missing;
  return false;
}

// Whether a leaf for the frame, which is not there yet, would raise #VE.
bool Vcpu::CanRaiseVe(const PageFault& fault) const {
  return !fault.slot->logs_dirty_pages() && !fault.slot->is_read_only() &&
         !mmu().Walk(fault.gfn).is_mapped();
}

// What an access ends with that no slot has memory for. The attribute is looked at first, as KVM
// does: private memory is nothing that can be emulated, and an access that wants the other kind of
// memory than the attribute says is not even one to the frame that it names.
FaultResult Vcpu::Emulate(Gfn gfn, uint64_t sequence) {
  if (ABSL_PREDICT_TRUE(!engine_.options().private_memory)) return {FaultOutcome::kMmio};
  const MmuReadSection section(reader_);
  if (engine_.sequence().Current() != sequence) return {FaultOutcome::kRetry};
  const bool is_shared = wanted_ != Privacy::kPrivate && !policy().IsPrivate(gfn);
  return {is_shared ? FaultOutcome::kMmio : FaultOutcome::kMemoryFault};
}

// A frame without memory. Remembering it is only a help, so no table for it is no error.
FaultResult Vcpu::Mmio(Gfn gfn, uint64_t sequence) {
  FaultResult result = Emulate(gfn, sequence);
  if (result.outcome != FaultOutcome::kMmio) return result;
  const uint64_t generation = slots_.generation();
  const bool settled = (generation & kSlotUpdateInProgress) == 0;
  if (settled && engine_.options().mmio_caching && tables_.Refill().ok()) {
    MmuReadSection section(reader_);
    if (engine_.sequence().Current() == sequence) {
      mmu().MapMmio(gfn, generation, tables_);
    }
  }
  return result;
}

FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa, Privacy wanted) {
  if (!engine_.options().private_memory) {
    return Error(absl::FailedPreconditionError("VmOptions.private_memory is off"));
  }
  wanted_ = wanted;
  FaultResult result = HandleEptMisconfiguration(gpa);
  wanted_ = Privacy::kAsSet;
  return result;
}

FaultResult Vcpu::HandleEptMisconfiguration(Gpa gpa) {
  if (absl::Status bad = CheckAddress(gpa); !bad.ok()) return Error(bad);
  Translation found;
  {
    MmuReadSection section(reader_);
    found = mmu().Walk(Gfn::Of(gpa));
  }
  FaultResult result{FaultOutcome::kRetry};
  // An entry that remembers MMIO was made by an access to shared memory, and goes when the frame
  // becomes private.
  if (found.entry.is_mmio() && IsMmioCurrent(found.entry)) {
    result.outcome =
        wanted_ == Privacy::kPrivate ? FaultOutcome::kMemoryFault : FaultOutcome::kMmio;
  } else if (found.entry.is_mmio()) {
    // Memory may be here by now: answer as for a violation by a read, with room for its log.
    return HandleEptViolation(
        gpa, ExitQualification::Make(Access::Read(), Access::None(), false, false));
  } else if (engine_.CheckEntry(found.entry, found.level) != EntryDefect::kNone) {
    result = Error(
        absl::InternalError(absl::StrFormat("misconfigured entry 0x%x at level %d for gpa 0x%x",
                                            found.entry.raw(), found.level.raw(), gpa.raw())));
  }
  Count(result);
  return result;
}

bool Vcpu::IsMmioCurrent(EptEntry entry) const {
  return entry == EptEntry::Mmio(entry.mmio_gfn(), engine_.slots().generation(address_space_));
}

// Another vCPU was faster, or a prefault: it does not show in the qualification.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool Vcpu::IsMappedBesideLast(const PageFault& fault) {
  if (!DirectMmu::SeemsMapped(fault.gfn, fault.access, memo_)) return false;
  MmuReadSection section(reader_);
  return !engine_.sequence().MovedSince(fault.sequence, fault.hva) &&
         mmu().IsMapped(fault.gfn, fault.access, memo_);
}

// The leaf is there and lacks a right that was taken for logging or aging: the host need not be
// asked. False if the whole fault has to run.
bool Vcpu::TryWidenInPlace(const PageFault& fault, FaultResult& result) {
  MapResult mapped;
  {
    MmuReadSection section(reader_);
    if (engine_.sequence().MovedSince(fault.sequence, fault.hva) ||
        (fault.need_room && !HasRoomToLog(fault))) {
      result.outcome = FaultOutcome::kRetry;
      return true;
    }
    // A large leaf must not become writable as a whole where each 4 KiB page is logged.
    const Level largest = fault.log_write ? kLevel4K : kLevel1G;
    mapped = mmu().WidenInPlace(fault.gfn, fault.access, largest, policy().UnprotectIn(*fault.slot),
                                memo_);
    if (fault.log_write && mapped.is_mapped()) MarkDirty(fault);
  }
  if (ABSL_PREDICT_FALSE(mapped.outcome() == MapOutcome::kBusy)) {
    result.outcome = FaultOutcome::kRetry;
    return true;
  }
  if (!mapped.is_mapped()) return false;
  counters_.fast.Add();
  result = ResultOf(mapped);
  return true;
}

// Whether what the fault makes writable can be marked; if not, notes the log that needs memory.
// Where the CPU finds the writes that is up to all of a table.
bool Vcpu::HasRoomToLog(const PageFault& fault) {
  const MemorySlot& slot = *fault.slot;
  if (ABSL_PREDICT_TRUE(!IsByHardware(engine_.dirty_tracking()))) {
    return HasRoomToLog(slot, fault.gfn);
  }
  const Gfn first = fault.gfn.AlignDown(kLevel2M.pages());
  const Gfn last = first + kLevel2M.pages() - PageCount(1);
  return HasRoomToLog(slot, std::max(first, slot.base)) &&
         HasRoomToLog(slot, std::min(last, slot.end() - PageCount(1)));
}

bool Vcpu::HasRoomToLog(const MemorySlot& slot, Gfn gfn) {
  DirtyLog* log = slot.state->dirty_log();
  const uint64_t index = slot.IndexOf(gfn);
  if (log == nullptr || ABSL_PREDICT_TRUE(log->IsPrepared(index))) return true;
  lacks_memory_ = true;
  short_of_room_ = slot.state->shared_log();
  index_without_room_ = index;
  return false;
}

MapResult Vcpu::MapWithReverse(const PageFault& fault) {
  const std::shared_ptr<SlotRmap>& rmap = reverse_mapped_->RmapOf(*fault.slot);
  if (ABSL_PREDICT_FALSE(!rmap->IsPrepared(fault.gfn))) {
    lacks_memory_ = true;
    rmap_short_of_room_ = rmap;
    return MapResult(MapOutcome::kBusy);
  }
  return reverse_mapped_->Map(RequestFor<false>(fault), *rmap, memo_, tables_);
}

// Memory for the log and the reverse map is allocated outside every section. The shared pointers
// keep them while it is.
absl::Status Vcpu::MakeRoom(Gpa gpa) {
  lacks_memory_ = false;
  const std::shared_ptr<DirtyLog> log = std::exchange(short_of_room_, nullptr);
  const std::shared_ptr<SlotRmap> rmap = std::exchange(rmap_short_of_room_, nullptr);
  if (log != nullptr) TDP_RETURN_IF_ERROR(log->Prepare(index_without_room_));
  return rmap == nullptr ? absl::OkStatus() : rmap->Prepare(Gfn::Of(gpa));
}

// After the page was made writable, not before: docs/locking.md shows what the other order loses.
void Vcpu::MarkDirty(const PageFault& fault) {
  const uint64_t index = fault.slot->IndexOf(fault.gfn);
  if (ABSL_PREDICT_FALSE(dirty_ring_ != nullptr)) {
    // The fault began with room for much more than one entry.
    TDP_CHECK(dirty_ring_->Push({fault.slot->address_space, fault.slot->id, index}));
  } else if (DirtyLog* log = fault.slot->state->dirty_log(); log != nullptr) {
    log->Mark(index);
  }
}

absl::Status Vcpu::LogPml(absl::Span<const Gpa> pages) {
  if (engine_.dirty_tracking() != DirtyTracking::kPml) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "VmOptions.dirty_tracking is %s, not PML", DirtyTrackingName(engine_.dirty_tracking())));
  }
  for (const Gpa gpa : pages) TDP_RETURN_IF_ERROR(CheckWidth(gpa));
  while (!pages.empty()) {
    pages.remove_prefix(MarkLogged(pages));
    if (short_of_room_ != nullptr) TDP_RETURN_IF_ERROR(MakeRoom(Gpa(0)));
  }
  return absl::OkStatus();
}

// Marks pages in one section until a log lacks memory; returns how many are done with. A slot that
// is found inside a section keeps its state until the section is over: whoever replaces it has a
// writer's section between the two.
size_t Vcpu::MarkLogged(absl::Span<const Gpa> pages) {
  MmuReadSection section(reader_);
  for (size_t i = 0; i < pages.size(); ++i) {
    const Gfn gfn = Gfn::Of(pages[i]);
    const MemorySlot* slot = slots_.Find(address_space_, gfn);
    if (slot == nullptr || !slot->logs_dirty_pages()) continue;
    if (!HasRoomToLog(*slot, gfn)) return i;
    if (DirtyLog* log = slot->state->dirty_log()) log->Mark(slot->IndexOf(gfn));
  }
  return pages.size();
}

absl::Status Vcpu::WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                             GuestAccess access, GuestWalk& walk) {
  if (is_in_guest()) {
    return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
  }
  // Each try fetches a page that the walk lacked. More than a few times the pages of the longest
  // walk means that someone takes them away as fast.
  constexpr int kTries = 64;
  for (int i = 0; i < kTries; ++i) {
    {
      MmuReadSection section(reader_);
      GvaToGpa(paging, roots, window_, gva, access, walk);
    }
    if (ABSL_PREDICT_TRUE(walk.outcome != GuestWalkOutcome::kNeedsPage)) return absl::OkStatus();
    GuestWalkOutcome fetched = GuestWalkOutcome::kMapped;
    TDP_RETURN_IF_ERROR(window_.Fetch(fetched));
    if (fetched == GuestWalkOutcome::kNoMemory) {
      walk.outcome = fetched;
      return absl::OkStatus();
    }
  }
  return absl::UnavailableError(
      absl::StrFormat("guest memory at gpa 0x%x is changing: try again", walk.gpa.raw()));
}

// Inside the section that took a large leaf out.
ABSL_ATTRIBUTE_NOINLINE void Vcpu::OweFlush() { flush_.Merge(engine_.clock().Advance()); }

void Vcpu::SettleSplit(MapResult mapped) {
  if (ABSL_PREDICT_TRUE(!mapped.flush_owed())) return;
  counters_.splits.Add();
  flush_.Settle();
}

// What is left to do where a fault did not simply map its page.
FaultResult Vcpu::Finish(Gfn gfn, MapResult mapped) {
  SettleSplit(mapped);
  if (mapped.is_mapped()) return ResultOf(mapped);
  if (mapped.outcome() == MapOutcome::kNeedsTables) {
    lacks_memory_ = true;
    return Error(tables_.IsStocked()
                     ? absl::InternalError("a fault needed more tables than its maximum")
                     : refill_status_);
  }
  if (mapped.outcome() == MapOutcome::kBusy) return {FaultOutcome::kRetry};
  // Another frame is mapped: the host put one there and its notice is on the way or was never sent.
  // Growing cannot replace a frame, so the page is taken away and the guest faults again.
  engine_.Zap(address_space_, gfn, gfn + PageCount(1)).Settle();
  return {FaultOutcome::kRetry};
}

FaultStats Vcpu::stats() const {
  FaultStats stats;
  const auto outcome = [this](FaultOutcome o) {
    return counters_.outcomes[static_cast<size_t>(o)].value();
  };
  stats.spurious = outcome(FaultOutcome::kSpurious);
  stats.retry = outcome(FaultOutcome::kRetry);
  stats.mmio = outcome(FaultOutcome::kMmio);
  stats.blocked = outcome(FaultOutcome::kBlocked);
  stats.view_denied = outcome(FaultOutcome::kViewDenied);
  stats.memory_faults = outcome(FaultOutcome::kMemoryFault);
  stats.errors = outcome(FaultOutcome::kError);
  stats.fast = counters_.fast.value();
  stats.splits = counters_.splits.value();
  stats.flushes = counters_.flushes.value();
  if (shadow_ != nullptr) shadow_->AddTo(stats);
  if (nested_ != nullptr) nested_->AddTo(stats);
  for (size_t i = 0; i < stats.leaves_installed.size(); ++i) {
    stats.leaves_installed[i] = counters_.leaves[i].value();
    stats.fixed += stats.leaves_installed[i];
  }
  return stats;
}

}  // namespace tdp
