// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/fault/fault_handler.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/fault/try_section.h"
#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"

namespace tdp {

absl::Status MissingMemory::MakeRoom() {
  what_ = What::kNothing;
  const std::shared_ptr<DirtyLog> log = std::exchange(log_, nullptr);
  const std::shared_ptr<SlotRmap> rmap = std::exchange(rmap_, nullptr);
  if (log != nullptr) return log->Prepare(index_);
  return !kHasShadow || rmap == nullptr ? absl::OkStatus() : rmap->Prepare(gfn_);
}

// Holds what one fault finds out on its way.
struct FaultHandler::PageFault {
  Gfn gfn;
  Access access;      // what the guest tried, as far as it is known
  uint64_t sequence;  // taken before the slot
  const MemorySlot& slot;
  Backing backing;
  bool log_write;  // the slot logs dirty pages and this is a write of its page
  bool need_room;  // the log must have room for what the fault makes writable
  bool is_ahead;   // nobody has made the access yet
  // The place of the page in the log, found as the room was looked for.
  DirtyLog* log = nullptr;
  DirtyLog::Place place{};
};

FaultHandler::FaultHandler(Engine& engine)
    : engine_(engine),
      sequence_(engine.sequence()),
      backend_(engine.backend()),
      view_(&engine.views(0).base()),
      reverse_mapped_(engine.reverse_mapped(0)),
      reader_(engine.mmu_lock()),
      slots_(engine.slots()),
      tables_(engine.pool()),
      logs_by_faults_(!IsByHardware(engine.dirty_tracking())) {
  TDP_CHECK(view_->Enter());  // a base view is never closed
}

void FaultHandler::Adopt(AddressSpaceId space, View& view) {
  view_->Leave();
  view_ = &view;
  space_ = space;
  reverse_mapped_ = engine_.reverse_mapped(space);
  memo_.Forget();
  slots_.ForgetPlain();
}

// --- One page ---

ABSL_ATTRIBUTE_ALWAYS_INLINE inline LeafRequest FaultHandler::RequestFor(
    const PageFault& fault, const HostPage& page) const {
  if (ABSL_PREDICT_FALSE(fault.is_ahead)) return RequestAhead(fault, page);
  return {fault.gfn, policy().LargestLevel(fault.slot, fault.gfn, page, fault.access), fault.access,
          policy().UsedLeaf(fault.slot, fault.gfn, page, fault.access),
          policy().UnprotectIn(fault.slot)};
}

// Makes the request of an access that is still to come: the CPU sets A and D when there is one.
ABSL_ATTRIBUTE_NOINLINE LeafRequest FaultHandler::RequestAhead(const PageFault& fault,
                                                               const HostPage& page) const {
  const EptEntry leaf = policy().Leaf(fault.slot, fault.gfn, page, fault.access);
  return {fault.gfn, policy().LargestLevel(fault.slot, fault.gfn, page, fault.access),
          policy().NeededAhead(fault.slot, leaf, fault.access), leaf,
          policy().UnprotectIn(fault.slot)};
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline MapResult FaultHandler::MapWithReverse(const PageFault& fault,
                                                                           const HostPage& page) {
  AssertReading(reader_);
  if (!kHasShadow) return MapResult(MapOutcome::kBusy);
  const std::shared_ptr<SlotRmap>& rmap = reverse_mapped_->RmapOf(fault.slot);
  if (ABSL_PREDICT_FALSE(!rmap->IsPrepared(fault.gfn))) {
    missing_.NeedRmap(rmap, fault.gfn);
    return MapResult(MapOutcome::kBusy);
  }
  return reverse_mapped_->Map(RequestFor(fault, page), *rmap, memo_, tables_);
}

// Marks the page after it was made writable, not before: docs/locking.md shows what the other order
// loses.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void FaultHandler::MarkDirty(const PageFault& fault) {
  AssertReading(reader_);
  const uint64_t index = fault.slot.IndexOf(fault.gfn);
  if (ABSL_PREDICT_FALSE(dirty_ring_ != nullptr)) {
    // The fault began with room for much more than one entry.
    TDP_CHECK(dirty_ring_->Push({fault.slot.address_space, fault.slot.id, index}));
  } else if (fault.log != nullptr) {
    fault.log->Mark(fault.place, index);
  } else if (DirtyLog* log = fault.slot.state->dirty_log(); log != nullptr) {
    log->Mark(index);
  }
}

// Returns whether the dirty log has memory for every page that this fault can make writable: one
// page under write-protection; all of 2 MiB with D bits or PML, because the CPU then marks writes
// without a fault. If not, notes what is missing.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::HasRoomToLog(PageFault& fault) {
  AssertReading(reader_);
  const MemorySlot& slot = fault.slot;
  if (ABSL_PREDICT_TRUE(!IsByHardware(engine_.dirty_tracking()))) {
    fault.log = slot.state->dirty_log();
    if (fault.log == nullptr) return true;
    fault.place = fault.log->Find(slot.IndexOf(fault.gfn));
    return ABSL_PREDICT_TRUE(fault.log->IsPrepared(fault.place)) || RecordNoRoom(slot, fault.gfn);
  }
  const Gfn first = fault.gfn.AlignDown(kLevel2M.pages());
  const Gfn last = first + kLevel2M.pages() - PageCount(1);
  return HasRoomToLog(slot, std::max(first, slot.base)) &&
         HasRoomToLog(slot, std::min(last, slot.end() - PageCount(1)));
}

