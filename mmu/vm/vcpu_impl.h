// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Implements `Vcpu`, whose functions these are: mmu/vcpu.h says what they promise.

#ifndef TDP_MMU_VM_VCPU_IMPL_H_
#define TDP_MMU_VM_VCPU_IMPL_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/page_fault.h"
#include "tdp/mmu/paging_kind.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/shadow/vcpu_side.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/vcpu.h"

namespace tdp {

FaultResult FaultError(absl::Status status);

class VcpuImpl {
 public:
  VcpuImpl(Engine& engine, VcpuId id);
  ~VcpuImpl();

  VcpuImpl(const VcpuImpl&) = delete;
  VcpuImpl& operator=(const VcpuImpl&) = delete;

  // Does the second half of construction, which can fail: takes a ring and, where tables of the
  // guest are shadowed, makes what answers for them. Then `VcpuSet` shows the vCPU.
  // ResourceExhausted without memory.
  absl::Status Start();

  VcpuId id() const { return id_; }
  GuestEntry EnterGuest();
  void LeaveGuest() {
    flush_member_.LeaveGuest();
    own_end_ = outside_end_;
  }
  bool is_in_guest() const { return flush_member_.is_in_guest(); }

  FaultResult HandleEptViolation(Gpa gpa, ExitQualification qualification);
  FaultResult HandleEptViolation(Gpa gpa, ExitQualification qualification, Privacy wanted);
  FaultResult HandleEptMisconfiguration(Gpa gpa);
  FaultResult HandleEptMisconfiguration(Gpa gpa, Privacy wanted);
  absl::Status LogPml(absl::Span<const Gpa> pages);
  absl::StatusOr<ByteCount> Prefault(Gpa gpa, ByteCount size, Access access);

  absl::Status SetAddressSpace(AddressSpaceId space);
  AddressSpaceId address_space() const { return faults_.address_space(); }
  absl::Status SetView(ViewId view);
  ViewId view() const { return faults_.view().id(); }
  void OnCpuChanged() { flush_member_.ForgetCpu(); }

  absl::Status WalkGuest(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                         GuestAccess access, GuestWalk& walk);
  ShadowVcpu* shadow() { return shadow_.get(); }
  NestedVcpu* nested() { return nested_.get(); }
  FaultStats stats() const;
  // Returns `FaultHandler::noted_table`.
  const uint64_t* noted_table() const { return faults_.noted_table(); }
  DirtyRing* dirty_ring() { return dirty_ring_.get(); }

 private:
  absl::Status StartSide();
  VcpuSide* side() const { return kHasShadow ? side_ : nullptr; }
  absl::Status WalkGuestAgain(const GuestPaging& paging, const GuestRoots& roots, Gva gva,
                              GuestAccess access, GuestWalk& walk);
  GuestEntry EnterBeside();
  absl::Status CheckAddress(Gpa gpa) const;
  absl::Status CheckWidth(Gpa gpa) const;
  FaultResult HandleUnusual(Gpa gpa, ExitQualification qualification, Privacy wanted);
  void Adopt(AddressSpaceId space, View& view);
  // Returns whether blocks of tables have come since the last call: other roots may have stood in
  // them, of which a CPU still has translations.
  bool HasNewTableMemory() {
    const uint64_t blocks = engine_.pool().blocks_added();
    return std::exchange(blocks_, blocks) != blocks;
  }

  Engine& engine_;
  // Violations below this address are simply its guest's: one compare says so. While the vCPU is in
  // the guest none are, and where they may be L2's or there is no EPT none ever are.
  Gpa own_end_;
  Gpa outside_end_;  // the same outside the guest
  const VcpuId id_;
  bool uses_several_roots_ = false;  // a flush is of all of them
  uint64_t blocks_ = 0;              // of tables, as of the last look
  FaultHandler faults_;
  Counter flushes_;
  FlushClock::Member flush_member_;
  std::unique_ptr<DirtyRing> dirty_ring_;
  GuestWindow window_;
  ShadowOwner<ShadowVcpu> shadow_;
  ShadowOwner<NestedVcpu> nested_;
  VcpuSide* side_ = nullptr;  // of one of those two, or null
};

}  // namespace tdp

#endif  // TDP_MMU_VM_VCPU_IMPL_H_
