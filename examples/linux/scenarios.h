// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Names all that can be done to Linux's memory while it runs.

#ifndef TDP_EXAMPLES_LINUX_SCENARIOS_H_
#define TDP_EXAMPLES_LINUX_SCENARIOS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tdp/examples/linux/linux_guest.h"

namespace tdp::linux_example {

struct ScenarioPlan {
  std::string title;
  GuestOptions options;
  std::unique_ptr<Scenario> scenario;
  std::string passes = "6";  // of the guest's checks
  // A control: the host does something wrong, and the run passes if that was noticed.
  bool must_fail = false;
};

// Returns a line for each: its name and its title.
std::string ListScenarios();
// NotFound for a name that is none.
absl::StatusOr<ScenarioPlan> PlanScenario(std::string_view name, uint64_t seed);

// --- torture.cc: a second CPU changes everything that it can without asking Linux ----------------
enum class Care : uint8_t {
  kFull,
  kUntold,       // host pages move and the `Vm` is not told
  kNotWaitedFor  // they move as soon as the tables say so, while a CPU may use the old page
};
std::unique_ptr<Scenario> MakeTorture(uint64_t seed, Care care);

// --- smp.cc: the host side of one of Linux's CPUs changes what another one uses ------------------
std::unique_ptr<Scenario> MakeCrossKicks(uint64_t seed);

// --- migration.cc: from one `Vm` to the next, the one before destroyed ---------------------------
std::unique_ptr<Scenario> MakeMigration();

// --- dirty_log.cc: copies of memory kept true by the dirty log alone -----------------------------
std::unique_ptr<Scenario> MakeDirtyLog();

// --- snapshot.cc: back to where it was, by the pages alone that the dirty log names --------------
std::unique_ptr<Scenario> MakeSnapshot();

// --- text_watch.cc: a view in which the kernel's code is read-only -------------------------------
std::unique_ptr<Scenario> MakeTextWatch();

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_SCENARIOS_H_