// Returns whether what was found behind the frame may be another by now. Inside a section.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::HasMoved(const PageFault& fault) const {
  AssertReading(reader_);
  return sequence_.MovedSince(fault.sequence, fault.backing.hva, fault.backing.asks_host());
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline absl::StatusOr<HostPage> FaultHandler::Resolve(
    const PageFault& fault) {
  if (ABSL_PREDICT_TRUE(!policy().restricts() && fault.backing.asks_host())) {
    return backend_.Resolve(fault.backing.hva, fault.access);
  }
  return PageBehind(backend_, fault.slot, fault.gfn, fault.backing, fault.access);
}

// Gives a leaf that is there the right that it lacks, if logging or aging took it: the host need
// not be asked. Returns false if the whole fault has to run.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::TryWidenInPlace(PageFault& fault,
                                                                       FaultAnswer& end) {
  MapResult mapped;
  {
    MmuReadSection section(reader_);
    if (HasMoved(fault) || (fault.need_room && !HasRoomToLog(fault))) {
      end = FaultOutcome::kRetry;
      return true;
    }
    // A large leaf must not become writable as a whole where each 4 KiB page is logged.
    const Level largest = fault.log_write ? kLevel4K : kLevel1G;
    mapped = mmu().WidenInPlace(fault.gfn, fault.access, largest, policy().UnprotectIn(fault.slot),
                                memo_);
    if (fault.log_write && mapped.is_mapped()) MarkDirty(fault);
  }
  if (ABSL_PREDICT_FALSE(!mapped.is_mapped())) {
    end = FaultOutcome::kRetry;
    return mapped.outcome() == MapOutcome::kBusy;
  }
  counters_.fast.Add();
  end = FaultAnswer(mapped);
  return true;
}

