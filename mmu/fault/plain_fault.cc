// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The shortest ways of a fault.
//
// Functions that end in a call of the next one, which takes the exit as it came. None calls another
// in between but the host, nor waits: where something is in the way the next one, up to
// `HandleExit`, is for more cases. So none saves registers that it has no use for. The result is
// passed on by reference, since a function that returns a struct cannot end in such a call; it
// comes as that of a fault that was fixed at 4 KiB.

#include <cstdint>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/fault/try_section.h"

namespace tdp {

void FaultHandler::HandleViolation(FaultResult& result, Gpa gpa, ExitQualification exit) {
  if (ABSL_PREDICT_TRUE(exit.found_nothing())) return HandlePlain(result, gpa, exit);
  if (exit.is_write_to_leaf()) return LiftProtection(result, gpa, exit);
  HandleUnusual(result, gpa, exit);
}

void FaultHandler::HandleUnusual(FaultResult& result, Gpa gpa, ExitQualification exit) {
  if (exit.is_possible()) return HandleExit(result, gpa, exit);
  result = ResultOf(Fail(exit.Check()));
}

// Answers a write to a page of a slot that logs, where the table of the last fault has the page,
// the W that the log took is all it lacks, and the log has room.
ABSL_ATTRIBUTE_NOINLINE void FaultHandler::LiftProtection(FaultResult& result, Gpa gpa,
                                                          ExitQualification exit) {
  const uint64_t sequence = sequence_.Current();
  const Gfn gfn = Gfn::Of(gpa);
  const MemorySlot* slot = slots_.LastHit(space_, gfn);
  if (slot == nullptr || slot->flags != kSlotLogDirtyPages || slot->invalid || !logs_by_faults_ ||
      policy().is_special()) {
    return HandleExit(result, gpa, exit);
  }
  const bool lifted = TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    DirtyLog* const log = sequence_.IsQuietSince(sequence) ? slot->state->dirty_log() : nullptr;
    if (ABSL_PREDICT_FALSE(log == nullptr)) return false;
    const uint64_t index = slot->IndexOf(gfn);
    const DirtyLog::Place place = log->Find(index);
    if (!place.is_there() || !mmu().GiveWriteBack(gfn, memo_)) return false;
    log->Mark(place, index);  // after W (docs/locking.md)
    return true;
  });
  if (ABSL_PREDICT_FALSE(!lifted)) return HandleExit(result, gpa, exit);
  counters_.lifted.Add();
}

// Answers a fault in which nobody but the host has a say and that found nothing mapped: no log, no
// write that is refused, no rules, and no leaf that may only lack a right. That slot and policy are
// so was seen under this sequence, which moves after each of their changes (docs/locking.md, "The
// change sequence" and "Views").
//
// Another vCPU may have been faster, or a prefault, which does not show in the exit. Where the memo
// leads to a leaf that allows the access there is nothing to do, and a look without a section is
// enough: the answer is that the page was there, not that it stays.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void FaultHandler::HandlePlain(FaultResult& result, Gpa gpa,
                                                                   ExitQualification exit) {
  const uint64_t sequence = sequence_.Current();
  const Gfn gfn = Gfn::Of(gpa);
  if (ABSL_PREDICT_FALSE(!slots_.IsInPlain(gfn, sequence))) {
    return HandleInOtherSlot(result, gpa, exit);
  }
  if (ABSL_PREDICT_FALSE(!memo_.IsNear(gfn, kLevel4K))) return FindPlain(result, gpa, exit);
  if (mmu().IsMapped(gfn, exit.access(), memo_)) return Confirm(result);
  MapPlain<1>(result, gpa, exit);
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void FaultHandler::Confirm(FaultResult& result) {
  counters_.confirmed.Add();
  result.outcome = FaultOutcome::kSpurious;
}

// Looks for the page's own table, since that of the last fault is another, before the host is
// asked. The page may be there, and if not, the line of its entry comes while the host answers.
void FaultHandler::FindPlain(FaultResult& result, Gpa gpa, ExitQualification exit) {
  const Gfn gfn = Gfn::Of(gpa);
  if (memo_.IsNear(gfn, kLevel2M)) return MapPlain<2>(result, gpa, exit);
  EptEntry seen;
  const bool found = TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    uint64_t* const table =
        sequence_.IsQuietSince(slots_.plain_sequence()) ? mmu().WritableLeafTable(gfn) : nullptr;
    if (ABSL_PREDICT_FALSE(table == nullptr)) return false;
    memo_.Set(mmu().structure(), LeafMemo::Region(gfn, kLevel4K), table);
    seen = memo_.entry(gfn, kLevel4K).Load();
    return true;
  });
  if (ABSL_PREDICT_FALSE(!found)) return MapPlain<0>(result, gpa, exit);
  if (!seen.LeafAllows(exit.access())) return MapPlain<1>(result, gpa, exit);
  Confirm(result);
}

