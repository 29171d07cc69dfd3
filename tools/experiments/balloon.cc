// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/balloon.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/experiments/guest_run.h"

namespace tdp::tools {
namespace {

using Content = std::array<std::byte, kPageSize>;

// The guest's own paging: at most `limit` frames for its pages and tables.
class GuestPager {
 public:
  GuestPager(GuestRun& run, uint64_t limit)
      : machine_(run.machine()), runner_(run.runner()), limit_(limit) {}

  // Answers a page fault at `gva`.
  absl::Status Fault(Gva gva) {
    const uint64_t number = gva.raw() >> kPageShift;
    const auto [place, is_new] = numbers_.try_emplace(number, pages_.size());
    const size_t index = place->second;
    if (is_new) pages_.push_back({gva.AlignDown(kPageSize)});
    if (pages_[index].is_resident) return machine_.kernel().HandlePageFault(gva);
    TDP_RETURN_IF_ERROR(MakeRoom());
    TDP_RETURN_IF_ERROR(machine_.kernel().HandlePageFault(gva));
    TDP_ASSIGN_OR_RETURN(std::byte * frame, FrameOf(index));
    const std::unique_ptr<Content>& kept = pages_[index].swapped;
    swap_ins_ += kept != nullptr ? 1 : 0;
    if (kept != nullptr) {
      std::memcpy(frame, kept->data(), kPageSize);
    } else {
      std::memset(frame, 0, kPageSize);
    }
    pages_[index].swapped = nullptr;
    pages_[index].is_resident = true;
    ring_.push_back(index);
    return absl::OkStatus();
  }

  uint64_t pages() const { return pages_.size() + machine_.kernel().table_pages().raw(); }
  uint64_t swap_ins() const { return swap_ins_; }
  uint64_t swap_outs() const { return swap_outs_; }
  uint64_t second_chances() const { return second_chances_; }

  // Counts pages whose content is not that of the same program in `whole`, where all stay in
  // memory.
  absl::StatusOr<uint64_t> CountDifferences(GuestRun& whole, ColdCheckMode check) {
    uint64_t differing = 0;
    uint64_t number = 0;
    const std::vector<GuestMapping> mappings = whole.machine().kernel().mappings();
    const uint64_t stride = CheckStride(check, mappings.size());
    for (const GuestMapping& mapping : mappings) {
      if (number++ % stride != 0) continue;
      const auto place = numbers_.find(mapping.gva.raw() >> kPageShift);
      if (place == numbers_.end()) {
        ++differing;
        continue;
      }
      TDP_ASSIGN_OR_RETURN(const std::byte* want, whole.machine().PageOf(Gfn::Of(mapping.gpa)));
      const Page& page = pages_[place->second];
      const std::byte* got = page.swapped != nullptr ? page.swapped->data() : nullptr;
      if (page.is_resident) {
        TDP_ASSIGN_OR_RETURN(got, FrameOf(place->second));
      }
      differing += got != nullptr && std::memcmp(got, want, kPageSize) == 0 ? 0 : 1;
    }
    return differing + (mappings.size() == pages_.size() ? 0 : 1);
  }

 private:
  struct Page {
    Gva gva;
    bool is_resident = false;
    std::unique_ptr<Content> swapped = nullptr;
  };

  // The kernel numbers pages in the order of their first touch, as this does.
  absl::StatusOr<std::byte*> FrameOf(size_t index) {
    return machine_.PageOf(Gfn::Of(machine_.kernel().mapping(index).gpa));
  }

  // Makes room for a page and every table on the way to it.
  absl::Status MakeRoom() {
    const auto needs = static_cast<uint64_t>(machine_.kernel().levels());
    while (ring_.size() + machine_.kernel().table_pages().raw() + needs > limit_) {
      if (ring_.empty()) {
        return absl::ResourceExhaustedError("the guest's tables take all that --resident leaves");
      }
      TDP_RETURN_IF_ERROR(EvictOne());
    }
    return absl::OkStatus();
  }

  // Evicts the oldest page whose A bit is clear; all are after one round.
  absl::Status EvictOne() {
    size_t oldest = ring_.front();
    while (true) {
      TDP_ASSIGN_OR_RETURN(const bool young, machine_.kernel().TestAndClearAccessed(oldest));
      if (!young) break;
      ++second_chances_;
      ring_.pop_front();
      ring_.push_back(oldest);
      oldest = ring_.front();
    }
    ring_.pop_front();
    TDP_ASSIGN_OR_RETURN(const std::byte* frame, FrameOf(oldest));
    Page& page = pages_[oldest];
    page.swapped = std::make_unique<Content>();
    std::memcpy(page.swapped->data(), frame, kPageSize);
    page.is_resident = false;
    ++swap_outs_;
    TDP_RETURN_IF_ERROR(machine_.kernel().Evict(oldest));
    return runner_.InvalidatePage(page.gva);
  }

  Machine& machine_;
  CpuRunner& runner_;
  const uint64_t limit_;
  std::vector<Page> pages_;
  absl::flat_hash_map<uint64_t, size_t> numbers_;  // in `pages_`, by linear page number
  std::deque<size_t> ring_;                        // in memory, the oldest first
  uint64_t swap_ins_ = 0;
  uint64_t swap_outs_ = 0;
  uint64_t second_chances_ = 0;
};

}  // namespace

absl::StatusOr<Overcommit> RunBallooned(const std::string& trace, const TraceInput& input,
                                        const ReplayOptions& machine,
                                        const OvercommitOptions& options, ColdCheckMode check) {
  TDP_RETURN_IF_ERROR(CheckOvercommit(machine, options));
  if (machine.guest_page != kLevel4K) {
    return absl::InvalidArgumentError("--guest-page must be 4k: the guest swaps pages of 4 KiB");
  }
  LoopingTrace looping(trace, input);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> run, StartWritingGuest(looping, machine));
  GuestPager pager(*run, options.resident / kPageSize);
  run->runner().SetGuestPager([&pager](Gva gva) { return pager.Fault(gva); });
  TDP_RETURN_IF_ERROR(run->Advance(options.accesses));
  Overcommit result;
  result.reclaim = Reclaim::kBalloon;
  result.resident = options.resident;
  result.guest_pages = pager.pages();
  result.swap_ins = pager.swap_ins();
  result.swap_outs = pager.swap_outs();
  result.second_chances = pager.second_chances();
  const uint64_t given_back =
      machine.ram > options.resident ? (machine.ram - options.resident) / kPageSize : 0;
  result.exits = run->totals().violations.total() + result.swap_ins + result.swap_outs +
                 (given_back + kBalloonPagesAnExit - 1) / kBalloonPagesAnExit;
  result.seconds = SecondsOf(result, options);
  if (check != ColdCheckMode::kOff) {
    LoopingTrace again(trace, input);
    TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> whole, StartWritingGuest(again, machine));
    TDP_RETURN_IF_ERROR(whole->Advance(options.accesses));
    TDP_ASSIGN_OR_RETURN(result.differing_pages, pager.CountDifferences(*whole, check));
  }
  run->runner().SetGuestPager(nullptr);
  return result;
}

}  // namespace tdp::tools