// docs/design.md has the same list with the reasons for its order.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline FaultAnswer FaultHandler::HandleOnce(
    const FaultRequest& request, uint64_t sequence, const MemorySlot* slot) {
  if (ABSL_PREDICT_FALSE(slot == nullptr)) return Mmio(request, sequence);
  if (ABSL_PREDICT_FALSE(slot->invalid)) return FaultOutcome::kRetry;
  const bool writes = request.access.can_write();
  if (writes && slot->is_read_only()) return Emulate(request, sequence);
  const Gfn gfn = Gfn::Of(request.gpa);
  const bool logs = slot->logs_dirty_pages();
  const bool by_hardware = IsByHardware(engine_.dirty_tracking());
  PageFault fault{gfn,
                  request.access,
                  sequence,
                  *slot,
                  {.frame = std::nullopt, .hva = slot->HvaOf(gfn)},
                  logs && writes,
                  logs && (writes || by_hardware),
                  request.is_ahead};
  if (ABSL_PREDICT_FALSE(policy().restricts() || slot->has_host_frames())) {
    if (FaultAnswer end; !PassRules(request, fault, end)) return end;
  }
  if (fault.log_write && dirty_ring_ != nullptr && dirty_ring_->is_nearly_full()) {
    return FaultOutcome::kDirtyRingFull;
  }
  // Aging leaves nothing present, so it does not show in the request. An access of no kind lacks no
  // right that could be given back: what it wants follows from the host's answer.
  if (request.reached_leaf() || (policy().may_be_aged() && !fault.access.is_empty())) {
    if (FaultAnswer end; TryWidenInPlace(fault, end)) return end;
  }
  return ResolveAndMap(fault);
}

// Does what `HandleOnce` does where it does not matter how fast.
FaultAnswer FaultHandler::HandleAgain(const FaultRequest& request) {
  const uint64_t sequence = sequence_.Current();
  return HandleOnce(request, sequence, slots_.Find(space_, Gfn::Of(request.gpa)));
}

FaultAnswer FaultHandler::Handle(FaultRequest request, int recycles) {
  const uint64_t sequence = sequence_.Current();
  const MemorySlot* slot = slots_.Find(space_, Gfn::Of(request.gpa));
  const FaultAnswer answer = HandleOnce(request, sequence, slot);
  return Count(ABSL_PREDICT_FALSE(missing_.is_any()) ? ProvideMemory(request, recycles, answer)
                                                     : answer);
}

FaultResult FaultHandler::ResultOf(FaultAnswer answer) {
  const bool failed = answer.outcome() == FaultOutcome::kError;
  return {answer.outcome(), answer.level(), failed ? TakeError() : absl::OkStatus(),
          answer.denied()};
}

// Begins a plain fault at the top once more, if the slot is one for those and the policy is not
// special. Where there is a reverse map no slot is: it has a short way of its own. The sequence is
// read before either is asked. What is noted of the slot stands in its state, which lives as long
// as the section in which the slot was found: whoever replaces it has a writer's section between
// the two.
void FaultHandler::HandleInOtherSlot(FaultResult& result, Gpa gpa, ExitQualification exit) {
  if (ABSL_PREDICT_FALSE(reverse_mapped_ != nullptr)) return HandleMapped(result, gpa, exit);
  const uint64_t sequence = sequence_.Current();
  const bool plain =
      !policy().is_special() && TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
        return slots_.FindPlain(space_, Gfn::Of(gpa), sequence);
      });
  plain ? HandleViolation(result, gpa, exit) : HandleExit(result, gpa, exit);
}

void FaultHandler::HandleExit(FaultResult& result, Gpa gpa, ExitQualification exit) {
  result = ResultOf(Handle(FaultRequest::FromExit(gpa, exit)));
}

// Runs the fault again with memory for what the log or the reverse map lacks, and with tables that
// the guest does not use, if those may be taken up to `recycles` times.
FaultAnswer FaultHandler::ProvideMemory(const FaultRequest& request, int recycles,
                                        FaultAnswer answer) {
  while (missing_.is_any()) {
    if (missing_.is_tables()) {
      missing_.Forget();
      if (recycles-- == 0 || engine_.RecycleTables(TableCache::kFaultMaximum) == 0) return answer;
      engine_.CountRecycle();
    } else if (absl::Status room = missing_.MakeRoom(); !room.ok()) {
      return Fail(std::move(room));
    }
    answer = HandleAgain(request);
  }
  return answer;
}

