// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The dirty log calls of a `Vm`, KVM's and its own.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_log_request.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/engine/dirty_marker.h"
#include "tdp/mmu/engine/dirty_push.h"
#include "tdp/mmu/engine/dirty_round.h"
#include "tdp/mmu/engine/slot_change.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {
namespace {

absl::StatusOr<MemorySlot> LoggingSlot(Engine& engine, uint32_t slot, AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(engine, space));
  const std::optional<MemorySlot> found = engine.slots().FindById(space, slot);
  if (!found || found->state->any_log() == nullptr) {
    return absl::NotFoundError(
        absl::StrFormat("slot %u of address space %u does not log dirty pages", slot, space));
  }
  return *found;
}

absl::Status TakeFrom(Engine& engine, const MemorySlot& slot, DirtyLog::Visitor visit) {
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  DirtyRound round(engine, slot);
  round.Gather();
  const absl::Status status = slot.state->dirty_log()->Take([&](uint64_t base, uint64_t mask) {
    round.Rearm(base, mask);
    taken.emplace_back(base, mask);
  });
  round.Finish();
  for (const auto& [base, mask] : taken) visit(base, mask);
  return status;
}

// Refuses rings while a slot logs: its bitmap has pages that no ring would show, and nobody could
// take them any more.
absl::Status CheckNoSlotLogs(Engine& engine) {
  absl::Status status;
  for (size_t i = 0; i < engine.address_spaces(); ++i) {
    engine.slots().ForEach(static_cast<AddressSpaceId>(i), [&](const MemorySlot& slot) {
      if (!status.ok() || !slot.logs_dirty_pages()) return;
      status = absl::FailedPreconditionError(
          absl::StrFormat("dirty ring: slot %u of address space %u logs into a bitmap already",
                          slot.id, slot.address_space));
    });
  }
  return status;
}

// Shows the pages that no ring has. Nothing has to be protected again for them: whatever made a
// page writable has put it into a ring.
absl::Status HarvestOwnLog(const MemorySlot& slot,
                           absl::FunctionRef<void(const DirtyRingEntry&)> visit) {
  return slot.state->any_log()->Take([&](uint64_t base, uint64_t mask) {
    for (; mask != 0; mask &= mask - 1) {
      visit({slot.address_space, slot.id, base + static_cast<uint64_t>(std::countr_zero(mask))});
    }
  });
}

// A slot may be gone or be another one by now; a page that is not logged needs no protection.
uint64_t ResetDirtyRing(Engine& engine, DirtyRing& ring) {
  MmuLock::Reader reader(engine.mmu_lock());
  return ring.Reset([&](const DirtyRingEntry& first, uint64_t mask) {
    const std::optional<MemorySlot> slot = engine.slots().FindById(first.address_space, first.slot);
    if (!slot.has_value() || !slot->logs_dirty_pages() || first.index >= slot->pages.raw()) return;
    const uint64_t left = slot->pages.raw() - first.index;
    if (left < DirtyLog::kPagesPerWord) mask &= (uint64_t{1} << left) - 1;
    engine.NarrowPages(reader, slot->address_space, slot->base + PageCount(first.index), mask,
                       WriteNotice::kFault);
  });
}

}  // namespace

absl::Status Vm::TakeDirtyLog(uint32_t slot, DirtyLog::Visitor visit, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  if (engine_->slots().dirty_bitmap_policy() == DirtyBitmapPolicy::kRings) {
    return absl::FailedPreconditionError("the VM logs dirty pages in rings, not in bitmaps");
  }
  TDP_ASSIGN_OR_RETURN(const MemorySlot found, LoggingSlot(*engine_, slot, space));
  return TakeFrom(*engine_, found, visit);
}

absl::Status Vm::PushDownDirtyLog(uint32_t slot, AddressSpaceId space) {
  DirtyPush push(*engine_, space);
  for (bool done = false; !done;) {
    TDP_RETURN_IF_ERROR(push.Stock());
    MutexLock lock(engine_->slots_mutex());
    TDP_ASSIGN_OR_RETURN(const MemorySlot found, LoggingSlot(*engine_, slot, space));
    TDP_ASSIGN_OR_RETURN(done, push.Run(found));
  }
  return absl::OkStatus();
}

absl::Status Vm::GetDirtyLog(uint32_t slot, DirtyLog::Visitor visit, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(const MemorySlot found, SlotToGetDirtyLog(engine_->slots(), space, slot));
  if (!engine_->manual_dirty_log_protect()) return TakeFrom(*engine_, found, visit);
  DirtyRound(*engine_, found).Gather();
  found.state->dirty_log()->Copy(visit);
  return absl::OkStatus();
}

