// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cold_check.h"

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/tools/replay/nested_exit.h"

namespace tdp::tools {
namespace {

// An access faults for five guest tables and the page at most, once each.
constexpr int kMaxViolations = 6;

class Checker {
 public:
  Checker(Machine& machine, ColdCheckMode mode, Progress& progress)
      : machine_(machine), mode_(mode), progress_(progress) {}

  absl::StatusOr<ColdCheck> Run() {
    uint64_t all = 0;
    for (size_t space = 0; space < machine_.kernel().spaces(); ++space) {
      for (const GuestMapping& mapping : machine_.kernel().mappings(space)) {
        all += mapping.level.bytes() / kPageSize;
      }
    }
    const uint64_t stride = CheckStride(mode_, all);
    if (mode_ == ColdCheckMode::kOff) {
      check_.left_out = all;
      return check_;
    }
    // A CPU that keeps nothing walks every access from cold.
    machine_.cpu(0).SetCaches(sim::CacheConfig());
    uint64_t number = 0;
    for (size_t space = 0; space < machine_.kernel().spaces(); ++space) {
      if (machine_.options().processes.count != 0) {
        TDP_RETURN_IF_ERROR(machine_.SwitchSpace(0, space, /*keep=*/false).status());
      }
      for (const GuestMapping& mapping : machine_.kernel().mappings(space)) {
        for (ByteCount offset = 0; offset < mapping.level.bytes(); offset += kPageSize) {
          if (number++ % stride != 0) {
            ++check_.left_out;
            continue;
          }
          TDP_RETURN_IF_ERROR(CheckPage(mapping.gva + offset, mapping.gpa + offset));
          progress_.UpdateCheck(number, all);
        }
      }
    }
    if (machine_.uses_ept()) TDP_RETURN_IF_ERROR(CheckDevices());
    if (machine_.uses_ept() || machine_.is_shadowed()) CheckInvariants();
    return check_;
  }

 private:
  // One access of CPU 0 with no translation cached.
  template <typename Make>
  sim::Event AccessCold(Make make, sim::AccessResult& result) {
    sim::Cpu& cpu = machine_.cpu(0);
    if (!machine_.uses_ept() && !machine_.is_shadowed()) {
      result = make(cpu);
      return result.event;
    }
    const GuestEntry entry = machine_.vcpu(0).EnterGuest();
    if (machine_.is_shadowed()) machine_.LoadShadowRegisters(0);
    const sim::Event entered = cpu.Enter(entry.eptp());
    if (entered != sim::Event::kNone) return entered;
    result = make(cpu);
    return result.event;
  }

  absl::Status CheckPage(Gva gva, Gpa gpa) {
    sim::AccessResult result;
    const auto load = [gva](sim::Cpu& cpu) { return cpu.Access(gva, sim::AccessKind::kLoad); };
    sim::Event event = AccessCold(load, result);
    if (event == sim::Event::kPageFault && machine_.is_shadowed()) {
      TDP_RETURN_IF_ERROR(AnswerShadowFault());
      event = AccessCold(load, result);
    }
    if (event == sim::Event::kEptViolation && machine_.is_nested()) {
      TDP_ASSIGN_OR_RETURN(event, FillNested(load, result));
    }
    if (event == sim::Event::kEptViolation) {
      TDP_ASSIGN_OR_RETURN(const bool mapped, IsMapped(gpa));
      check_.untouched += mapped ? 0 : 1;
      if (!mapped) return absl::OkStatus();
    }
    ++check_.pages;
    if (event != sim::Event::kNone) {
      Mismatch(gva, absl::StrCat("ends in: ", machine_.cpu(0).exit().DebugString()));
      return absl::OkStatus();
    }
    TDP_ASSIGN_OR_RETURN(Hpa want, machine_.HpaBySlots(gpa));
    if (result.hpa != want) {
      Mismatch(gva,
               absl::StrCat("leads to ", ToString(result.hpa), ", the slots say ", ToString(want)));
    }
    return absl::OkStatus();
  }

  // The shadow need not have every page of the guest's.
  absl::Status AnswerShadowFault() {
    const sim::Exit exit = machine_.cpu(0).exit();
    const PagingFaultResult result =
        machine_.vcpu(0).shadow()->HandlePageFault(exit.gva, exit.error_code);
    return result.outcome == PagingOutcome::kError ? result.status : absl::OkStatus();
  }

