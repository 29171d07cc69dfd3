// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/walk_protocol.h"

#include <array>
#include <cstring>
#include <iostream>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/ept_walker.h"
#include "tests/oracles/engine_walk_protocol.h"
#include "tests/oracles/protocols.h"

ABSL_FLAG(
    std::string, walker, "sim",
    "which code answers `walk` lines: sim, the software CPU, or engine, the engine's walkers");

namespace tdp::oracles {
namespace {

// The log stands here, where no recorded table does.
constexpr uint64_t kLogAddress = 0xffffffffff000;

unsigned RightsOf(char access) {
  if (access == 'w') return sim::kRightWrite;
  return access == 'x' ? sim::kRightExecute : sim::kRightRead;
}

sim::AccessKind KindOf(char access) {
  if (access == 'w') return sim::AccessKind::kStore;
  return access == 'x' ? sim::AccessKind::kFetch : sim::AccessKind::kLoad;
}

}  // namespace

void WalkProtocol::Reset() {
  memory_.Clear();
  features_ = {};
  features_.physical_address_bits = 40;
  // The recorded walker has neither 5-level EPT nor supervisor shadow stacks.
  features_.ept = EptCapabilities::All().Without(ept::kCapAdvancedExitInformation | ept::kCapWalk5 |
                                                 ept::kCapSupervisorShadowStack);
  controls_ = {};
  controls_.pml_address = Hpa(kLogAddress);
  registers_ = {};
  registers_.cr0 = 0x80010033;
  registers_.efer = 0x500;
  eptp_ = Eptp();
  stale_ = true;
  cpu_ = nullptr;
}

void WalkProtocol::StoreWord(uint64_t address, uint64_t value) {
  memory_.physical().Store(address, value);
}

void WalkProtocol::StorePage(uint64_t address, const char* bytes) {
  std::memcpy(memory_.Frame(Hpa(address)), bytes, kPageSize);
}

bool WalkProtocol::Set(std::string_view name, uint64_t value) {
  const auto capability = [&](uint64_t bit) {
    features_.ept = value != 0 ? features_.ept.With(bit) : features_.ept.Without(bit);
  };
  stale_ = true;
  if (name == "maxpa") {
    features_.physical_address_bits = static_cast<int>(value);
  } else if (name == "eptp") {
    eptp_ = Eptp(value);
  } else if (name == "cap1g") {
    capability(ept::kCap1G);
    features_.guest_pages_1g = value != 0;
  } else if (name == "adv") {
    capability(ept::kCapAdvancedExitInformation);
  } else if (name == "pml") {
    controls_.pml = value != 0;
  } else if (name == "ept") {
    controls_.ept = value != 0;
  } else if (name == "cr0") {
    registers_.cr0 = value;
  } else if (name == "cr3") {
    registers_.cr3 = value;
  } else if (name == "cr4") {
    registers_.cr4 = value;
  } else if (name == "efer") {
    registers_.efer = value;
  } else if (name == "pkru") {
    registers_.pkru = static_cast<uint32_t>(value);
  } else if (name == "pkrs") {
    registers_.pkrs = static_cast<uint32_t>(value);
  } else if (name == "ac") {
    registers_.ac = value != 0;
  } else {
    return false;
  }
  return true;
}

void WalkProtocol::Configure() {
  if (!stale_) return;
  if (cpu_ == nullptr) {
    sim::CpuConfig config;
    config.caches = *sim::CachePreset("none");
    cpu_ = std::make_unique<sim::Cpu>(memory_.physical(), config);
  }
  const std::array<uint64_t, 4> pdptes = cpu_->registers().pdptes;
  cpu_->SetFeatures(features_);
  cpu_->SetControls(controls_).IgnoreError();  // every feature is there
  registers_.pdptes = pdptes;
  cpu_->SetRegisters(registers_);
  stale_ = false;
}

std::string WalkProtocol::EventText(sim::Event event, bool with_gpa) const {
  const sim::Exit& exit = cpu_->exit();
  const std::string gpa = with_gpa ? absl::StrFormat(" gpa %x", exit.gpa.raw()) : "";
  switch (event) {
    case sim::Event::kEptViolation:
      return absl::StrFormat("violation %x%s", exit.qualification.raw(), gpa);
    case sim::Event::kEptMisconfiguration:
      return absl::StrCat("misconfig", gpa);
    case sim::Event::kPageFault:
      return absl::StrFormat("pf %x", exit.error_code);
    case sim::Event::kGeneralProtection:
      return "noncanonical";
    default:
      return sim::EventName(event);
  }
}

std::string WalkProtocol::Tail() {
  std::string tail;
  for (const auto& [address, value] : memory_.TakeWrites()) {
    absl::StrAppend(&tail, tail.empty() ? " ad" : "", absl::StrFormat(" %x=%x", address, value));
  }
  for (int index = 511; index > cpu_->pml_index(); --index) {
    absl::StrAppend(&tail, index == 511 ? " pml" : "",
                    absl::StrFormat(" %x", memory_.physical().Load(kLogAddress + 8 * index)));
  }
  cpu_->set_pml_index(511);
  return tail;
}

std::string WalkProtocol::Walk(const WalkLine& line) {
  Configure();
  sim::MachineState state(memory_.physical());
  state.features = features_;
  state.controls = controls_;
  state.eptp = eptp_;
  sim::EptWalker walker(state);
  walker.Configure({});
  walker.Reload(state.contexts.Intern({}));
  sim::EptRequest request;
  request.gpa = line.gpa;
  request.access = RightsOf(line.access);
  // A guest-table access on behalf of a linear address is a write too under A/D flags.
  if (line.linear && line.guest_table && eptp_.accessed_dirty()) {
    request.access |= sim::kRightRead | sim::kRightWrite;
  }
  if (line.linear) {
    request.qualification =
        ept::kQualLinearAddressValid | (line.guest_table ? 0 : ept::kQualFinalAddress);
  }
  request.guest_table = line.guest_table;
  sim::EptTranslation found;
  const sim::Event event = walker.Translate(request, found, nullptr);
  cpu_->set_pml_index(state.pml_index);
  if (event == sim::Event::kEptViolation) {
    return absl::StrFormat("violation %x", state.exit.qualification.raw());
  }
  if (event != sim::Event::kNone) return "misconfig";
  return absl::StrFormat("ok %x mt %d ipat %d lvl %d", found.HpaOf(request.gpa),
                         (found.leaf & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift,
                         (found.leaf & ept::kIgnorePat) != 0 ? 1 : 0, found.level);
}

std::string WalkProtocol::Linear(const LinearLine& line) {
  Configure();
  if (cpu_->Enter(eptp_) != sim::Event::kNone) return "bad eptp";
  const sim::AccessResult result =
      cpu_->Access({.gva = line.gva,
                    .kind = KindOf(line.access),
                    .accessor = line.user ? sim::Accessor::kUser : sim::Accessor::kSupervisor,
                    .size = 1,
                    .shadow_stack = false});
  if (result.ok()) return absl::StrFormat("ok %x", result.hpa.raw());
  return EventText(result.event, true);
}

std::string WalkProtocol::LoadPdptes() {
  Configure();
  if (cpu_->Enter(eptp_) != sim::Event::kNone) return "bad eptp";
  const sim::Event event = cpu_->LoadPdptes();
  if (event == sim::Event::kNone) return "ok";
  return event == sim::Event::kGeneralProtection ? "gp" : EventText(event, true);
}

bool WalkProtocol::IsValidEptp(Eptp eptp) { return sim::IsValidEptp(eptp, features_); }

namespace {

int AnswerLines(WalkLines& lines, std::istream& in, std::ostream& out) {
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    const absl::StatusOr<std::string> answer = lines.Answer(line);
    if (!answer.ok()) {
      std::cerr << "line " << number << ": " << answer.status().message() << "\n";
      return 2;
    }
    if (!answer->empty()) out << line << " -> " << *answer << "\n";
  }
  return 0;
}

}  // namespace

int RunWalkProtocol(std::istream& in, std::ostream& out) {
  const std::string walker = absl::GetFlag(FLAGS_walker);
  if (walker == "sim") {
    WalkProtocol lines;
    return AnswerLines(lines, in, out);
  }
  if (walker == "engine") {
    EngineWalkProtocol lines;
    return AnswerLines(lines, in, out);
  }
  std::cerr << "--walker=" << walker << ": sim and engine are there\n";
  return 2;
}

}  // namespace tdp::oracles
