// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A vCPU whose guest's own paging is shadowed: what a run loop calls where the CPU has no EPT, or
// where it is not used (`VmOptions::paging`). docs/shadow.md says how it works.

#ifndef TDP_MMU_SHADOW_SHADOW_VCPU_H_
#define TDP_MMU_SHADOW_SHADOW_VCPU_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_registers.h"

namespace tdp {

class ShadowVcpuImpl;

// The shadowing side of a vCPU. It is made with its `Vcpu` (`Vcpu::shadow`), and like it used by
// one thread at a time. Every call wants the vCPU outside the guest, else FailedPrecondition. What
// it may block in and allocates is done outside every section; ResourceExhausted then means that
// nothing has changed and the call can be made again.
//
// `Vcpu::SetAddressSpace` forgets every shadow of the space that it enters: the guest may have
// written its tables in the other one. It waits for vCPUs in the guest.
//
// It begins without paging, as a CPU after reset.
class ShadowVcpu {
 public:
  explicit ShadowVcpu(std::unique_ptr<ShadowVcpuImpl> impl);
  // By then the vCPU is outside the guest for good.
  ~ShadowVcpu();

  ShadowVcpu(const ShadowVcpu&) = delete;
  ShadowVcpu& operator=(const ShadowVcpu&) = delete;

  // --- the guest's registers ---

  const GuestPaging& paging() const;
  const GuestRoots& roots() const;

  // Sets the guest's CR0, CR4, EFER and CR3: what MOV to CR0 or CR4, WRMSR to EFER or a restored
  // state do to translation. Everything the guest may have cached is forgotten. Under PAE paging
  // the PDPTEs are loaded, unless CR3 and all bits that matter to them are as they were;
  // kGeneralProtection if one sets a reserved bit, and nothing has changed. `cr3` is a register's
  // value: CR3.63 is no part of it, and in a 64-bit mode bits above MAXPHYADDR are InvalidArgument.
  // FailedPrecondition for protection keys (CR4.PKE, CR4.PKS), which are not shadowed.
  absl::StatusOr<GuestEvent> SetPaging(const GuestControls& controls, uint64_t cr3);
  // Does MOV to CR3, with bit 63 under CR4.PCIDE. PDPTEs as above. kGeneralProtection, and nothing
  // has changed, in a 64-bit mode for a bit above MAXPHYADDR, those of LAM among them, which the
  // guest's CPU has not.
  absl::StatusOr<GuestEvent> WriteCr3(uint64_t value);
  // Does INVLPG.
  absl::Status Invlpg(Gva gva);
  // Does INVPCID. kGeneralProtection for another type than 0 to 3, a PCID above 4095 (of types 0
  // and 1 also for one that is not 0 without CR4.PCIDE), or of type 0 a non-canonical address,
  // whatever mode the guest is in.
  absl::StatusOr<GuestEvent> Invpcid(uint64_t type, uint64_t pcid, Gva gva);

  // --- running ---

  // Returns what the hardware has to run with until the next call here.
  const ShadowRegisters& registers() const;

  // Answers a #PF that the CPU raised in the guest: `error_code` and CR2 as it reported them.
  // `excused` says that it was an explicit access with RFLAGS.AC set, which SMAP lets pass. kError:
  // InvalidArgument for an error code that shadow tables do not cause (reserved bits, protection
  // keys, SGX) and for an address that is not canonical.
  PagingFaultResult HandlePageFault(Gva gva, uint32_t error_code, bool excused = false);

  // Writes the guest's memory for an instruction that is emulated, or for a device: `store` gets
  // the place of the `size` bytes at `gpa`, which do not cross a page, and writes them, atomically
  // if the instruction was locked. It runs inside an MMU section, so it is short and calls nothing
  // of the engine. The page is marked dirty, and what shadows it follows. NotFound where no memory
  // is, PermissionDenied where it is read-only, InvalidArgument across pages; Unavailable (memory
  // keeps changing: again).
  absl::Status EmulateWrite(Gpa gpa, ByteCount size,
                            absl::FunctionRef<void(std::byte* place)> store);
  // Makes the shadows follow guest memory that was written in another way: when it returns no
  // shadow, of any address space, and no CPU has anything that follows from what stood in these
  // bytes before. They may cross pages, each of which costs a lock and, if it is shadowed, a wait
  // for the vCPUs in the guest. InvalidArgument for no bytes, and for a range that wraps.
  absl::Status OnWritten(Gpa gpa, ByteCount size);

  // Returns the implementation, for the `Vcpu` that this belongs to.
  ShadowVcpuImpl& impl() { return *impl_; }
  const ShadowVcpuImpl& impl() const { return *impl_; }

 private:
  const std::unique_ptr<ShadowVcpuImpl> impl_;
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_VCPU_H_
