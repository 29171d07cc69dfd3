// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/migration.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"

namespace tdp::tools {
namespace {

// Most accesses between two looks at the clock.
constexpr uint64_t kSlice = 1000;

using Pages = std::set<uint64_t>;  // frame numbers of the guest

// Bits of a guest's paging-structure entry.
constexpr uint64_t kPresent = 1 << 0;
constexpr uint64_t kLarge = 1 << 7;
constexpr uint64_t kAddressMask = 0x000f'ffff'ffff'f000;

class Migrator {
 public:
  Migrator(Machine& machine, LoopingTrace& trace, const MigrationOptions& options, Logging logging)
      : machine_(machine), trace_(trace), options_(options), runner_(machine, 0) {
    migration_.logging = logging;
  }

  absl::StatusOr<Migration> Run() {
    runner_.BeginMigration([this] { return HarvestRings(); });
    TDP_RETURN_IF_ERROR(RunAccesses(options_.warmup));
    TDP_RETURN_IF_ERROR(machine_.LogDirtyPages());
    TDP_ASSIGN_OR_RETURN(Pages pages, AllPages());
    while (migration_.rounds.size() < options_.max_rounds) {
      if (SecondsOf(pages.size()) <= options_.downtime_seconds) {
        migration_.converged = true;
        break;
      }
      TDP_ASSIGN_OR_RETURN(pages, SendWhileRunning(pages));
    }
    return Finish(pages);
  }

 private:
  using Copy = std::array<std::byte, kPageSize>;

  double SecondsOf(uint64_t pages) const {
    return static_cast<double>(pages * kPageSize) / options_.bytes_per_second;
  }
  uint64_t exits() const { return runner_.violations().total() + runner_.full_log_exits(); }

  absl::Status RunAccesses(uint64_t count) {
    while (count != 0) {
      TDP_ASSIGN_OR_RETURN(const absl::Span<const TraceRecord> records, trace_.Next(count));
      TDP_RETURN_IF_ERROR(runner_.Run(records));
      count -= records.size();
    }
    return absl::OkStatus();
  }

  // One round; the pages that are dirty after it. What is sent is what the pages hold at its
  // beginning: whatever comes later is in the log.
  absl::StatusOr<Pages> SendWhileRunning(const Pages& pages) {
    TDP_RETURN_IF_ERROR(Send(pages));
    MigrationRound round = {.pages = pages.size(), .seconds = SecondsOf(pages.size())};
    const uint64_t exits_before = exits();
    double elapsed = 0;
    while (elapsed < round.seconds) {
      const double left = (round.seconds - elapsed) * options_.accesses_per_second;
      const auto slice = static_cast<uint64_t>(std::clamp<double>(left, 1, kSlice));
      TDP_RETURN_IF_ERROR(RunAccesses(slice));
      round.accesses += slice;
      round.exits = exits() - exits_before;
      elapsed = static_cast<double>(round.accesses) / options_.accesses_per_second +
                static_cast<double>(round.exits) * options_.exit_seconds;
    }
    TDP_ASSIGN_OR_RETURN(Pages dirty, TakeDirty());
    round.dirty = dirty.size();
    migration_.rounds.push_back(round);
    return dirty;
  }

  // The guest has stopped: the rest, and what has been written since the last look, which is
  // nothing.
  absl::StatusOr<Migration> Finish(const Pages& pages) {
    TDP_RETURN_IF_ERROR(Send(pages));
    TDP_ASSIGN_OR_RETURN(const Pages late, TakeDirty());
    TDP_RETURN_IF_ERROR(Send(late));
    const uint64_t rest = pages.size() + late.size();
    migration_.downtime_seconds = SecondsOf(rest);
    migration_.rounds.push_back({.pages = rest, .seconds = migration_.downtime_seconds});
    TDP_ASSIGN_OR_RETURN(const Pages all, AllPages());
    migration_.guest_pages = all.size();
    for (const uint64_t page : all) {
      TDP_ASSIGN_OR_RETURN(const std::byte* source, machine_.PageOf(Gfn(page)));
      const auto copy = destination_.find(page);
      static constexpr Copy kZero{};
      const Copy& arrived = copy == destination_.end() ? kZero : *copy->second;
      if (std::memcmp(source, arrived.data(), kPageSize) != 0) ++migration_.differing_pages;
    }
    return std::move(migration_);
  }

  absl::Status Send(const Pages& pages) {
    for (const uint64_t page : pages) {
      TDP_ASSIGN_OR_RETURN(const std::byte* source, machine_.PageOf(Gfn(page)));
      std::unique_ptr<Copy>& copy = destination_[page];
      if (copy == nullptr) copy = std::make_unique<Copy>();
      std::memcpy(copy->data(), source, kPageSize);
    }
    return absl::OkStatus();
  }

