// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/fault/prefault.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/tables/staged_table.h"

namespace tdp {
namespace {

// How many runs the host is asked for at a time.
constexpr size_t kRuns = 32;
// How many steps in a row may fail because memory changes under them.
constexpr int kPrefaultTries = 16;

absl::Status BadRange(std::string_view field, uint64_t value, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s 0x%x: %s", field, value, why));
}

absl::Status NoMemoryAt(Gfn gfn) {
  return absl::NotFoundError(
      absl::StrFormat("gpa 0x%x: no slot has memory there for this access", gfn.address().raw()));
}

absl::StatusOr<PageCount> KeepsChangingAt(Gfn gfn) {
  return absl::UnavailableError(
      absl::StrFormat("gpa 0x%x: memory keeps changing", gfn.address().raw()));
}

}  // namespace

absl::Status Prefaulter::CheckRange(Gpa gpa, ByteCount size) {
  if (!gpa.is_page_aligned()) return BadRange("gpa", gpa.raw(), "not page aligned");
  if (size == 0 || size % kPageSize != 0)
    return BadRange("size", size, "must be whole pages, not none");
  return gpa.raw() + size < size ? BadRange("size", size, "wraps around") : absl::OkStatus();
}

absl::Status Prefaulter::Check(Gpa gpa, ByteCount size, Access access) {
  TDP_RETURN_IF_ERROR(CheckRange(gpa, size));
  // These are the kinds of access that an exit can report.
  return ExitQualification::Make(access, Access::None(), true, true).Check();
}

absl::StatusOr<ByteCount> Prefaulter::Prefault(Gpa gpa, ByteCount size, Access access) {
  ByteCount done = 0;
  // Pages up to here were asked of the host as a part of a table, and go one by one where the table
  // stopped before them: memory changed, or a leaf was in the way. Else the host would be asked for
  // the whole rest again for each change, and for each such leaf.
  Gfn asked_until = Gfn::Of(gpa);
  for (int tries = 0; done < size; ++tries) {
    const Gfn gfn = Gfn::Of(gpa + done);
    const PageCount rest = PageCount::FromBytes(size - done);
    const absl::StatusOr<PageCount> step = tries >= kPrefaultTries ? KeepsChangingAt(gfn)
                                           : gfn < asked_until
                                               ? MapPage(gfn, access)
                                               : MapTable(gfn, rest, access, asked_until);
    if (!step.ok()) {
      if (done > 0) break;
      return step.status();
    }
    if (step->raw() > 0) tries = -1;
    done += step->bytes();
  }
  return std::min(done, size);
}

// Maps frames from `gfn` on, at most `most` and those of one table or one large leaf. Returns how
// many are mapped now; none if memory is changing there. Where it asks the host for more than one
// page, those lie before `asked_until` afterwards.
absl::StatusOr<PageCount> Prefaulter::MapTable(Gfn gfn, PageCount most, Access access,
                                               Gfn& asked_until) {
  const uint64_t sequence = faults_.engine_.sequence().Current();
  const MemorySlot* found = faults_.slots_.Find(faults_.space_, gfn);
  if (found == nullptr) return NoMemoryAt(gfn);
  if (found->invalid) return PageCount(0);
  const bool log = found->logs_dirty_pages() &&
                   (access.can_write() || IsByHardware(faults_.engine_.dirty_tracking()));
  // Whole tables are for leaves that need no mark, no entry in a reverse map and no look at rules.
  const bool by_page = log || faults_.policy().is_by_page();
  if (by_page || (found->is_read_only() && access.can_write())) return MapPage(gfn, access);
  const MemorySlot slot = *found;  // what follows may look for others
  const Run fault{gfn, access, sequence, slot};
  const PageCount to_table_end(Level::kEntries - static_cast<uint64_t>(kLevel4K.IndexOf(gfn)));
  most = StablePages(slot, gfn, std::min({most, slot.end() - gfn, to_table_end}));
  if (most == PageCount(0)) return PageCount(0);  // the host is not asked in vain

  asked_until = gfn + most;
  std::array<HostRun, kRuns> runs;
  TDP_ASSIGN_OR_RETURN(const size_t filled, Ask(fault, gfn, most, absl::MakeSpan(runs)));
  if (filled == 0) return MapPage(gfn, access);
  if (faults_.policy().MayBeLarge(runs[0].page)) {
    TDP_ASSIGN_OR_RETURN(const PageCount pages, MapPage(gfn, access));
    if (pages > PageCount(1) || pages == most) return pages;
  }
  if (!faults_.tables_.Refill().ok()) return MapPage(gfn, access);
  const StagedTable::Published published =
      PublishRuns(fault, most, absl::MakeSpan(runs).first(filled));
  if (published.reached > gfn) return published.reached - gfn;
  return published.outcome == MapOutcome::kRaced ? PageCount(0) : MapPage(gfn, access);
}

PageCount Prefaulter::StablePages(const MemorySlot& slot, Gfn gfn, PageCount pages) {
  if (slot.has_host_frames()) return pages;
  const MmuReadSection section(faults_.reader_);
  return faults_.engine_.sequence().StablePages(slot.HvaOf(gfn), pages);
}

// Finds out what stands behind frames from `from` on, of the host or of a slot that names its
// frames. Of the latter it says nothing if that is changing, or if the slot denies the access.
absl::StatusOr<size_t> Prefaulter::Ask(const Run& fault, Gfn from, PageCount pages,
                                       absl::Span<HostRun> runs) {
  const MemorySlot& slot = fault.slot;
  if (!slot.has_host_frames()) {
    TDP_ASSIGN_OR_RETURN(const size_t filled, faults_.backend_.ResolveRange(slot.HvaOf(from), pages,
                                                                            fault.access, runs));
    return std::min(filled, runs.size());
  }
  const MmuReadSection section(faults_.reader_);
  if (HasMoved(fault, pages)) return 0;
  // Where the slot denies every right, an access of no kind is denied, too.
  const Access rights = faults_.policy().RuleOf(slot, from).rights;
  if (rights.is_empty() || !rights.Covers(fault.access)) return 0;
  runs[0] = {*faults_.policy().BackingOf(slot, from)->frame, pages};
  return 1;
}

// Returns whether the memory may have changed since the run's sequence. Inside a section.
bool Prefaulter::HasMoved(const Run& fault, PageCount pages) const {
  AssertReading(faults_.reader_);
  const HostRange range(fault.slot.HvaOf(fault.gfn), pages.bytes());
  return faults_.engine_.sequence().MovedSince(fault.sequence, range,
                                               !fault.slot.has_host_frames());
}

// Maps `runs` and, as far as the host answers, what follows them up to `most` pages.
StagedTable::Published Prefaulter::PublishRuns(const Run& fault, PageCount most,
                                               absl::Span<const HostRun> runs) {
  const Gfn end = fault.gfn + most;
  StagedTable staged(faults_.mmu(), fault.gfn, faults_.tables_);
  bool more_to_come = AppendRuns(fault, runs, end, staged);
  while (more_to_come && staged.next() < end) {
    const Gfn from = staged.next();
    std::array<HostRun, kRuns> more;
    const absl::StatusOr<size_t> filled = Ask(fault, from, end - from, absl::MakeSpan(more));
    // The next call is about the page that it failed for.
    if (!filled.ok() || *filled == 0) break;
    more_to_come =
        AppendRuns(fault, absl::MakeSpan(more).first(*filled), end, staged) && staged.next() > from;
  }
  return PublishStaged(fault, staged);
}

// Appends leaves for `runs`, as far as they go up to `end`. It runs in a section, for the policy's
// sake: what that decides may change at other times. Returns false if memory has changed: nothing
// will be published, and the state of the slot, which says what rights and type its host frames
// have, may be gone.
bool Prefaulter::AppendRuns(const Run& fault, absl::Span<const HostRun> runs, Gfn end,
                            StagedTable& staged) {
  MmuReadSection section(faults_.reader_);
  if (faults_.sequence_.Current() != fault.sequence) return false;
  for (HostRun run : runs) {
    run.pages = std::min(run.pages, end - staged.next());
    while (run.pages > PageCount(0)) {
      const PageCount pages = faults_.policy().PagesAlike(staged.next(), run.pages);
      staged.Append(faults_.policy().Leaf(fault.slot, staged.next(), run.page, fault.access),
                    pages);
      run.page.hfn += pages;
      run.pages -= pages;
    }
  }
  return true;
}

StagedTable::Published Prefaulter::PublishStaged(const Run& fault, StagedTable& staged) {
  StagedTable::Published published;
  {
    MmuReadSection section(faults_.reader_);
    if (HasMoved(fault, staged.next() - fault.gfn)) {
      return {.outcome = MapOutcome::kRaced, .reached = fault.gfn, .installed = {}};
    }
    published = staged.Publish(fault.access);
  }
  faults_.counters_.leaves[0].Add(published.installed.raw());
  return published;
}

// Runs one ordinary fault, but none that takes tables from elsewhere: they might be those that were
// just prefaulted.
absl::StatusOr<PageCount> Prefaulter::MapPage(Gfn gfn, Access access) {
  // Nobody waits for this page: the guest's own tables are not taken for it.
  const FaultAnswer answer = faults_.Handle(FaultRequest::Ahead(gfn.address(), access), 0);
  switch (answer.outcome()) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
      return gfn.AlignDown(answer.level().pages()) + answer.level().pages() - gfn;
    case FaultOutcome::kRetry:
      return PageCount(0);
    case FaultOutcome::kMmio:
      return NoMemoryAt(gfn);
    case FaultOutcome::kBlocked:
      return absl::UnavailableError(
          absl::StrFormat("gpa 0x%x: the host page is not there yet", gfn.address().raw()));
    case FaultOutcome::kDirtyRingFull:
      return absl::UnavailableError(
          absl::StrFormat("gpa 0x%x: the vCPU's dirty ring is nearly full", gfn.address().raw()));
    case FaultOutcome::kViewDenied:
      return absl::PermissionDeniedError(
          absl::StrFormat("gpa 0x%x: slot or view denies this access", gfn.address().raw()));
    case FaultOutcome::kMemoryFault:
      return absl::FailedPreconditionError(absl::StrFormat(
          "gpa 0x%x: private, and its slot has no private memory", gfn.address().raw()));
    case FaultOutcome::kError:
      break;
  }
  return faults_.TakeError();
}

}  // namespace tdp
