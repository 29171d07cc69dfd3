// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/overcommit.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/experiments/guest_run.h"

namespace tdp::tools {
namespace {

using Page = std::array<std::byte, kPageSize>;

// The host's pages of the guest: in memory up to a limit, in a swap area beyond.
class Pager {
 public:
  Pager(Machine& machine, const OvercommitOptions& options)
      : machine_(machine),
        reclaim_(options.reclaim),
        limit_(options.resident / kPageSize),
        random_(options.seed) {}

  // Touches a page, which is in memory when this returns.
  absl::Status Touch(Gfn gfn) {
    if (is_resident_[gfn.raw()]) return absl::OkStatus();
    if (ring_.size() >= limit_) TDP_RETURN_IF_ERROR(EvictOne());
    if (const auto kept = swap_.find(gfn.raw()); kept != swap_.end()) {
      ++swap_ins_;
      TDP_ASSIGN_OR_RETURN(const Hva hva, machine_.HvaBySlots(gfn.address()));
      TDP_ASSIGN_OR_RETURN(std::byte * place, machine_.host().AtHva(hva));
      std::memcpy(place, kept->second->data(), kPageSize);
      swap_.erase(kept);
    }
    is_resident_[gfn.raw()] = true;
    if (hole_ == kNone) {
      ring_.push_back(gfn);
    } else {
      // Behind the hand: the whole ring comes before this one.
      ring_[hole_] = gfn;
      hole_ = kNone;
    }
    return absl::OkStatus();
  }