  // Takes what is dirty out of the log.
  absl::StatusOr<Pages> TakeDirty() {
    if (migration_.logging == Logging::kRing) {
      TDP_RETURN_IF_ERROR(HarvestRings());
      return std::exchange(harvested_, {});
    }
    Pages dirty;
    for (const auto& [slot, first] : machine_.logged_slots()) {
      const uint64_t base_frame = Gfn::Of(first).raw();
      TDP_RETURN_IF_ERROR(machine_.vm().TakeDirtyLog(slot, [&](uint64_t base, uint64_t mask) {
        for (; mask != 0; mask &= mask - 1) {
          dirty.insert(base_frame + base + static_cast<uint64_t>(std::countr_zero(mask)));
        }
      }));
    }
    return dirty;
  }

  absl::Status HarvestRings() {
    const auto& slots = machine_.logged_slots();
    TDP_RETURN_IF_ERROR(machine_.vm().HarvestDirtyRings([&](const DirtyRingEntry& entry) {
      for (const auto& [slot, first] : slots) {
        if (slot == entry.slot) harvested_.insert(Gfn::Of(first).raw() + entry.index);
      }
    }));
    machine_.vm().ResetDirtyRings();
    return absl::OkStatus();
  }

  // Returns what the guest's kernel has given out: the program's pages, and its tables.
  absl::StatusOr<Pages> AllPages() {
    Pages pages;
    for (const GuestMapping& mapping : machine_.kernel().mappings()) {
      const uint64_t first = Gfn::Of(mapping.gpa).raw();
      for (uint64_t i = 0; i < mapping.level.bytes() / kPageSize; ++i) pages.insert(first + i);
    }
    TDP_RETURN_IF_ERROR(
        AddTables(Gfn::Of(machine_.kernel().root()), machine_.kernel().levels(), pages));
    return pages;
  }

  absl::Status AddTables(Gfn table, int level, Pages& pages) {
    pages.insert(table.raw());
    if (level == 1) return absl::OkStatus();
    TDP_ASSIGN_OR_RETURN(const std::byte* page, machine_.PageOf(table));
    for (size_t i = 0; i < 512; ++i) {
      uint64_t entry;
      std::memcpy(&entry, page + i * sizeof(entry), sizeof(entry));
      if ((entry & kPresent) == 0 || (entry & kLarge) != 0) continue;
      TDP_RETURN_IF_ERROR(AddTables(Gfn::Of(Gpa(entry & kAddressMask)), level - 1, pages));
    }
    return absl::OkStatus();
  }

  Machine& machine_;
  LoopingTrace& trace_;
  const MigrationOptions options_;
  CpuRunner runner_;
  Pages harvested_;  // out of rings, and not sent yet
  absl::flat_hash_map<uint64_t, std::unique_ptr<Copy>> destination_;
  Migration migration_;
};

// Returns what a field comes to over all rounds.
template <typename Value>
Value Sum(const std::vector<MigrationRound>& rounds, Value MigrationRound::*field) {
  Value sum = 0;
  for (const MigrationRound& round : rounds) sum += round.*field;
  return sum;
}

}  // namespace

const char* LoggingName(Logging logging) {
  static constexpr const char* kNames[] = {"write-protection", "dirty-bits", "pml", "ring"};
  return kNames[static_cast<size_t>(logging)];
}

uint64_t Migration::pages() const { return Sum(rounds, &MigrationRound::pages); }
uint64_t Migration::accesses() const { return Sum(rounds, &MigrationRound::accesses); }
uint64_t Migration::exits() const { return Sum(rounds, &MigrationRound::exits); }
double Migration::seconds() const { return Sum(rounds, &MigrationRound::seconds); }

absl::StatusOr<Migration> Migrate(LoopingTrace& trace, const ReplayOptions& machine_options,
                                  const MigrationOptions& options, Logging logging) {
  // A trace that cannot be read is an error, also where no access of it would be made.
  TDP_RETURN_IF_ERROR(trace.Next(0).status());
  ReplayOptions with_log = machine_options;
  if (with_log.paging != Paging::kEpt || with_log.cpus != 1) {
    return absl::InvalidArgumentError("a migration is of one CPU, and with --paging ept");
  }
  if (with_log.reverse_map && logging != Logging::kWriteProtection && logging != Logging::kRing) {
    return absl::InvalidArgumentError("--reverse-map on finds writes by write-protection alone");
  }
  constexpr std::array kTrackings = {DirtyTracking::kWriteProtection, DirtyTracking::kDirtyBits,
                                     DirtyTracking::kPml, DirtyTracking::kWriteProtection};
  with_log.dirty_tracking = kTrackings[static_cast<size_t>(logging)];
  with_log.dirty_ring_entries = logging == Logging::kRing ? options.ring_entries : 0;
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(with_log));
  return Migrator(*machine, trace, options, logging).Run();
}

}  // namespace tdp::tools