FaultAnswer FaultHandler::ResolveAndMap(PageFault& fault) {
  // The section shows whether tables are needed at all; without them it may still go well.
  if (ABSL_PREDICT_FALSE(!tables_.IsStocked())) refill_status_ = tables_.Refill();
  absl::StatusOr<HostPage> page = Resolve(fault);
  if (ABSL_PREDICT_FALSE(!page.ok())) return Unresolved(page.status());
  MapResult mapped;
  {
    MmuReadSection section(reader_);
    if (HasMoved(fault)) return FaultOutcome::kRetry;
    if (ABSL_PREDICT_TRUE(fault.backing.asks_host())) {
      page->order = sequence_.StableOrder(fault.backing.hva, page->hfn, page->order);
    }
    if (fault.need_room && !HasRoomToLog(fault)) return FaultOutcome::kRetry;
    mapped = reverse_mapped_ == nullptr ? mmu().Map(RequestFor(fault, *page), memo_, tables_)
                                        : MapWithReverse(fault, *page);
    if (fault.log_write && mapped.is_mapped()) MarkDirty(fault);
    if (ABSL_PREDICT_FALSE(mapped.flush_owed())) OweFlush();
  }
  return ABSL_PREDICT_TRUE(mapped.is_plain()) ? FaultAnswer(mapped) : Finish(fault.gfn, mapped);
}

// Does what is left to do where a fault did not simply map its page.
FaultAnswer FaultHandler::Finish(Gfn gfn, MapResult mapped) {
  SettleSplit(mapped);
  if (mapped.is_mapped()) return FaultAnswer(mapped);
  if (mapped.outcome() == MapOutcome::kNeedsTables) {
    missing_.NeedTables();
    return Fail(tables_.IsStocked()
                    ? absl::InternalError("a fault needed more tables than its maximum")
                    : refill_status_);
  }
  if (mapped.outcome() == MapOutcome::kBusy) return FaultOutcome::kRetry;
  // Another frame is mapped: the host put one there and its notice is on the way or was never sent.
  // Growing cannot replace a frame, so the page is taken away and the guest faults again.
  engine_.Zap(space_, {gfn, gfn + PageCount(1)}).Settle();
  return FaultOutcome::kRetry;
}

// Owes a flush, inside the section that took a large leaf out.
void FaultHandler::OweFlush() {
  AssertReading(reader_);
  flush_.Merge(engine_.clock().Advance());
}

void FaultHandler::SettleSplit(MapResult mapped) {
  if (ABSL_PREDICT_TRUE(!mapped.flush_owed())) return;
  counters_.splits.Add();
  flush_.Settle();
}

FaultAnswer FaultHandler::Fail(absl::Status status) {
  error_ = std::move(status);
  return FaultOutcome::kError;
}

// Ends a fault with an error of the host's: the embedder waits for a page that may come later, and
// other answers are its errors.
FaultAnswer FaultHandler::Unresolved(const absl::Status& status) {
  if (absl::IsUnavailable(status)) return FaultOutcome::kBlocked;
  return Fail(status);
}

// --- Rules ---

// Asks attributes and view what they say of the frame. Returns false if the fault ends here, with
// `end`.
ABSL_ATTRIBUTE_NOINLINE bool FaultHandler::PassRules(const FaultRequest& request, PageFault& fault,
                                                     FaultAnswer& end) {
  const MmuReadSection section(reader_);
  end = FaultOutcome::kRetry;
  if (sequence_.Current() != fault.sequence) return false;
  end = FaultOutcome::kMemoryFault;
  const bool is_private = policy().IsPrivate(fault.gfn);
  if (request.wanted != Privacy::kAsSet && (request.wanted == Privacy::kPrivate) != is_private) {
    return false;
  }
  const std::optional<Backing> backing = policy().BackingOf(fault.slot, fault.gfn);
  if (!backing) return false;
  fault.backing = *backing;
  if (backing->is_foreign) {
    // No page of the slot's becomes dirty, but its neighbours may become writable.
    fault.log_write = false;
    fault.need_room = fault.need_room && IsByHardware(engine_.dirty_tracking());
  }
  if (policy().options().execute_by_mode) {
    fault.access = request.AccessByMode(backend_.capabilities().ept.advanced_exit_information());
  }
  return PassView(fault, end);
}

