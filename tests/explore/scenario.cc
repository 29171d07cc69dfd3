// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/scenario.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tdp/base/check.h"

namespace tdp::explore {
namespace {

constexpr std::string_view kSmall = ".small";

class WorldProgram : public Program {
 public:
  WorldProgram(FiberScheduler& fibers, const Scenario& scenario, uint64_t seed)
      : scenario_(scenario),
        arena_(TakeArena()),
        world_(std::make_unique<World>(fibers, *arena_, *scenario.kind, seed,
                                       std::max(1, scenario.Guests()), scenario.AccessesBefore(),
                                       static_cast<int>(scenario.operations.size()))) {}
  ~WorldProgram() override {
    world_.reset();
    Spare() = std::move(arena_);
  }

  std::vector<std::function<void()>> Threads() override {
    std::vector<std::function<void()>> threads;
    for (int i = 0; i < scenario_.Guests(); ++i) {
      threads.emplace_back(
          [this, i] { world_->RunGuest(i, scenario_.Accesses(), scenario_.small); });
    }
    for (const Operation* operation : scenario_.operations) {
      threads.emplace_back([this, operation] {
        operation->run(*world_);
        world_->OperatorDone();
      });
    }
    return threads;
  }
  std::string Judge() override { return world_->Judge(); }

 private:
  // A program that was left behind keeps its arena.
  static std::unique_ptr<Arena>& Spare() {
    static auto* spare = new std::unique_ptr<Arena>();
    return *spare;
  }
  static std::unique_ptr<Arena> TakeArena() {
    if (Spare() != nullptr) return std::move(Spare());
    return std::make_unique<Arena>();
  }

  const Scenario scenario_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<World> world_;
};

}  // namespace

std::string Scenario::Name() const {
  std::string name = absl::StrCat(kind->name, small ? kSmall : "", "/");
  const char* plus = "";
  for (const Operation* operation : operations) {
    absl::StrAppend(&name, plus, operation->name);
    plus = "+";
  }
  return name;
}

std::vector<Scenario> MakeScenarios(std::string_view filter, int triples) {
  std::vector<Scenario> scenarios;
  const auto add = [&](Scenario scenario) {
    if (absl::StrContains(scenario.Name(), filter)) scenarios.push_back(std::move(scenario));
  };
  Random random(1);
  for (const MachineKind& kind : MachineKinds()) {
    const std::vector<const Operation*> operations = OperationsOf(kind);
    for (size_t a = 0; a < operations.size(); ++a) {
      for (size_t b = a; b < operations.size(); ++b) {
        add({.kind = &kind, .operations = {operations[a], operations[b]}});
      }
    }
    for (int i = 0; i < triples; ++i) {
      const auto any = [&] { return operations[random.Below(operations.size())]; };
      add({.kind = &kind, .operations = {any(), any(), any()}});
    }
  }
  return scenarios;
}

std::vector<Scenario> MakeSmallScenarios(std::string_view filter) {
  std::vector<Scenario> scenarios;
  const auto add = [&](Scenario scenario) {
    if (absl::StrContains(scenario.Name(), filter)) scenarios.push_back(std::move(scenario));
  };
  for (const MachineKind& kind : MachineKinds()) {
    for (const Operation* operation : OperationsOf(kind)) {
      add({.kind = &kind, .operations = {operation}, .small = true});
    }
  }
  for (const MachineKind& kind : MachineKinds()) {
    const std::vector<const Operation*> operations = OperationsOf(kind);
    for (size_t a = 0; a < operations.size(); ++a) {
      for (size_t b = a; b < operations.size(); ++b) {
        add({.kind = &kind, .operations = {operations[a], operations[b]}, .small = true});
      }
    }
  }
  return scenarios;
}

Scenario ScenarioOf(std::string_view name) {
  std::vector<std::string_view> parts = absl::StrSplit(name, '/');
  TDP_CHECK_EQ(parts.size(), size_t{2});
  Scenario scenario = {};
  scenario.small = absl::ConsumeSuffix(&parts[0], kSmall);
  scenario.kind = &KindOf(parts[0]);
  for (const std::string_view operation : absl::StrSplit(parts[1], '+')) {
    scenario.operations.push_back(FindOperation(operation));
    TDP_CHECK(scenario.operations.back() != nullptr);
  }
  return scenario;
}

MakeProgram ProgramOf(const Scenario& scenario, uint64_t seed) {
  return [scenario, seed](FiberScheduler& fibers) {
    return std::make_unique<WorldProgram>(fibers, scenario, seed);
  };
}

}  // namespace tdp::explore
