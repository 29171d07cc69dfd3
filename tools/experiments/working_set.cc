// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/working_set.h"

#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/experiments/guest_run.h"

namespace tdp::tools {
namespace {

using Pages = absl::flat_hash_set<uint64_t>;

// The pages of the program that `records` touch, by number.
void AddTouched(absl::Span<const TraceRecord> records, Pages& touched) {
  for (const TraceRecord record : records) {
    const uint64_t first = record.gva().raw();
    touched.insert(first >> kPageShift);
    touched.insert((first + record.size() - 1) >> kPageShift);
  }
}

class WorkingSetScan {
 public:
  explicit WorkingSetScan(Machine& machine) : machine_(machine) {}

  // Looks what is young in the EPT now, beside the pages that were `touched`.
  absl::StatusOr<WorkingSetSample> Look(const Pages& touched) {
    FollowKernel();
    WorkingSetSample sample;
    sample.true_pages = touched.size();
    uint64_t both = 0;
    TDP_RETURN_IF_ERROR(machine_.vm().VisitLeaves(
        Gfn(0), PageCount::FromBytes(MemoryMap::kAboveHole + machine_.options().ram),
        [&](const LeafRun& run) {
          if (!run.accessed) return;
          for (uint64_t i = 0; i < run.pages.raw(); ++i) {
            const auto page = page_of_.find(run.gfn.raw() + i);
            if (page == page_of_.end()) continue;
            ++sample.young_pages;
            both += touched.contains(page->second) ? 1 : 0;
          }
        }));
    sample.missed_pages = touched.size() - both;
    sample.idle_pages = sample.young_pages - both;
    TDP_ASSIGN_OR_RETURN(sample.young_tables, YoungTables());
    return sample;
  }

  // Everything is old from now on.
  absl::Status Age() {
    for (const MapRegion& region : machine_.map().regions()) {
      if (region.kind != RegionKind::kRam) continue;
      TDP_ASSIGN_OR_RETURN(const Hva start, machine_.HvaBySlots(region.base));
      TDP_ASSIGN_OR_RETURN(AgeResult age, machine_.vm().AgeHostRange(start, region.size));
      age.flush.Settle();
    }
    return absl::OkStatus();
  }

 private:
  // The kernel only ever adds pages.
  void FollowKernel() {
    const std::vector<GuestMapping> mappings = machine_.kernel().mappings();
    for (; known_ < mappings.size(); ++known_) {
      const GuestMapping& mapping = mappings[known_];
      for (uint64_t i = 0; i < mapping.level.bytes() / kPageSize; ++i) {
        page_of_[(mapping.gpa.raw() >> kPageShift) + i] = (mapping.gva.raw() >> kPageShift) + i;
      }
    }
  }

  // Frames of 4 KiB leaves that are young and hold none of the program's pages are tables: the
  // kernel gives out nothing else.
  absl::StatusOr<uint64_t> YoungTables() {
    uint64_t tables = 0;
    TDP_RETURN_IF_ERROR(machine_.vm().VisitLeaves(
        Gfn(0), PageCount::FromBytes(MemoryMap::kAboveHole + machine_.options().ram),
        [&](const LeafRun& run) {
          if (!run.accessed || run.level != kLevel4K) return;
          for (uint64_t i = 0; i < run.pages.raw(); ++i) {
            tables += page_of_.contains(run.gfn.raw() + i) ? 0 : 1;
          }
        }));
    return tables;
  }

  Machine& machine_;
  absl::flat_hash_map<uint64_t, uint64_t> page_of_;  // of the program, by guest frame
  size_t known_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<WorkingSetSample>> MeasureWorkingSet(LoopingTrace& trace,
                                                                const ReplayOptions& machine,
                                                                const WorkingSetOptions& options) {
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> run, GuestRun::Create(trace, machine));
  WorkingSetScan scan(run->machine());
  std::vector<WorkingSetSample> samples;
  uint64_t walks = 0;
  for (uint64_t i = 0; i < options.samples; ++i) {
    Pages touched;
    TDP_RETURN_IF_ERROR(run->Advance(
        options.every,
        [&touched](absl::Span<const TraceRecord> records) { AddTouched(records, touched); }));
    TDP_ASSIGN_OR_RETURN(WorkingSetSample sample, scan.Look(touched));
    const uint64_t now = run->totals().cpu.walks;
    sample.walks = now - walks;
    walks = now;
    samples.push_back(sample);
    TDP_RETURN_IF_ERROR(scan.Age());
    if (options.flush) run->machine().cpu(0).InveptAll();
  }
  return samples;
}

}  // namespace tdp::tools
