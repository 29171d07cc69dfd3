// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The local APIC's page as several CPUs of Linux share it: read in place, written through the host.

#ifndef TDP_EXAMPLES_LINUX_APIC_WRITES_H_
#define TDP_EXAMPLES_LINUX_APIC_WRITES_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/backends/vtx/local_apic.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

class LinuxGuest;

// Makes a slot over this CPU's own registers, uncacheable and read-only.
absl::Status MapLocalApic(Vm& vm);

// Carries out a write of a guest's CPU to that page, as `exit` has it: the register of the CPU that
// this runs on gets the value, and the instruction is skipped. INIT alone is not sent: `init` is
// told which CPU it is for. Unimplemented for instructions other than MOV.
absl::Status OnApicWrite(const vtx::VmExit& exit, const LinuxGuest& guest, Vcpu& mmu,
                         vtx::VtxVcpu& vcpu, absl::FunctionRef<void(vtx::ApicId)> init);

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_APIC_WRITES_H_