  // EPT02 need not have every page of EPT12's. What EPT12 lacks stays a violation: its hypervisor
  // is not asked.
  template <typename Make>
  absl::StatusOr<sim::Event> FillNested(Make make, sim::AccessResult& result) {
    sim::Event event = sim::Event::kEptViolation;
    for (int tries = 0; event == sim::Event::kEptViolation && tries < kMaxViolations; ++tries) {
      const sim::Exit exit = machine_.cpu(0).exit();
      const NestedFaultResult fault =
          machine_.vcpu(0).nested()->HandleViolation(exit.gpa, exit.qualification);
      if (fault.outcome == NestedOutcome::kError) return fault.status;
      if (fault.outcome == NestedOutcome::kViolation) break;
      event = AccessCold(make, result);
    }
    return event;
  }

  absl::StatusOr<bool> IsMapped(Gpa gpa) {
    if (machine_.is_nested()) return machine_.hypervisor().Maps(gpa);
    return machine_.vm().Translate(gpa).ok();
  }

  // Checks the edges of every region without plain RAM, by a guest without paging.
  absl::Status CheckDevices() {
    machine_.cpu(0).SetRegisters(sim::Registers());
    for (const MapRegion& region : machine_.map().regions()) {
      if (region.kind == RegionKind::kRam) continue;
      for (Gpa gpa : {region.base, region.end() - 8}) {
        for (sim::AccessKind kind : {sim::AccessKind::kLoad, sim::AccessKind::kStore}) {
          TDP_RETURN_IF_ERROR(CheckDeviceAccess(region, gpa, kind));
        }
      }
    }
    machine_.cpu(0).SetRegisters(machine_.ProgramRegisters());
    return absl::OkStatus();
  }

  absl::Status CheckDeviceAccess(const MapRegion& region, Gpa gpa, sim::AccessKind kind) {
    ++check_.device_accesses;
    const bool memory = region.kind == RegionKind::kRom && kind == sim::AccessKind::kLoad;
    TDP_ASSIGN_OR_RETURN(FaultOutcome outcome, DeviceOutcome(gpa, kind));
    if (memory == (outcome == FaultOutcome::kMmio)) {
      Mismatch(Gva(gpa.raw()), absl::StrCat("is in the ", region.name, ", but the engine says ",
                                            FaultOutcomeName(outcome)));
    }
    return absl::OkStatus();
  }

  // Returns what an access to `gpa` comes to: kMmio, or kFixed once it is done.
  absl::StatusOr<FaultOutcome> DeviceOutcome(Gpa gpa, sim::AccessKind kind) {
    for (int tries = 0; tries < 4; ++tries) {
      sim::AccessResult result;
      const sim::Event event = AccessCold(
          [gpa, kind](sim::Cpu& cpu) { return cpu.Access(Gva(gpa.raw()), kind, 8); }, result);
      if (event == sim::Event::kNone) return FaultOutcome::kFixed;
      if (machine_.is_nested()) {
        TDP_ASSIGN_OR_RETURN(const NestedAnswer answer, AnswerNestedViolation(machine_, 0));
        if (answer == NestedAnswer::kDevice) return FaultOutcome::kMmio;
        continue;
      }
      const sim::Exit& exit = machine_.cpu(0).exit();
      const FaultResult fault =
          event == sim::Event::kEptMisconfiguration
              ? machine_.vcpu(0).HandleEptMisconfiguration(exit.gpa)
              : machine_.vcpu(0).HandleEptViolation(exit.gpa, exit.qualification);
      if (fault.outcome == FaultOutcome::kError) return fault.status;
      if (fault.outcome == FaultOutcome::kMmio) return FaultOutcome::kMmio;
    }
    return absl::InternalError(absl::StrCat("the access to ", ToString(gpa), " faults for ever"));
  }

  void CheckInvariants() {
    const absl::Status status = machine_.vm().CheckInvariants();
    if (!status.ok()) Mismatch(Gva(0), std::string(status.message()));
  }

  void Mismatch(Gva gva, const std::string& what) {
    if (check_.mismatches++ == 0) check_.first_mismatch = absl::StrCat(ToString(gva), " ", what);
  }

  Machine& machine_;
  const ColdCheckMode mode_;
  Progress& progress_;
  ColdCheck check_;
};

}  // namespace

absl::StatusOr<ColdCheck> CheckFromCold(Machine& machine, ColdCheckMode mode, Progress& progress) {
  return Checker(machine, mode, progress).Run();
}

}  // namespace tdp::tools