// Asks the host. `kNear` is the level at which the memo is near, or 0.
template <int kNear>
ABSL_ATTRIBUTE_NOINLINE void FaultHandler::MapPlain(FaultResult& result, Gpa gpa,
                                                    ExitQualification exit) {
  const Gfn gfn = Gfn::Of(gpa);
  HostPage page;
  if (const auto found = backend_.Resolve(slots_.HvaOfPlain(gfn), exit.access());
      ABSL_PREDICT_FALSE(!found.ok())) {
    result = ResultOf(Count(Unresolved(found.status())));
    return;
  } else {
    // The parts are copied one by one: as a whole it would be put together here whether or not
    // anyone needs it so.
    page.hfn = found->hfn;
    page.order = found->order;
    page.writable = found->writable;
    page.memory_type = found->memory_type;
  }
  if (kNear == 1 && ABSL_PREDICT_TRUE(policy().IsOrdinary(page))) {
    if (FillSmall(gfn, page.hfn, exit.access())) return;
  } else if (kNear == 2 && ABSL_PREDICT_TRUE(policy().IsOrdinary2M(page, gfn))) {
    if (FillLarge(gfn, page.hfn, exit.access())) {
      result.level = kLevel2M;
      return;
    }
  }
  result = ResultOf(MapPage(gpa, exit, page));
}

// Puts the leaf of an ordinary page into the memo's table, if it stands and has a hole there. False
// leaves everything as it is.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::FillSmall(Gfn gfn, Hfn frame,
                                                                 Access access) {
  const bool done = TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    return sequence_.IsQuietSince(slots_.plain_sequence()) &&
           mmu().FillHoleNear(gfn, kLevel4K, policy().OrdinaryLeaf(frame, access), memo_);
  });
  if (ABSL_PREDICT_TRUE(done)) counters_.leaves[0].Add();
  return done;
}

// Does the same with the 2 MiB leaf of an ordinary large page, where the slot permits it.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::FillLarge(Gfn gfn, Hfn frame,
                                                                 Access access) {
  const bool done = TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    return sequence_.IsQuietSince(slots_.plain_sequence()) && slots_.IsLargeInPlain(gfn) &&
           mmu().FillHoleNear(gfn, kLevel2M, policy().OrdinaryLeaf(frame, access), memo_);
  });
  if (ABSL_PREDICT_TRUE(done)) counters_.leaves[1].Add();
  return done;
}

// Does the rest of a plain fault, whatever page the host has answered with and whatever stands
// there.
FaultAnswer FaultHandler::MapPage(Gpa gpa, ExitQualification exit, HostPage page) {
  const Gfn gfn = Gfn::Of(gpa);
  const Access access = exit.access();
  const Hva hva = slots_.HvaOfPlain(gfn);
  // The section shows whether tables are needed at all; without them it may still go well.
  if (ABSL_PREDICT_FALSE(!tables_.IsStocked())) refill_status_ = tables_.Refill();
  MapResult mapped;
  {
    MmuReadSection section(reader_);
    if (sequence_.MovedSince(slots_.plain_sequence(), hva)) return Count(FaultOutcome::kRetry);
    page.order = sequence_.StableOrder(hva, page.hfn, page.order);
    // This is the slot of then, perhaps with other flags: what takes it away moves the sequence
    // first.
    const MemorySlot* found = slots_.Find(space_, gfn);
    if (ABSL_PREDICT_FALSE(found == nullptr)) return Count(FaultOutcome::kRetry);
    const Level level = policy().LargestLevel<true>(*found, gfn, page, access);
    const EptEntry leaf = policy().UsedLeaf<true>(*found, gfn, page, access);
    mapped = mmu().Map({gfn, level, access, leaf}, memo_, tables_);
    if (ABSL_PREDICT_FALSE(mapped.flush_owed())) OweFlush();
  }
  if (ABSL_PREDICT_TRUE(mapped.is_plain())) return Count(FaultAnswer(mapped));
  const FaultAnswer answer = Finish(gfn, mapped);
  return Count(ProvideMemory(FaultRequest::FromExit(gpa, exit), kRecycles, answer));
}

}  // namespace tdp
