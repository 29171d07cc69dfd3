// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vcpu::Prefault`: faults before they happen, by whole tables (KVM_PRE_FAULT_MEMORY).

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/tables/staged_table.h"
#include "tdp/mmu/vcpu.h"

namespace tdp {
namespace {

// Runs that the host is asked for at a time.
constexpr size_t kRuns = 32;
// Steps in a row that may fail because memory changes under them.
constexpr int kTries = 16;

absl::Status Bad(std::string_view field, uint64_t value, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s 0x%x: %s", field, value, why));
}

absl::Status NoMemoryAt(Gfn gfn) {
  return absl::NotFoundError(
      absl::StrFormat("gpa 0x%x: no slot has memory there for this access", gfn.address().raw()));
}

ExitQualification QualificationOf(Access access) {
  const auto made = ExitQualification::Make(access, Access::None(), true, true);
  const bool user = access.can_user_execute() && !access.can_execute();
  return user ? ExitQualification(made.raw() | ept::kQualUserAddress) : made;
}

}  // namespace

absl::Status Vcpu::CheckPrefault(Gpa gpa, ByteCount size, Access access) const {
  if (!gpa.is_page_aligned()) return Bad("gpa", gpa.raw(), "not page aligned");
  if (size == 0 || size % kPageSize != 0) return Bad("size", size, "must be whole pages, not none");
  if (gpa.raw() + size < size) return Bad("size", size, "wraps around");
  TDP_RETURN_IF_ERROR(QualificationOf(access).Check());
  return CheckAddress(gpa + (size - 1));
}

absl::StatusOr<ByteCount> Vcpu::Prefault(Gpa gpa, ByteCount size, Access access) {
  TDP_RETURN_IF_ERROR(CheckPrefault(gpa, size, access));
  ByteCount done = 0;
  // What the host has been asked for as a part of a table goes page by page where the table stopped
  // before it: memory changed, or a leaf was in the way. It would be asked for the whole rest again
  // for each change, and for each such leaf.
  Gfn asked_until = Gfn::Of(gpa);
  for (int tries = 0; done < size; ++tries) {
    const Gfn gfn = Gfn::Of(gpa + done);
    absl::StatusOr<PageCount> step = absl::UnavailableError(
        absl::StrFormat("gpa 0x%x: memory keeps changing", gpa.raw() + done));
    if (tries < kTries) {
      const PageCount rest = PageCount::FromBytes(size - done);
      step = gfn < asked_until ? PrefaultPage(gfn, access)
                               : PrefaultTable(gfn, rest, access, asked_until);
    }
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
absl::StatusOr<PageCount> Vcpu::PrefaultTable(Gfn gfn, PageCount most, Access access,
                                              Gfn& asked_until) {
  PageFault fault;
  fault.gfn = gfn;
  fault.access = access;
  fault.sequence = engine_.sequence().Current();
  const MemorySlot* found = slots_.Find(address_space_, gfn);
  if (found == nullptr) return NoMemoryAt(gfn);
  if (found->invalid) return PageCount(0);
  const bool log =
      found->logs_dirty_pages() && (access.can_write() || IsByHardware(engine_.dirty_tracking()));
  // Whole tables are for leaves that need no mark, no entry in a reverse map and no look at rules.
  const bool by_page = log || reverse_mapped_ != nullptr || policy().restricts();
  if (by_page || (found->is_read_only() && access.can_write())) return PrefaultPage(gfn, access);
  const MemorySlot slot = *found;  // what follows may look for others
  fault.slot = &slot;
  const PageCount to_table_end(Level::kEntries - static_cast<uint64_t>(kLevel4K.IndexOf(gfn)));
  most = StablePages(slot.HvaOf(gfn), std::min({most, slot.end() - gfn, to_table_end}));
  if (most == PageCount(0)) return PageCount(0);  // the host is not asked in vain

  asked_until = gfn + most;
  std::array<HostRun, kRuns> runs;
  TDP_ASSIGN_OR_RETURN(
      const size_t filled,
      engine_.backend().ResolveRange(slot.HvaOf(gfn), most, access, absl::MakeSpan(runs)));
  if (policy().MayBeLarge(runs[0].page)) {
    TDP_ASSIGN_OR_RETURN(const PageCount pages, PrefaultPage(gfn, access));
    if (pages > PageCount(1) || pages == most) return pages;
  }
  if (!tables_.Refill().ok()) return PrefaultPage(gfn, access);
  const StagedTable::Published published =
      PublishRuns(fault, most, absl::MakeSpan(runs).first(filled));
  if (published.reached > gfn) return published.reached - gfn;
  return published.outcome == MapOutcome::kRaced ? PageCount(0) : PrefaultPage(gfn, access);
}

PageCount Vcpu::StablePages(Hva hva, PageCount pages) {
  const MmuReadSection section(reader_);
  return engine_.sequence().StablePages(hva, pages);
}

// Maps `runs` and, as far as the host answers, what follows them up to `most` pages.
StagedTable::Published Vcpu::PublishRuns(const PageFault& fault, PageCount most,
                                         absl::Span<const HostRun> runs) {
  const Gfn end = fault.gfn + most;
  StagedTable staged(mmu(), fault.gfn, tables_);
  AppendRuns(fault, runs, staged);
  while (staged.next() < end) {
    const Gfn from = staged.next();
    std::array<HostRun, kRuns> more;
    const absl::StatusOr<size_t> filled = engine_.backend().ResolveRange(
        fault.slot->HvaOf(from), end - from, fault.access, absl::MakeSpan(more));
    if (!filled.ok()) break;  // the next call is about the page that it failed for
    AppendRuns(fault, absl::MakeSpan(more).first(*filled), staged);
  }
  return PublishStaged(fault, staged);
}

// In a section, for the policy's sake: what it decides may change at other times.
void Vcpu::AppendRuns(const PageFault& fault, absl::Span<const HostRun> runs, StagedTable& staged) {
  MmuReadSection section(reader_);
  for (HostRun run : runs) {
    while (run.pages > PageCount(0)) {
      const PageCount pages = policy().PagesAlike(staged.next(), run.pages);
      staged.Append(policy().Leaf(*fault.slot, staged.next(), run.page, fault.access), pages);
      run.page.hfn += pages;
      run.pages -= pages;
    }
  }
}

StagedTable::Published Vcpu::PublishStaged(const PageFault& fault, StagedTable& staged) {
  StagedTable::Published published;
  {
    MmuReadSection section(reader_);
    const HostRange range(fault.slot->HvaOf(fault.gfn), (staged.next() - fault.gfn).bytes());
    if (engine_.sequence().MovedSince(fault.sequence, range)) {
      return {.outcome = MapOutcome::kRaced, .reached = fault.gfn, .installed = {}};
    }
    published = staged.Publish(fault.access);
  }
  counters_.leaves[0].Add(published.installed.raw());
  return published;
}

// One ordinary fault, but none that takes tables from elsewhere: they might be those that were just
// prefaulted.
absl::StatusOr<PageCount> Vcpu::PrefaultPage(Gfn gfn, Access access) {
  FaultResult result = FaultOnce(gfn.address(), QualificationOf(access));
  if (lacks_memory_) {
    // Nobody waits for this page: the guest's own tables are not taken for it.
    result = FaultWithMemory(gfn.address(), QualificationOf(access), std::move(result), 0);
  }
  Count(result);
  switch (result.outcome) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
      return gfn.AlignDown(result.level.pages()) + result.level.pages() - gfn;
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
          absl::StrFormat("gpa 0x%x: the view denies this access", gfn.address().raw()));
    case FaultOutcome::kMemoryFault:
      return absl::FailedPreconditionError(absl::StrFormat(
          "gpa 0x%x: private, and its slot has no private memory", gfn.address().raw()));
    case FaultOutcome::kError:
      break;
  }
  return result.status;
}

}  // namespace tdp
