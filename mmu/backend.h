// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The seam between the engine and the machine it runs on. A port implements `Backend` and nothing
// else; `backends/minimal` is the smallest one that works and docs/writing_a_backend.md walks
// through it.
//
// Every call here is rare: tables come in blocks, the host is asked once per fault (a shadow fault
// asks for the pages beside it as well), and what is hot (a walk) is loads and adds through the
// direct map.

#ifndef TDP_MMU_BACKEND_H_
#define TDP_MMU_BACKEND_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/format/ept_capabilities.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/table_block.h"

namespace tdp {

// Names a vCPU of one `Vm`: dense, from 0, and used again after its `Vcpu` is destroyed.
using VcpuId = uint32_t;

// Tells what the machine offers. The engine reads it once, when the `Vm` is made: asking for a
// power that is not here fails there, not at the first fault.
struct Capabilities {
  EptCapabilities ept;             // walk lengths, 2M/1G leaves, A/D, execute-only, INVEPT types
  int physical_address_bits = 46;  // MAXPHYADDR, 32 to 52
  bool mbec = false;               // mode-based execute control for EPT
  bool pml = false;                // page-modification logging
  bool spp = false;                // sub-page write permissions
  bool ve = false;                 // EPT-violation #VE
  bool eptp_switching = false;     // VMFUNC leaf 0
  bool shadow_paging = false;      // guests can run without EPT; `InvalidateLinear` does its work
  // Every fault asks `Backend::ResolvePage`; that costs a little more, and prefault goes by page.
  bool resolves_pages = false;
  // A table at `hpa` is reachable at the pointer `hpa + direct_map_offset` (mod 2^64). The same
  // holds for guest memory in which the engine reads the guest's own tables: with
  // `Vcpu::WalkGuest`, `Paging::kShadow` and `VmOptions::nested`, frames that slots and views name
  // included.
  uintptr_t direct_map_offset = 0;
};

// A host page: what stands behind a host virtual address.
struct HostPage {
  Hfn hfn;        // the frame of the address asked for
  int order = 0;  // the naturally aligned 2^order frames around `hfn` are one piece of host memory,
                  // contiguous in hva too and with the same rights; 0 to 18, larger is cut to 18
  bool writable = true;
  MemoryType memory_type = MemoryType::kWriteBack;

  static constexpr int kLargestOrder = 18;
  // Returns how many frames that piece has.
  constexpr PageCount piece() const {
    return PageCount(uint64_t{1} << std::clamp(order, 0, kLargestOrder));
  }
};

// A page that the engine asks for, with what `Backend::Resolve` is told and whom the page is for.
struct PageRequest {
  Hva hva;
  Access access;
  Gfn gfn;
  AddressSpaceId address_space = 0;
  uint32_t slot = 0;
  uint64_t cookie = 0;      // of the slot
  bool is_private = false;  // `hva` is in the slot's memory for private frames
};

// Host pages in a row: contiguous in hva and in frames, with the same rights and type.
struct HostRun {
  HostPage page;  // the first
  PageCount pages;
};

class Backend;

namespace internal {
// Does what `Backend::ResolveRange` promises by calls of `Resolve`.
absl::StatusOr<size_t> ResolveByPage(Backend& backend, Hva hva, PageCount pages, Access access,
                                     absl::Span<HostRun> runs);
}  // namespace internal

// A backend does what the engine needs of its machine. Thread-safe: any thread may make any call at
// any time, except where a call says otherwise. No call may call back into the `Vm`.
class Backend {
 public:
  virtual ~Backend() = default;

  // Returns what the machine offers. It is constant for the life of the backend, and the call is
  // quick.
  virtual const Capabilities& capabilities() const = 0;

  // Returns `kTableBlockBytes` of memory, aligned to that, physically contiguous and inside the
  // direct map; its content does not matter. ResourceExhausted if there is none: the operation
  // under way then fails as a whole and can be tried again. The engine calls it with no lock of its
  // own held, so it may wait for what other threads do with the `Vm`: for pages of guests that are
  // taken back, say.
  virtual absl::StatusOr<Hpa> AllocateTableBlock() = 0;

  // Takes back a block. No CPU can reach it any more.
  virtual void FreeTableBlock(Hpa block) = 0;

  // Returns the host page behind `hva` for an access of `access`, which may be of no kind: brings
  // the page in, breaks its sharing, and so on. May block; the engine holds no lock, and may ask
  // for the same page again. `Vm::InvalidateHostRange` says what the answer obliges to: whoever
  // takes the page away tells the `Vm`. Errors: PermissionDenied if the host has no such right
  // there, NotFound if nothing is mapped there (both reach the embedder as the fault's status);
  // Unavailable if the page may come later (the fault ends as `FaultOutcome::kBlocked`).
  virtual absl::StatusOr<HostPage> Resolve(Hva hva, Access access) = 0;

  // The engine calls this in place of `Resolve` and `ResolveRange` if
  // `Capabilities::resolves_pages` is set. The errors are those of `Resolve`.
  virtual absl::StatusOr<HostPage> ResolvePage(const PageRequest& request) {
    return Resolve(request.hva, request.access);
  }

  // Does what `Resolve` does for the `pages` pages from `hva` on, of which there is at least one,
  // as far as they fit into `runs`, which is not empty: returns how many runs were filled in. The
  // first begins at `hva`, each next one where the one before ends; fewer pages than asked for is
  // no error, and more are cut off. The errors are those of `Resolve` for the first page. The
  // default asks `Resolve` page by page (a large page at once); a port that knows better makes
  // prefault faster, and faults of shadowed and nested guests, which ask for a few pages beside
  // their own.
  virtual absl::StatusOr<size_t> ResolveRange(Hva hva, PageCount pages, Access access,
                                              absl::Span<HostRun> runs) {
    return internal::ResolveByPage(*this, hva, pages, access, runs);
  }

  // Drops the guest-physical and combined translations of `root` (INVEPT single-context) from the
  // CPU that it is called on, which is about to run `vcpu`. The vCPU's thread calls it outside the
  // guest.
  virtual void Invalidate(VcpuId vcpu, Eptp root) = 0;

  // Drops those of every root (INVEPT all-context), under the same conditions.
  virtual void InvalidateAll(VcpuId vcpu) = 0;

  // Drops the linear translations of `vcpu` (INVVPID single-context), under the same conditions.
  // The engine calls it only where the guest's paging is shadowed. Nothing has to be done for vCPUs
  // without a VPID, whose entries drop them.
  virtual void InvalidateLinear(VcpuId /*vcpu*/) {}

  // Makes each of `vcpus` leave the guest soon (an IPI or NMI that causes an exit). A kick that
  // arrives between `Vcpu::EnterGuest` and the entry itself must not be lost: the entry then exits
  // at once. It need not wait: the engine waits for the vCPU to hand its `GuestEntry` back. Several
  // threads may call it at once, with no lock of the engine held but `Vm`'s own for its changes. A
  // vCPU may have left the guest meanwhile, its `Vcpu` may be gone or its id another's: such a kick
  // does no harm.
  virtual void Kick(absl::Span<const VcpuId> vcpus) = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_BACKEND_H_
