// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Does `Vcpu::Prefault`: faults before they happen, by whole tables (KVM_PRE_FAULT_MEMORY).

#ifndef TDP_MMU_FAULT_PREFAULT_H_
#define TDP_MMU_FAULT_PREFAULT_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/tables/staged_table.h"

namespace tdp {

// Maps pages ahead. It is made for one call, with the handler of the vCPU's faults, whose slots,
// tables and section it uses.
class Prefaulter {
 public:
  explicit Prefaulter(FaultHandler& faults) : faults_(faults) {}

  // Returns what can be wrong with a call but for the guest's width, as `Vcpu::Prefault` says.
  static absl::Status Check(Gpa gpa, ByteCount size, Access access);
  // Checks a call that names no access.
  static absl::Status CheckRange(Gpa gpa, ByteCount size);
  // Maps as `Vcpu::Prefault` says; the arguments are checked.
  absl::StatusOr<ByteCount> Prefault(Gpa gpa, ByteCount size, Access access);

 private:
  // Frames of one table and one slot.
  struct Run {
    Gfn gfn;
    Access access;
    uint64_t sequence;  // taken before the slot
    const MemorySlot& slot;
  };

  PageCount StablePages(const MemorySlot& slot, Gfn gfn, PageCount pages);
  absl::StatusOr<size_t> Ask(const Run& fault, Gfn from, PageCount pages, absl::Span<HostRun> runs);
  bool HasMoved(const Run& fault, PageCount pages) const;
  absl::StatusOr<PageCount> MapTable(Gfn gfn, PageCount most, Access access, Gfn& asked_until);
  StagedTable::Published PublishRuns(const Run& fault, PageCount most,
                                     absl::Span<const HostRun> runs);
  bool AppendRuns(const Run& fault, absl::Span<const HostRun> runs, Gfn end, StagedTable& staged);
  StagedTable::Published PublishStaged(const Run& fault, StagedTable& staged);
  absl::StatusOr<PageCount> MapPage(Gfn gfn, Access access);

  FaultHandler& faults_;
};

}  // namespace tdp

#endif  // TDP_MMU_FAULT_PREFAULT_H_