bool FaultHandler::PassView(PageFault& fault, FaultAnswer& end) {
  constexpr Access kFetch = Access::Execute() | Access::UserExecute();
  const ViewRule rule = policy().RuleOf(fault.slot, fault.gfn);
  const Access missing = fault.access.Without(rule.rights);
  if (ABSL_PREDICT_TRUE(missing.is_empty() && !rule.rights.is_empty())) return true;
  if (fault.access == kFetch && missing != kFetch) {
    // The mode of the fetch is not known, and one mode is allowed: if it was the other, the next
    // violation tells.
    fault.access = rule.rights & kFetch;
    return true;
  }
  if (rule.raises_ve && CanRaiseVe(fault)) {
    // The guest is to hear of it, once there is an entry that lets the CPU tell it.
    fault.access = rule.rights.can_write() ? Access::ReadWrite() : rule.rights;
    return true;
  }
  end = FaultAnswer(FaultOutcome::kViewDenied, kLevel4K, missing);
  return false;
}

// Returns whether a leaf for the frame, which is not there yet, would raise #VE.
bool FaultHandler::CanRaiseVe(const PageFault& fault) {
  return !fault.slot.logs_dirty_pages() && !fault.slot.is_read_only() &&
         !mmu().Walk(fault.gfn).is_mapped();
}

// --- Frames without memory ---

// Returns what an access ends with that no slot has memory for. The attribute is looked at first,
// as KVM does: private memory is nothing that can be emulated, and an access that wants the other
// kind of memory than the attribute says is not even one to the frame that it names.
FaultAnswer FaultHandler::Emulate(const FaultRequest& request, uint64_t sequence) {
  if (ABSL_PREDICT_TRUE(!engine_.options().private_memory)) return FaultOutcome::kMmio;
  const MmuReadSection section(reader_);
  if (sequence_.Current() != sequence) return FaultOutcome::kRetry;
  const bool is_shared =
      request.wanted != Privacy::kPrivate && !policy().IsPrivate(Gfn::Of(request.gpa));
  return is_shared ? FaultOutcome::kMmio : FaultOutcome::kMemoryFault;
}

// Answers for a frame without memory. Remembering it is only a help, so no table for it is no
// error.
FaultAnswer FaultHandler::Mmio(const FaultRequest& request, uint64_t sequence) {
  const FaultAnswer answer = Emulate(request, sequence);
  if (answer.outcome() != FaultOutcome::kMmio) return answer;
  const uint64_t generation = slots_.generation();
  const bool settled = (generation & kSlotUpdateInProgress) == 0;
  if (settled && engine_.options().mmio_caching && tables_.Refill().ok()) {
    MmuReadSection section(reader_);
    if (sequence_.Current() == sequence) {
      mmu().MapMmio(Gfn::Of(request.gpa), generation, tables_);
    }
  }
  return answer;
}

FaultAnswer FaultHandler::HandleMisconfiguration(Gpa gpa, Privacy wanted) {
  Translation found;
  {
    MmuReadSection section(reader_);
    found = mmu().Walk(Gfn::Of(gpa));
  }
  if (found.entry.is_mmio()) {
    if (!IsMmioCurrent(found.entry)) {
      return HandleOutdated(
          {gpa, Access::Read(), Access::None(), FaultRequest::Mode::kUnknown, wanted});
    }
    // An entry that remembers MMIO was made by an access to shared memory, and goes when the frame
    // becomes private.
    const bool is_fault = wanted == Privacy::kPrivate;
    return Count(is_fault ? FaultOutcome::kMemoryFault : FaultOutcome::kMmio);
  }
  if (engine_.CheckEntry(found.entry, found.level) != EntryDefect::kNone) {
    return Count(Fail(
        absl::InternalError(absl::StrFormat("misconfigured entry 0x%x at level %d for gpa 0x%x",
                                            found.entry.raw(), found.level.raw(), gpa.raw()))));
  }
  return Count(FaultOutcome::kRetry);
}

