// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/nested_exit.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/shadow/nested_vcpu.h"

namespace tdp::tools {
namespace {

// Makes a VM exit to L1, what L1 does about it, and its VMRESUME.
absl::StatusOr<NestedAnswer> Reflect(Machine& machine, int index, Gpa gpa,
                                     ExitQualification qualification) {
  TDP_RETURN_IF_ERROR(machine.vcpu(index).nested()->Leave());
  TDP_ASSIGN_OR_RETURN(const bool mapped,
                       machine.hypervisor().HandleViolation(gpa, qualification.access()));
  TDP_RETURN_IF_ERROR(machine.EnterL2(index));
  return mapped ? NestedAnswer::kReflected : NestedAnswer::kDevice;
}

}  // namespace

absl::StatusOr<NestedAnswer> AnswerNestedViolation(Machine& machine, int index) {
  const sim::Exit exit = machine.cpu(index).exit();
  const NestedFaultResult result =
      machine.vcpu(index).nested()->HandleViolation(exit.gpa, exit.qualification);
  switch (result.outcome) {
    case NestedOutcome::kFixed:
      return NestedAnswer::kFixed;
    case NestedOutcome::kSpurious:
    case NestedOutcome::kRetry:
      return NestedAnswer::kSpurious;
    case NestedOutcome::kViolation:
      return Reflect(machine, index, exit.gpa, result.qualification);
    case NestedOutcome::kError:
      return result.status;
    case NestedOutcome::kMisconfiguration:
    case NestedOutcome::kMmio:
    case NestedOutcome::kNoTable:
    case NestedOutcome::kBlocked:
    case NestedOutcome::kDirtyRingFull:
      break;
  }
  return absl::InternalError(absl::StrCat("L2's violation at ", ToString(exit.gpa), " ended as ",
                                          NestedOutcomeName(result.outcome)));
}

}  // namespace tdp::tools