absl::Status Vm::ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                               absl::Span<const uint64_t> bits, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(const MemorySlot found,
                       SlotToClearDirtyLog(engine_->slots(), space, slot, range));
  if (bits.size() * DirtyLog::kPagesPerWord < range.num_pages) {
    return absl::InvalidArgumentError(
        absl::StrFormat("bits: %d words for %d pages", bits.size(), range.num_pages));
  }
  DirtyRound round(*engine_, found);
  const absl::Status status = found.state->dirty_log()->Clear(
      range.first_page, range.num_pages, bits,
      [&](uint64_t base, uint64_t mask) { round.Rearm(base, mask); });
  round.Finish();
  return status;
}

// The log outlives the slot. Zapping the slot brings into it what only D bits or the CPUs' own logs
// knew.
absl::Status Vm::DeleteSlot(uint32_t slot, DirtyLog::Visitor visit, AddressSpaceId space) {
  std::shared_ptr<DirtyLog> log;
  TDP_RETURN_IF_ERROR(ChangeSlot(*engine_, {.slot = slot, .address_space = space}, &log));
  if (log != nullptr) log->Copy(visit);
  return absl::OkStatus();
}

absl::Status Vm::SetManualDirtyLogProtect(uint64_t flags) {
  TDP_RETURN_IF_ERROR(CheckManualProtectFlags(flags));
  MutexLock lock(engine_->slots_mutex());
  engine_->set_manual_dirty_log_protect((flags & kDirtyLogManualProtect) != 0);
  if (engine_->slots().dirty_bitmap_policy() == DirtyBitmapPolicy::kRings) {
    return absl::OkStatus();
  }
  engine_->slots().set_dirty_bitmap_policy((flags & kDirtyLogInitiallySet) != 0
                                               ? DirtyBitmapPolicy::kAllDirty
                                               : DirtyBitmapPolicy::kClean);
  return absl::OkStatus();
}

absl::Status Vm::EnableDirtyRing(uint64_t entries) {
  TDP_RETURN_IF_ERROR(DirtyRing::CheckSize(entries));
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kDirtyRings));
  if (engine_->dirty_tracking() != DirtyTracking::kWriteProtection) {
    return absl::InvalidArgumentError(
        absl::StrFormat("dirty ring: the VM finds writes by %s, not by write-protection",
                        DirtyTrackingName(engine_->dirty_tracking())));
  }
  MutexLock slots_lock(engine_->slots_mutex());
  TDP_RETURN_IF_ERROR(CheckNoSlotLogs(*engine_));
  TDP_RETURN_IF_ERROR(engine_->vcpus().EnableRings(static_cast<uint32_t>(entries)));
  engine_->slots().set_dirty_bitmap_policy(DirtyBitmapPolicy::kRings);
  return absl::OkStatus();
}

absl::Status Vm::HarvestDirtyRings(absl::FunctionRef<void(const DirtyRingEntry&)> visit) {
  MutexLock slots_lock(engine_->slots_mutex());
  if (engine_->slots().dirty_bitmap_policy() != DirtyBitmapPolicy::kRings) {
    return absl::FailedPreconditionError("the VM logs dirty pages in bitmaps, not in rings");
  }
  engine_->WaitForFaults();
  std::array<DirtyRingEntry, 64> entries;
  // The loop ends after as many entries as the rings have, however fast the vCPUs are: entries
  // become free by a reset alone.
  while (const size_t count = engine_->vcpus().HarvestRings(absl::MakeSpan(entries))) {
    for (size_t i = 0; i < count; ++i) visit(entries[i]);
  }
  absl::Status status;
  for (size_t i = 0; i < engine_->address_spaces(); ++i) {
    engine_->slots().ForEach(static_cast<AddressSpaceId>(i), [&](const MemorySlot& slot) {
      if (slot.state->any_log() != nullptr) status.Update(HarvestOwnLog(slot, visit));
    });
  }
  return status;
}

uint64_t Vm::ResetDirtyRings() {
  uint64_t freed = 0;
  MutexLock slots_lock(engine_->slots_mutex());
  const FlushClock::Narrowing narrowing(engine_->clock());
  engine_->vcpus().ForEachRing([&](DirtyRing& ring) { freed += ResetDirtyRing(*engine_, ring); });
  engine_->vcpus().DropEmptyRings();
  if (freed != 0) engine_->clock().Advance().Settle();
  return freed;
}

absl::Status Vm::MarkDirty(Gpa gpa, ByteCount size, AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  const Gpa end = engine_->guest_end();
  if (gpa > end || size > end - gpa) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size 0x%x from gpa 0x%x: reaches beyond the guest's width (0x%x)", size,
                        gpa.raw(), end.raw()));
  }
  // Devices write all the time, and few guests are being migrated.
  if (size == 0 || !engine_->logging().any()) {
    return absl::OkStatus();
  }
  return DirtyMarker(*engine_, space).Mark(Gfn::Of(gpa), Gfn::Of(gpa + (size - 1)) + PageCount(1));
}

}  // namespace tdp