// Answers an entry that remembers MMIO of earlier slots. Memory may be here by now, so it answers
// as for a read, with room for its log. What the access was does not show in the exit. So where a
// read is denied the entry goes, and the guest tries again: a violation says what it wants.
FaultAnswer FaultHandler::HandleOutdated(const FaultRequest& request) {
  const FaultAnswer answer = ProvideMemory(request, kRecycles, HandleAgain(request));
  if (answer.outcome() != FaultOutcome::kViewDenied) return Count(answer);
  const Gfn gfn = Gfn::Of(request.gpa);
  engine_.Zap(space_, {gfn, gfn + PageCount(1)}).Settle();
  return Count(FaultOutcome::kRetry);
}

bool FaultHandler::IsMmioCurrent(EptEntry entry) const {
  return entry == EptEntry::Mmio(entry.mmio_gfn(), engine_.slots().generation(space_));
}

// --- Logs and the reverse map ---

bool FaultHandler::HasRoomToLog(const MemorySlot& slot, Gfn gfn) {
  const DirtyLog* log = slot.state->dirty_log();
  return log == nullptr || log->IsPrepared(slot.IndexOf(gfn)) || RecordNoRoom(slot, gfn);
}

bool FaultHandler::RecordNoRoom(const MemorySlot& slot, Gfn gfn) {
  missing_.NeedLog(slot.state->shared_log(), slot.IndexOf(gfn));
  return false;
}

absl::Status FaultHandler::LogPml(absl::Span<const Gpa> pages) {
  while (!pages.empty()) {
    pages.remove_prefix(MarkLogged(pages));
    if (missing_.is_any()) TDP_RETURN_IF_ERROR(missing_.MakeRoom());
  }
  return absl::OkStatus();
}

// Marks pages in one section until a log lacks memory; returns how many are done with. A slot that
// is found inside a section keeps its state until the section is over: whoever replaces it has a
// writer's section between the two.
size_t FaultHandler::MarkLogged(absl::Span<const Gpa> pages) {
  MmuReadSection section(reader_);
  for (size_t i = 0; i < pages.size(); ++i) {
    const Gfn gfn = Gfn::Of(pages[i]);
    const MemorySlot* slot = slots_.Find(space_, gfn);
    if (slot == nullptr || !slot->logs_dirty_pages()) continue;
    if (!HasRoomToLog(*slot, gfn)) return i;
    if (DirtyLog* log = slot->state->dirty_log()) log->Mark(slot->IndexOf(gfn));
  }
  return pages.size();
}

void FaultHandler::AddTo(FaultStats& stats) const {
  const auto outcome = [this](FaultOutcome o) {
    return counters_.outcomes[static_cast<size_t>(o)].value();
  };
  stats.spurious += outcome(FaultOutcome::kSpurious);
  stats.retry += outcome(FaultOutcome::kRetry);
  stats.mmio += outcome(FaultOutcome::kMmio);
  stats.blocked += outcome(FaultOutcome::kBlocked);
  stats.view_denied += outcome(FaultOutcome::kViewDenied);
  stats.memory_faults += outcome(FaultOutcome::kMemoryFault);
  stats.errors += outcome(FaultOutcome::kError);
  stats.spurious += counters_.confirmed.value();
  stats.fast += counters_.fast.value() + counters_.confirmed.value() + counters_.lifted.value();
  stats.leaves_installed[0] += counters_.lifted.value();
  stats.splits += counters_.splits.value();
  for (size_t i = 0; i < stats.leaves_installed.size(); ++i) {
    stats.leaves_installed[i] += counters_.leaves[i].value();
  }
}

}  // namespace tdp
