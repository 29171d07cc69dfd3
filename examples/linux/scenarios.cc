// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/scenarios.h"

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tdp::linux_example {
namespace {

constexpr uint64_t kMillion = 1000000;

struct Named {
  std::string_view name;
  std::string_view title;
  void (*fill)(ScenarioPlan& plan, uint64_t seed);
};

void PlanDirtyLog(ScenarioPlan& plan, DirtyTracking tracking) {
  plan.options.period = 6 * kMillion;
  plan.options.vm.dirty_tracking = tracking;
  plan.options.pml = tracking == DirtyTracking::kPml;
  plan.scenario = MakeDirtyLog();
  plan.passes = "3";
}

void PlanTorture(ScenarioPlan& plan, uint64_t seed, Care care) {
  plan.scenario = MakeTorture(seed, care);
  plan.options.period = 20 * kMillion;  // for the limit alone
  plan.options.limit = 4000 * kMillion;
  plan.passes = "2";
}

void PlanMigration(ScenarioPlan& plan) {
  plan.options.period = 12 * kMillion;
  plan.scenario = MakeMigration();
  plan.passes = "3";
}

constexpr Named kScenarios[] = {
    {"boot", "Linux boots, checks itself and resets",
     [](ScenarioPlan& plan, uint64_t) { plan.scenario = std::make_unique<Scenario>(); }},
    {"shadow", "the same without EPT, on tables that shadow Linux's own",
     [](ScenarioPlan& plan, uint64_t) {
       plan.options.vm.paging = Paging::kShadow;
       plan.scenario = std::make_unique<Scenario>();
     }},
    {"smp", "Linux on two CPUs; the first one's host side zaps and moves pages the other one uses",
     [](ScenarioPlan& plan, uint64_t seed) {
       plan.options.period = kMillion;
       plan.options.cpus = 2;
       plan.scenario = MakeCrossKicks(seed);
       plan.passes = "2";
     }},
    {"torture", "a second CPU moves, zaps, splits, collapses, ages and re-slots its memory",
     [](ScenarioPlan& plan, uint64_t seed) { PlanTorture(plan, seed, Care::kFull); }},
    {"smp-torture", "Linux on two CPUs, and a third one does the same",
     [](ScenarioPlan& plan, uint64_t seed) {
       PlanTorture(plan, seed, Care::kFull);
       plan.options.cpus = 2;
     }},
    {"shadow-torture", "the torture on shadow tables, but for splits and collapses",
     [](ScenarioPlan& plan, uint64_t seed) {
       PlanTorture(plan, seed, Care::kFull);
       plan.options.vm.paging = Paging::kShadow;
     }},
    {"migration", "Linux moves from one Vm to the next; memory and Vm it leaves are destroyed",
     [](ScenarioPlan& plan, uint64_t) { PlanMigration(plan); }},
    {"shadow-migration", "the same on shadow tables",
     [](ScenarioPlan& plan, uint64_t) {
       PlanMigration(plan);
       plan.options.vm.paging = Paging::kShadow;
     }},
    {"dirty-protect", "copies of its memory kept true by write-protection",
     [](ScenarioPlan& plan, uint64_t) { PlanDirtyLog(plan, DirtyTracking::kWriteProtection); }},
    {"dirty-bits", "copies of its memory kept true by D bits",
     [](ScenarioPlan& plan, uint64_t) { PlanDirtyLog(plan, DirtyTracking::kDirtyBits); }},
    {"dirty-pml", "copies of its memory kept true by page-modification logging",
     [](ScenarioPlan& plan, uint64_t) { PlanDirtyLog(plan, DirtyTracking::kPml); }},
    {"dirty-ring", "copies of its memory kept true by a dirty ring",
     [](ScenarioPlan& plan, uint64_t) {
       PlanDirtyLog(plan, DirtyTracking::kWriteProtection);
       plan.options.ring_entries = 4096;
     }},
    {"snapshot", "Linux goes back to a snapshot by its dirty pages, and does the same again",
     [](ScenarioPlan& plan, uint64_t) {
       plan.options.period = 12 * kMillion;
       plan.options.vm.dirty_tracking = DirtyTracking::kDirtyBits;
       plan.scenario = MakeSnapshot();
       plan.passes = "4";
     }},
    {"watch", "a view in which the kernel's code is read-only says who patches it",
     [](ScenarioPlan& plan, uint64_t) {
       plan.options.period = 20 * kMillion;
       plan.scenario = MakeTextWatch();
       plan.passes = "1";
     }},
    {"control-untold", "must fail: host pages move and the Vm is not told",
     [](ScenarioPlan& plan, uint64_t seed) {
       PlanTorture(plan, seed, Care::kUntold);
       plan.must_fail = true;
     }},
    {"control-kick", "must fail: host pages move before the other CPU has left the guest",
     [](ScenarioPlan& plan, uint64_t seed) {
       PlanTorture(plan, seed, Care::kNotWaitedFor);
       plan.passes = "6";
       plan.must_fail = true;
     }},
    {"control-pml", "must fail: half of the CPU's logs of written pages are thrown away",
     [](ScenarioPlan& plan, uint64_t) {
       PlanDirtyLog(plan, DirtyTracking::kPml);
       plan.options.drop_pml = true;
       plan.must_fail = true;
     }},
};

}  // namespace

std::string ListScenarios() {
  std::string list;
  for (const Named& scenario : kScenarios) {
    absl::StrAppend(&list, scenario.name, ": ", scenario.title, "\n");
  }
  return list;
}

absl::StatusOr<ScenarioPlan> PlanScenario(std::string_view name, uint64_t seed) {
  for (const Named& scenario : kScenarios) {
    if (scenario.name != name) continue;
    ScenarioPlan plan;
    plan.title = scenario.title;
    scenario.fill(plan, seed);
    return plan;
  }
  return absl::NotFoundError(absl::StrCat(
      "scenario '", name, "': there is none of that name; there are\n", ListScenarios()));
}

}  // namespace tdp::linux_example
