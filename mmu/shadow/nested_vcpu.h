// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A vCPU whose guest is a hypervisor (L1) with a guest of its own (L2): EPT12, the tables that L1
// keeps for L2, is shadowed into EPT02, on which L2 runs. docs/shadow.md says how it works.

#ifndef TDP_MMU_SHADOW_NESTED_VCPU_H_
#define TDP_MMU_SHADOW_NESTED_VCPU_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/shadow/nested_fault.h"

namespace tdp {

class NestedVcpuImpl;

// The nested side of a vCPU. It is made with its `Vcpu` (`Vcpu::nested`), and like it used by one
// thread at a time. Every call wants the vCPU outside the guest, else FailedPrecondition.
//
// EPT02 is to EPT12 what a TLB is to page tables: L1's tables are not tracked. What L1 takes away
// stays until L1 executes INVEPT, as on a CPU; what it adds or allows is found by the next
// violation.
class NestedVcpu {
 public:
  explicit NestedVcpu(std::unique_ptr<NestedVcpuImpl> impl);
  // By then the vCPU is outside the guest for good.
  ~NestedVcpu();

  NestedVcpu(const NestedVcpu&) = delete;
  NestedVcpu& operator=(const NestedVcpu&) = delete;

  // Makes the vCPU run L2 from its next entry on: what VMLAUNCH and VMRESUME of L1 do to
  // translation. L2 runs under one VPID of the CPU whatever VPIDs L1 gives, so linear and combined
  // translations are dropped where L1 gives another VPID than at the last entry, or none. EPT02
  // follows the EPTP and everything in `context.rules` that decides what an entry of EPT12 means.
  //
  // InvalidArgument, naming the field, for an EPTP that the CPU of `context.rules` refuses (L1's VM
  // entry fails), and for rules that the CPU cannot keep; ResourceExhausted without memory for a
  // root, Unavailable (memory keeps changing: again). It then runs what it ran before. May allocate
  // and wait for vCPUs that are in the guest.
  absl::Status Enter(const NestedContext& context);
  // Makes it run L1 again: a VM exit to L1. Where L1 gave no VPID this drops linear and combined
  // translations, L1's included.
  absl::Status Leave();
  bool is_entered() const;
  // Returns what L2 runs on; an EPTP of 0, which no CPU takes, before it was entered in the address
  // space of the vCPU.
  Eptp eptp() const;

  // Answers an EPT violation of L2 at `gpa`, an address of L2's. The vCPU has entered L2. Statuses
  // with kError: InvalidArgument (a qualification that hardware cannot report), FailedPrecondition
  // (L2 was not entered), ResourceExhausted, and what `Backend::Resolve` answers.
  NestedFaultResult HandleViolation(Gpa gpa, ExitQualification qualification);

  // Does INVEPT for L1: single-context (1) with an EPTP of L1's, or all-context (2), by the rules
  // of the CPU that L1 sees. Returns false if the instruction fails (invalid operand). What is not
  // to be kept is gone from the EPT02 of every address space and from every CPU when it returns.
  // Waits for vCPUs that are in the guest. InvalidArgument for rules of a width that no CPU has.
  absl::StatusOr<bool> Invept(uint64_t type, Eptp eptp, const EntryRules& rules);
  // Does INVVPID for L1, type 0 to 3. Returns false as above: for type 0 also where `gva` is not
  // canonical in `linear_address_bits` (48, or 57 for a CPU with 5-level paging, whatever CR4.LA57
  // says). The vCPU's linear and combined translations are dropped before its next entry, by
  // `Backend::InvalidateAll`: they may carry any VPID.
  absl::StatusOr<bool> Invvpid(uint64_t type, uint64_t vpid, Gva gva, const EntryRules& rules,
                               int linear_address_bits = 57);

  // Returns the implementation, for the `Vcpu` that this belongs to.
  NestedVcpuImpl& impl() { return *impl_; }
  const NestedVcpuImpl& impl() const { return *impl_; }

 private:
  const std::unique_ptr<NestedVcpuImpl> impl_;
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_NESTED_VCPU_H_
