// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Declares what an embedder decides when it makes a `Vm`.

#ifndef TDP_MMU_VM_OPTIONS_H_
#define TDP_MMU_VM_OPTIONS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/backend.h"

namespace tdp {

// Says whether to use a power of the hardware.
enum class Use : uint8_t {
  kIfOffered,  // use it where the backend has it
  kRequire,    // making the VM fails where the backend lacks it
  kNever,
};

// Says how guests are translated.
enum class Paging : uint8_t {
  kEpt,     // by the CPU, in two dimensions
  kShadow,  // by tables that the engine makes of the guest's own and the slots: no EPT is needed
};

// Says how slots that log dirty pages find what the guest writes. However it is done, switching
// logging on costs the same whatever the size of the slot: W is taken from the highest entries
// inside it. docs/locking.md has the timelines.
enum class DirtyTracking : uint8_t {
  kBest,             // as an option: D bits where the VM uses A and D bits, else write-protection
  kWriteProtection,  // the first write of each page is a fault, which marks it
  kDirtyBits,        // the CPU sets D bits; taking the log collects them. The first write of each
                     // 2 MiB is a fault, no other
  kPml,              // the CPU writes the addresses down, and the backend hands them over:
                     // `Vcpu::LogPml`. Faults as with D bits
};

// Returns "write-protection" and the like.
const char* DirtyTrackingName(DirtyTracking tracking);

// Returns whether the CPU finds the writes by itself, below entries that have W.
constexpr bool IsByHardware(DirtyTracking tracking) {
  return tracking == DirtyTracking::kDirtyBits || tracking == DirtyTracking::kPml;
}

// Stands for a quota that follows the memory that the slots show, and changes with them.
inline constexpr size_t kQuotaByMemory = ~size_t{0} >> 1;

struct VmOptions {
  // Says how guests are translated. With `kShadow` each `Vcpu` has a `shadow()`, and answers #PF
  // instead of EPT violations. What is said of the EPT below does not count then; writes are
  // tracked by write-protection, and leaves are at most 2 MiB.
  Paging paging = Paging::kEpt;
  // Levels of the EPT: 4 (guest physical addresses below 2^48) or 5 (below 2^57).
  int ept_levels = 4;
  // Says whether the CPU keeps A and D bits in EPT entries (EPTP bit 6).
  Use accessed_dirty = Use::kIfOffered;
  // Says how slots that log dirty pages find the writes. What the backend lacks is an error; PML is
  // used only if asked for, since it needs the backend to hand its buffers over.
  DirtyTracking dirty_tracking = DirtyTracking::kBest;
  // The level of the largest leaf: 1, 2 or 3. A larger one than the backend offers becomes what it
  // offers.
  Level max_leaf_level = kLevel1G;
  // Address spaces: 1, or 2 with SMM as the second.
  int address_spaces = 1;
  // Slots per address space, 1 to 32764 (KVM's limit).
  uint32_t slot_limit = 32764;
  // Width of a guest physical address in bits, 32 to 52. 0 stands for what tables of `ept_levels`
  // can name, at most 52.
  int guest_physical_bits = 0;
  // The first host virtual address that is not the user's, page aligned: slots must lie below it.
  // Set it where the host takes addresses from whom it does not trust. With 0 any page may back a
  // slot, those of a kernel included.
  Hva host_address_end{0};
  // The most tables that may be in use, 4 KiB each, those in vCPUs' stocks and those that wait for
  // a flush included; 1 or more. At the quota tables that the guest has not used are taken away,
  // and shadow pages. A stock is up to 32 tables, and of what the quota leaves a quarter, but for
  // the 5 that a fault may need. The default is twice what it takes to map every slot by 4 KiB
  // pages in every view and what `shadow_page_quota` pages take, 96 for each vCPU, and 512: a guest
  // that touches frames without memory all over its width, or makes tables without end, takes no
  // more. That is 8 KiB for every 2 MiB of slots in a view, and 12 % of the slots' size where
  // guests are shadowed or nested.
  size_t table_quota = kQuotaByMemory;
  // The most shadow pages of an address space, with `Paging::kShadow` or `nested`; 64 or more. At
  // the quota the oldest are zapped. Each takes one table, and up to two more where it has leaves.
  // The default is 2 % of the pages that the slots of the address space show, but at least 64, as
  // KVM's. A vCPU's roots that were zapped for the quota, at most 16 pages, go when it loads
  // others.
  size_t shadow_page_quota = kQuotaByMemory;
  // Lets guests be hypervisors: each `Vcpu` has a `nested()`, which shadows the EPT of theirs.
  // Writes are then tracked by write-protection. It goes with `Paging::kEpt`, and without a reverse
  // map, private memory and `execute_4k_only`.
  bool nested = false;
  // Remembers frames without memory as misconfigured entries: their next access is a cheap exit 49.
  bool mmio_caching = true;
  // Keeps a reverse map from frames to the entries that map them, as Linux 3.11 did for its direct
  // tables: the textbook's MMU, slower by design. Writes are then tracked by write-protection.
  bool reverse_map = false;
  // Makes memory executable as 4 KiB alone: large leaves lack X, and a fetch splits them (KVM's
  // nx_huge_pages). It is for CPUs on which an instruction fetch through two page sizes can stop
  // the machine (iTLB multihit, CVE-2018-12207). `Vm::CollapseRange` makes large leaves, without X,
  // of what was split.
  bool execute_4k_only = false;
  // Says whether to use mode-based execute control for EPT: views may then allow execution to
  // user-mode and supervisor-mode linear addresses separately. The embedder sets the VM-execution
  // control as this says.
  Use execute_by_mode = Use::kNever;
  // Says whether to use EPT-violation #VE: every entry suppresses it unless `Vm::SetRaisesVe` says
  // otherwise. The embedder sets the VM-execution control as this says.
  Use virtualization_exceptions = Use::kNever;
  // Lets frames be private to the guest (`Vm::SetMemoryAttributes`), and slots have memory for that
  // (`MemoryRegion::private_hva`).
  bool private_memory = false;
  // A clock in nanoseconds. If it is set, `VmStats::writer_section_ns` counts the time in writers'
  // sections by it.
  uint64_t (*section_clock)() = nullptr;
};

// Returns OK, or InvalidArgument (a value out of range, or a pair that does not go together:
// docs/options.md has every pair) or FailedPrecondition (a power that the backend lacks), naming
// field and value.
absl::Status CheckVmOptions(const VmOptions& options, const Capabilities& capabilities);

// Returns the width of a guest physical address that `options` ask for, in bits.
int GuestPhysicalBits(const VmOptions& options);
// Returns the width that the addresses of slots may have, in bits.
int SlotAddressBits(const VmOptions& options, const Capabilities& capabilities);
// Returns whether A and D bits are in use.
bool UsesAccessedDirty(const VmOptions& options, const Capabilities& capabilities);
// Each returns whether that power, MBEC or #VE, is in use.
bool UsesExecuteByMode(const VmOptions& options, const Capabilities& capabilities);
bool UsesVirtualizationExceptions(const VmOptions& options, const Capabilities& capabilities);
// Returns the dirty tracking in use: never `kBest`.
DirtyTracking DirtyTrackingInUse(const VmOptions& options, const Capabilities& capabilities);
// Returns the largest leaf level in use.
Level MaxLeafLevel(const VmOptions& options, const Capabilities& capabilities);

}  // namespace tdp

#endif  // TDP_MMU_VM_OPTIONS_H_
