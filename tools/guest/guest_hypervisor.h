// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A model of the part of a hypervisor in the guest (L1) that paging sees: it gives its own guest
// (L2) the memory of a PC at the first touch, and describes it in real EPT entries (EPT12), in L1's
// memory.

#ifndef TDP_TOOLS_GUEST_GUEST_HYPERVISOR_H_
#define TDP_TOOLS_GUEST_GUEST_HYPERVISOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/tools/guest/guest_kernel.h"
#include "tdp/tools/guest/memory_map.h"

namespace tdp::tools {

// Thread-safe: each vCPU may give it violations. Its own accesses are made at once and are not part
// of what is replayed. It looks at no A and D flags, and never takes anything away.
class GuestHypervisor {
 public:
  // L2's physical address p is L1's p + kL2Memory.
  static constexpr ByteCount kL2Memory = TiB(1);

  struct Options {
    Level page = kLevel2M;  // largest leaf of EPT12, 4 KiB or 2 MiB
    int levels = 4;         // of EPT12, 4 or 5
  };

  // Returns how many bytes of L1's memory, from its physical address 0 on, are enough for the
  // tables of an L2 with `ram` bytes of RAM.
  static constexpr ByteCount TableMemory(ByteCount ram) { return ram / 256 + MiB(4); }

  // Makes the root table. `map` is L2's; `memory` reaches `table_memory` bytes of L1's from 0 on.
  // ResourceExhausted if they are not enough for a table.
  static absl::StatusOr<std::unique_ptr<GuestHypervisor>> Create(const MemoryMap& map,
                                                                 GuestMemory memory,
                                                                 ByteCount table_memory,
                                                                 const Options& options);

  // EPT12's.
  Eptp eptp() const { return eptp_; }

  // Answers L2's EPT violation by an `access` to `gpa`, which is L2's: maps the page, RAM with
  // every right and ROM without W. False if the access is one that a device model has to do: to an
  // MMIO window, or a write to ROM. ResourceExhausted without memory for a table.
  absl::StatusOr<bool> HandleViolation(Gpa gpa, Access access) ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns whether EPT12 maps `gpa`.
  absl::StatusOr<bool> Maps(Gpa gpa) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Leaves of 4 KiB and of 2 MiB, and tables with the root.
  std::array<uint64_t, 2> leaves() const ABSL_LOCKS_EXCLUDED(mutex_);
  PageCount table_pages() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  GuestHypervisor(const MemoryMap& map, GuestMemory memory, ByteCount table_memory,
                  const Options& options);

  absl::StatusOr<Gfn> AllocateTable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<uint64_t*> EntryAt(Gfn table, Level level, Gpa gpa) const;
  // Returns the entry of `target` on the way to `gpa`; tables above it are made where they are
  // missing.
  absl::StatusOr<uint64_t*> WalkTo(Gpa gpa, Level target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Level LevelFor(const MapRegion& region, Gpa gpa) const;

  const MemoryMap map_;
  const GuestMemory memory_;
  const ByteCount table_memory_;
  const Options options_;
  Eptp eptp_;
  mutable absl::Mutex mutex_;
  std::array<uint64_t, 2> leaves_ ABSL_GUARDED_BY(mutex_){};
  PageCount table_pages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_GUEST_GUEST_HYPERVISOR_H_