  void CountInto(Overcommit& result) const {
    result.swap_ins = swap_ins_;
    result.swap_outs = swap_outs_;
    result.second_chances = second_chances_;
    result.guest_pages = is_resident_.size();
  }
  // Returns the pages in the order of their numbers.
  std::vector<Gfn> pages() const {
    std::vector<Gfn> all;
    for (const auto& [gfn, resident] : is_resident_) all.emplace_back(gfn);
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  static constexpr size_t kNone = ~size_t{0};

  absl::StatusOr<bool> IsOld(Gfn gfn) {
    TDP_ASSIGN_OR_RETURN(const Hva hva, machine_.HvaBySlots(gfn.address()));
    TDP_ASSIGN_OR_RETURN(AgeResult age, machine_.vm().AgeHostRange(hva, kPageSize));
    age.flush.Settle();
    second_chances_ += age.young ? 1 : 0;
    return !age.young;
  }

  absl::StatusOr<size_t> Victim() {
    if (reclaim_ == Reclaim::kRandom) return static_cast<size_t>(random_() % ring_.size());
    // All may be young: after two rounds none is.
    while (true) {
      const size_t at = hand_++ % ring_.size();
      if (reclaim_ == Reclaim::kFifo) return at;
      TDP_ASSIGN_OR_RETURN(const bool old, IsOld(ring_[at]));
      if (old) return at;
    }
  }

  // Evicts a page as a host does: the engine is told first, so that no CPU reaches the page any
  // more.
  absl::Status EvictOne() {
    TDP_ASSIGN_OR_RETURN(hole_, Victim());
    const Gfn gfn = ring_[hole_];
    TDP_ASSIGN_OR_RETURN(const Hva hva, machine_.HvaBySlots(gfn.address()));
    TDP_RETURN_IF_ERROR(machine_.vm().InvalidateHostRange(hva, kPageSize));
    TDP_ASSIGN_OR_RETURN(const std::byte* place, machine_.host().AtHva(hva));
    auto copy = std::make_unique<Page>();
    std::memcpy(copy->data(), place, kPageSize);
    swap_[gfn.raw()] = std::move(copy);
    is_resident_[gfn.raw()] = false;
    ++swap_outs_;
    return machine_.host().Discard(hva, kPageSize);
  }

  Machine& machine_;
  const Reclaim reclaim_;
  const uint64_t limit_;
  std::mt19937_64 random_;
  absl::flat_hash_map<uint64_t, bool> is_resident_;  // of all pages that were ever touched
  std::vector<Gfn> ring_;                            // in memory, in the order in which they came
  size_t hand_ = 0;
  size_t hole_ = kNone;  // the place of the page that has just gone
  absl::flat_hash_map<uint64_t, std::unique_ptr<Page>> swap_;
  uint64_t swap_ins_ = 0;
  uint64_t swap_outs_ = 0;
  uint64_t second_chances_ = 0;
};

absl::StatusOr<uint64_t> CountDifferences(const std::vector<Gfn>& pages, GuestRun& swapped,
                                          const std::string& trace, const TraceInput& input,
                                          const ReplayOptions& machine, uint64_t accesses,
                                          ColdCheckMode check) {
  LoopingTrace looping(trace, input);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> whole, StartWritingGuest(looping, machine));
  TDP_RETURN_IF_ERROR(whole->Advance(accesses));
  const uint64_t stride = CheckStride(check, pages.size());
  uint64_t differing = 0;
  uint64_t number = 0;
  for (const Gfn gfn : pages) {
    if (number++ % stride != 0) continue;
    TDP_ASSIGN_OR_RETURN(const std::byte* a, whole->machine().PageOf(gfn));
    TDP_ASSIGN_OR_RETURN(const std::byte* b, swapped.machine().PageOf(gfn));
    differing += std::memcmp(a, b, kPageSize) == 0 ? 0 : 1;
  }
  return differing;
}

}  // namespace

absl::Status CheckOvercommit(const ReplayOptions& machine, const OvercommitOptions& options) {
  if (machine.ept_page != kLevel4K) {
    return absl::InvalidArgumentError("--ept-page must be 4k: a host swaps pages of 4 KiB");
  }
  if (machine.fault_around != 1 || machine.prefault) {
    return absl::InvalidArgumentError("--fault-around and --prefault map pages that are not there");
  }
  if (options.resident < kLeastResident || options.resident % kPageSize != 0) {
    return absl::InvalidArgumentError("--resident must be a multiple of 4k, at least 512k");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<GuestRun>> StartWritingGuest(LoopingTrace& trace,
                                                            const ReplayOptions& machine) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<GuestRun> run, GuestRun::Create(trace, machine));
  run->runner().BeginMigration([] { return absl::OkStatus(); });
  return run;
}

double SecondsOf(const Overcommit& run, const OvercommitOptions& options) {
  return static_cast<double>(options.accesses) / options.accesses_per_second +
         static_cast<double>(run.exits) * options.exit_seconds +
         static_cast<double>(run.swap_ins) * options.swap_in_seconds;
}

const char* ReclaimName(Reclaim reclaim) {
  static constexpr const char* kNames[] = {"fifo", "clock", "random", "balloon"};
  return kNames[static_cast<size_t>(reclaim)];
}

absl::StatusOr<Overcommit> RunOvercommitted(const std::string& trace, const TraceInput& input,
                                            const ReplayOptions& machine,
                                            const OvercommitOptions& options, ColdCheckMode check) {
  TDP_RETURN_IF_ERROR(CheckOvercommit(machine, options));
  LoopingTrace looping(trace, input);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> run, StartWritingGuest(looping, machine));
  Pager pager(run->machine(), options);
  // The root table is in memory already.
  TDP_RETURN_IF_ERROR(pager.Touch(Gfn::Of(run->machine().kernel().root())));
  run->machine().SetPager([&pager](Gfn gfn) { return pager.Touch(gfn); });
  TDP_RETURN_IF_ERROR(run->Advance(options.accesses));
  Overcommit result;
  result.reclaim = options.reclaim;
  result.resident = options.resident;
  result.exits = run->totals().violations.total();
  pager.CountInto(result);
  result.seconds = SecondsOf(result, options);
  if (check != ColdCheckMode::kOff) {
    TDP_ASSIGN_OR_RETURN(
        result.differing_pages,
        CountDifferences(pager.pages(), *run, trace, input, machine, options.accesses, check));
  }
  run->machine().SetPager(nullptr);
  return result;
}

}  // namespace tdp::tools
