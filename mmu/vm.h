// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The public face of the engine: one guest's physical memory.

#ifndef TDP_MMU_VM_H_
#define TDP_MMU_VM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/dirty_pages.h"
#include "tdp/memslot/guest_memory.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/guest_memory_types.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/pending_flush.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

class Change;  // tdp/mmu/vm/change.h
class Engine;

// Says what `Vm::AgeHostRange` found, and carries the flush that it owes.
struct [[nodiscard]] AgeResult {
  bool young = false;  // the guest has used some page of it since it was last aged
  PendingFlush flush;
};

// One guest's physical memory: its slots and the tables that map them.
//
// Thread-safe. A thread that holds a `GuestEntry` of this `Vm` calls nothing here but `Stats`,
// `Translate` and `MarkDirty`: what waits for vCPUs to leave the guest would wait for the caller.
// Those three wait for nobody who waits for a vCPU.
//
// "When it returns" below holds whatever other threads are at: where another operation has taken a
// mapping away and not settled its flush yet, this one makes sure of that flush, too
// (docs/locking.md, "Promises").
class Vm : public GuestMemory {
 public:
  // Makes a VM on `backend`, which outlives it. InvalidArgument or FailedPrecondition, naming field
  // and value, for options out of range or beyond the backend's powers; ResourceExhausted without
  // memory for the root tables.
  static absl::StatusOr<std::unique_ptr<Vm>> Create(Backend& backend,
                                                    const VmOptions& options = {});
  // By then every `Vcpu` is gone and every `PendingFlush` is settled.
  ~Vm() override;

  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // Creates, deletes (size 0), moves or re-flags a slot, by the rules of KVM_SET_USER_MEMORY_REGION
  // in their order. When it returns no vCPU can use what was taken away. InvalidArgument (a bad
  // field, named with its value), AlreadyExists (an overlap), FailedPrecondition (rights that the
  // CPU or the options do not offer), ResourceExhausted (no memory); the slots are then as they
  // were. Allocates; waits for vCPUs to leave the guest.
  absl::Status SetMemoryRegion(const MemoryRegion& region) override;

  // Makes `changes` (tdp/mmu/vm/change.h) together, as their calls would one after the other: each
  // is checked as if those before it were done. If one is refused or lacks memory nothing at all
  // has changed; the status is that call's with "change N: " in front, N from 0. All that is taken
  // away goes in one writer's section and one flush; then what is new appears, and a fault
  // meanwhile may see a part of it. All of them share the tables at hand that split large pages
  // (`ZapRange`). Allocates; waits for vCPUs to leave the guest.
  absl::Status Apply(absl::Span<const Change> changes);

  // Maps [gpa, gpa + size), page-aligned bytes, with all rights that slot, host and view allow, in
  // the largest leaves. It maps host frames without asking anyone (512 GiB are one table below the
  // root), and other memory as `Vcpu::Prefault` of an access of no kind does. W that an earlier log
  // or aging took comes back, unless writes are logged now. No A or D bit is set, but D in frames
  // that a view shows; nothing is marked as written, and no statistic counts it. Returns how many
  // bytes from `gpa` on are mapped, and errors, as `Prefault`; NotFound for a view that is not
  // there, FailedPrecondition with `Paging::kShadow`. Allocates; blocks where the host does; waits
  // for vCPUs to leave the guest only where a page has become another, or a part of a large one,
  // and the host has not said so.
  absl::StatusOr<ByteCount> Populate(Gpa gpa, ByteCount size, AddressSpaceId space = 0,
                                     ViewId view = kBaseView);

  // Makes a vCPU. ResourceExhausted beyond 2^20 vCPUs, or without memory for its dirty ring or,
  // with `Paging::kShadow`, its first root; nothing of it is left then. Allocates; may wait for
  // vCPUs to leave the guest where the guest's paging is shadowed.
  absl::StatusOr<std::unique_ptr<Vcpu>> CreateVcpu();

  // Takes the mappings of `count` frames from `first` on away; the guest faults them in again. CPUs
  // may use what was mapped until the flush is settled, which is the caller's to do. A large page
  // that reaches over an end is split in every view, with up to 32 tables that are kept at hand;
  // where these do not do, or there is no memory for them, it goes as a whole, and with
  // `reverse_map` always. May ask the backend for those tables; waits for no vCPU. Frames beyond
  // the guest's width are ignored. InvalidArgument for an address space that is not there.
  absl::StatusOr<PendingFlush> ZapRange(Gfn first, PageCount count, AddressSpaceId space = 0);
  // Zaps every frame, at a cost that does not depend on their number but with a reverse map and
  // where guests are shadowed or nested: the roots stay (`eptp`), and settling the flush gives all
  // tables below them back. Needs no memory, and waits for no vCPU. InvalidArgument for an address
  // space that is not there.
  absl::StatusOr<PendingFlush> ZapAll(AddressSpaceId space = 0);

  // The host takes [start, start + size) of its virtual memory back or changes what stands there
  // (the MMU notifier of KVM): when this returns, no vCPU can reach the old pages, and no fault
  // that asked for them before can install them any more. Bytes, whole pages, and the range may
  // end with the address space (start + size = 2^64); else InvalidArgument. Waits for vCPUs to
  // leave the guest, and may ask the backend for tables, as `ZapRange`.
  absl::Status InvalidateHostRange(Hva start, ByteCount size);
  // Does what `InvalidateHostRange` does in two calls around the change itself, for hosts that are
  // told before and after: between them faults on the range end with kRetry. Each Begin that
  // succeeds is followed by one End.
  absl::Status BeginHostInvalidation(Hva start, ByteCount size);
  void EndHostInvalidation();

  // Takes every page that was written since the last take, or since logging was switched on, out of
  // the log of slot `slot`, and shows it to `visit` (`DirtyPageVisitor`). Every write that was
  // over before this call is in; each page that is shown will be noticed at its next write, and no
  // CPU writes it unnoticed any more when `visit` is called. `visit` runs under the slots mutex: it
  // calls nothing of this `Vm` but `MarkDirty`, `Stats` and `Translate`. NotFound if there is no
  // such slot or it does not log, FailedPrecondition with rings (`EnableDirtyRing`),
  // ResourceExhausted without memory for a log that began all dirty: nothing is shown then. Notes
  // what it took in memory of its own. Waits for vCPUs to leave the guest, twice at most.
  absl::Status TakeDirtyLog(uint32_t slot, DirtyPageVisitor visit, AddressSpaceId space = 0);

  // These are the dirty log calls of KVM, with its errors (`GuestMemory`). `GetDirtyLog` does what
  // `TakeDirtyLog` does unless manual protection is on: then it shows the dirty pages and leaves
  // them dirty, for `ClearDirtyLog`. A write that a CPU has noted but nobody gathered (D bits, PML)
  // is not cleared: the next call shows its page.
  absl::Status GetDirtyLog(uint32_t slot, DirtyPageVisitor visit,
                           AddressSpaceId space = 0) override;
  absl::Status ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                             absl::Span<const uint64_t> bits, AddressSpaceId space = 0) override;
  absl::Status SetManualDirtyLogProtect(uint64_t flags) override;
  // Deletes the slot and shows to `visit` every write that was over before it went (`GuestMemory`
  // promises less). With rings nothing is shown. Errors as for `SetMemoryRegion`; then nothing is
  // shown and nothing has changed. `visit` runs without a lock, when no vCPU can use the slot.
  absl::Status DeleteSlot(uint32_t slot, DirtyPageVisitor visit, AddressSpaceId space = 0) override;

  // Marks the pages of [gpa, gpa + size) as written, for a VMM or a device (DMA) that has written
  // them through the host: neither faults nor D bits tell of such writes (KVM's mark_page_dirty).
  // Call it after the write. Then the next take of the log shows the page, or one that is under
  // way. With rings `HarvestDirtyRings` shows it; a vCPU is not needed, and no mark is lost for
  // want of room. The bytes may have any alignment: every page that has one of them is marked, and
  // no bytes mark nothing. Slots that do not log, and holes, are passed over; a range may span
  // several slots. It works with every way of finding the guest's own writes. It does not say that
  // a guest's page table was written: that is `ShadowVcpu::OnWritten`.
  //
  // Any thread may call it, a vCPU's in the guest included; it takes no lock of the slots and waits
  // for no vCPU. May allocate, up to a bit for each page of the slot. InvalidArgument for an
  // address space that is not there or bytes beyond the guest's width; ResourceExhausted without
  // memory for a log: what is marked by then stays so, and it can be called again.
  absl::Status MarkDirty(Gpa gpa, ByteCount size, AddressSpaceId space = 0);

  // Logs into a ring of `entries` for each vCPU (`Vcpu::dirty_ring`), in place of bitmaps, from now
  // on: `TakeDirtyLog`, `GetDirtyLog` and `ClearDirtyLog` are FailedPrecondition then. Call it
  // once, before the first vCPU, and with write-protection (`VmOptions::dirty_tracking`): else
  // InvalidArgument. FailedPrecondition while a slot logs into a bitmap already, and with
  // `Paging::kShadow`. `DirtyRing::CheckSize` says which sizes are possible.
  absl::Status EnableDirtyRing(uint64_t entries);
  // Harvests all that is dirty: the ring of each vCPU, those that vCPUs left which are gone, and
  // the pages that no ring has (`MarkDirty`; what the engine wrote for a vCPU whose ring is nearly
  // full), which are kept at a bit for each page of the slot. Shows each entry to `visit`; a page
  // may come more than once. Every write that was over before this call is in, unless its slot is
  // gone. FailedPrecondition without rings. No `DirtyRing::Harvest` may run meanwhile. `visit` runs
  // under the slots mutex: it calls nothing of this `Vm` but `MarkDirty`, `Stats` and `Translate`.
  absl::Status HarvestDirtyRings(absl::FunctionRef<void(const DirtyRingEntry&)> visit);
  // Protects the pages of all harvested entries again, those of vCPUs that are gone included, and
  // frees the entries: read the pages after this. Returns how many entries. When it returns no CPU
  // writes to such a page without a new entry. No `Harvest` of a ring may run meanwhile. Waits for
  // vCPUs to leave the guest.
  uint64_t ResetDirtyRings();

  // Pays now what the first writes to slot `slot` would pay: splits its large leaves and moves the
  // protection of its log down to every 4 KiB page that is mapped. Changes of slots may come in
  // between. At the quota it takes back tables outside of the slot, as `SplitRange` does outside of
  // its range. ResourceExhausted without memory for tables or log: what is done is done, and it can
  // be called again. NotFound if there is no such slot or it does not log, by now too; with rings
  // as with bitmaps.
  absl::Status PushDownDirtyLog(uint32_t slot, AddressSpaceId space = 0);
  // Makes the pages of [start, start + size) of host memory old and says whether any was young
  // (KVM's age_gfn of its MMU notifier). Bytes, as for `InvalidateHostRange`. With A bits no flush
  // is owed but with `nested`: nothing depends on them but this estimate, and a CPU that goes on
  // using a translation it has cached makes a page look old at most until the next flush of any
  // kind; KVM decides the same. Without A bits rights are taken away, and the flush is owed as
  // always then: settle it before long. Private memory, and frames that a slot or a view names, are
  // passed over.
  absl::StatusOr<AgeResult> AgeHostRange(Hva start, ByteCount size);
  // Returns whether any page of [start, start + size) is young; changes nothing.
  absl::StatusOr<bool> TestAge(Hva start, ByteCount size);

  // Splits every leaf larger than `to` (1 or 2) that maps one of `count` frames from `first` on;
  // rights, A and D stay, but for a D that is older than a log which took the leaf's W
  // (`PushDownDirtyLog` does more, for a slot that logs). Guest and faults go on meanwhile. At the
  // quota it takes back tables outside of the range that the guest has not used lately, as a fault
  // does, and waits for their flush. InvalidArgument for an address space or a level that is not
  // there; FailedPrecondition with `Paging::kShadow` or `reverse_map`; ResourceExhausted if tables
  // run out: what is split by then stays so.
  absl::StatusOr<PendingFlush> SplitRange(Gfn first, PageCount count, Level to = kLevel4K,
                                          AddressSpaceId space = 0);

  // Makes large leaves of tables in [first, first + count) where host memory, slot and the leaves
  // that are there agree, in slots that do not log dirty pages; A and D stay. The flush is made.
  // Returns the number of tables that became a leaf. May block in `Backend::Resolve`.
  // InvalidArgument for an address space that is not there, FailedPrecondition as for `SplitRange`.
  absl::StatusOr<uint64_t> CollapseRange(Gfn first, PageCount count, AddressSpaceId space = 0);

  // Sets how guest memory is cached from now on; mappings made before are taken away. When it
  // returns no vCPU uses the old types. InvalidArgument for registers that the CPU would refuse,
  // named with their value; FailedPrecondition for types that count (`non_coherent_dma`) with
  // `Paging::kShadow`, whose tables do not heed them. Allocates; waits for vCPUs to leave the
  // guest.
  absl::Status SetMemoryTypes(const GuestMemoryTypes& types);

  // Sets the most tables that may be in use from now on (`VmOptions::table_quota`), vCPUs' stocks
  // included; with `kQuotaByMemory` that follows memory again. If more are, those that the guest
  // has not used lately are taken away until it is so or none are left, which waits for vCPUs to
  // leave the guest; what is in use stays, and no more come. InvalidArgument for none at all.
  absl::Status SetTableQuota(size_t tables);

  // Sees to it that the next `tables` tables need no memory from the backend: until they are used
  // up no call of this `Vm` or its vCPUs calls `Backend::AllocateTableBlock` (a stock of a vCPU is
  // 32 tables). ResourceExhausted if the quota would not let them be used, or without memory;
  // blocks that came stay. Allocates; waits for nobody.
  absl::Status ReserveTables(size_t tables);
  // Gives blocks of table memory in which no table is in use back to the backend, but keeps one for
  // each vCPU perhaps (KVM's shrinker leaves that to the slab). Returns how many bytes went. A
  // reserve goes, too. Calls `Backend::FreeTableBlock`; waits for nobody.
  ByteCount ReleaseTableMemory();

  // Makes the frames of [gpa, gpa + size) private to the guest, or shared with the host, by
  // `attributes` (0 or `kMemoryAttributePrivate`, as KVM_SET_MEMORY_ATTRIBUTES): private ones are
  // backed by `MemoryRegion::private_hva` of their slot. It holds in every address space, whatever
  // slots are there now or later. Nothing is copied. When it returns no vCPU reaches what the
  // frames were backed by before. With n runs of frames that have the same attribute, of which k
  // lie in the range, this takes O(k + log n), and the zap of the range and its flush.
  // InvalidArgument (an unknown attribute, alignment, no size, beyond the guest's width);
  // FailedPrecondition without `VmOptions::private_memory`. Allocates; waits for vCPUs to leave the
  // guest.
  absl::Status SetMemoryAttributes(Gpa gpa, ByteCount size, uint64_t attributes);

  // --- Views (docs/views.md) ---
  // Every call here fails with NotFound for a view, InvalidArgument for an address space, that is
  // not there.

  // Makes a view of the address space: tables of its own over the same slots, with every right at
  // first. vCPUs run on it after `Vcpu::SetView`. Waits for vCPUs to leave the guest if there is a
  // list of EPTPs (`EptpList`), by which guests may go there at once. FailedPrecondition with
  // `VmOptions::reverse_map` or `VmOptions::nested` (L2 would reach what the view denies L1), or
  // without EPT; ResourceExhausted for the 512th, or without memory for a root.
  absl::StatusOr<ViewId> CreateView(AddressSpaceId space = 0);
  // Takes the view and its tables away. FailedPrecondition while a vCPU is set to it or `Populate`
  // maps there, InvalidArgument for the base. Waits for vCPUs to leave the guest.
  absl::Status DestroyView(ViewId view, AddressSpaceId space = 0);
  // Sets what the view allows of `count` frames from `first` on, whatever slots are there now or
  // later: a leaf has those rights of slot and host that are among these. What is denied ends as
  // `FaultOutcome::kViewDenied`. `UserExecute` counts with `VmOptions::execute_by_mode` only; else
  // it goes with `Execute`. When it returns no vCPU uses the old rights. Frames in a row that have
  // the same rights are one run: a view with n of them is changed in O(k + log n), where k lie in
  // the range, and so 20,000 hooked pages cost 20,000 times what one does; the zap of the range and
  // its flush come on top. InvalidArgument for a range beyond the tables, or W without R;
  // FailedPrecondition for what the backend lacks, and of the base view where `CreateView` is.
  // Allocates; waits for vCPUs to leave the guest.
  absl::Status SetViewRights(ViewId view, Gfn first, PageCount count, Access rights,
                             AddressSpaceId space = 0);
  // Sets how the view caches `count` frames from `first` on, whatever slot, host and the guest's
  // MTRRs say; without `type` these decide again. Costs, errors and waits as `SetViewRights`.
  absl::Status SetViewMemoryType(ViewId view, Gfn first, PageCount count,
                                 std::optional<ViewMemoryType> type, AddressSpaceId space = 0);
  // Shows host frames, from `frames` on, at `count` frames from `first` on in place of the slots'
  // (hidden hooks; Xen's altp2m), or without `frames` the slots' again. They show where a slot has
  // memory, with the rights that it and the view leave, cached as ordinary memory is unless
  // `SetViewMemoryType` says otherwise. The host is not asked. What is written there is not in the
  // slot: no dirty log or ring has it, and aging passes it over. A flip to another view is another
  // EPTP, no flush. Costs, errors and waits as `SetViewRights`.
  absl::Status SetViewFrames(ViewId view, Gfn first, PageCount count, std::optional<Hfn> frames,
                             AddressSpaceId space = 0);
  // Sets whether what the view denies of these frames becomes #VE in the guest. Only those pages
  // raise it that slot, host and dirty log leave to the view alone; other denials end as
  // kViewDenied. Pages that are not there, and MMIO, never raise it. FailedPrecondition without
  // `VmOptions::virtualization_exceptions`, without A and D bits, or with `VmOptions::reverse_map`;
  // InvalidArgument for a range beyond the tables. Costs as `SetViewRights`.
  absl::Status SetRaisesVe(ViewId view, Gfn first, PageCount count, bool raises,
                           AddressSpaceId space = 0);
  // Returns the page that the VMCS names as the list of EPTPs for VMFUNC, indexed by `ViewId`. It
  // is kept true as views come and go and roots change. FailedPrecondition if the backend does not
  // offer it, ResourceExhausted without memory. The first call waits for vCPUs to leave the guest;
  // from then on every flush is of all roots.
  absl::StatusOr<Hpa> EptpList(AddressSpaceId space = 0);

  // Returns what the tables map `gpa` to at this moment; no A/D bit changes. NotFound if nothing,
  // or no such view; InvalidArgument beyond the guest's width.
  absl::StatusOr<Translation> Translate(Gpa gpa, AddressSpaceId space = 0, ViewId view = kBaseView);

  // Shows what the tables of a view map of `count` frames from `first` on, by ascending frame, in
  // runs: for dumps, migration, an IOMMU's mirror. Leaves that reach over an end are cut. Changes
  // no entry. Each run is as it stood at some moment of the call; what faults map or operations
  // take away meanwhile may be shown or not, and one run of the tables may come in two. `visit`
  // runs without a lock and may call whatever its thread may call otherwise. Allocates nothing,
  // kicks nobody. Frames beyond the guest's width are ignored. NotFound if there is no such view,
  // InvalidArgument for an address space that is not there, FailedPrecondition with
  // `Paging::kShadow`.
  absl::Status VisitLeaves(Gfn first, PageCount count,
                           absl::FunctionRef<void(const LeafRun&)> visit, AddressSpaceId space = 0,
                           ViewId view = kBaseView);

  // Returns the pointer that a vCPU loads, for a view that there is. It stays while the view does.
  Eptp eptp(AddressSpaceId space = 0, ViewId view = kBaseView) const;

  VmStats Stats() const;

  // Walks everything and says what does not hold: Internal, naming the entry and the rule. The
  // rules: every entry is legal by the SDM; every leaf lies in a slot, maps the frame that the host
  // gives for it and has no right that the slot denies; every table knows its place; no table is
  // lost or linked twice. For tests and debugging: O(everything), in time and memory; it stops
  // faults while it walks, and asks `Backend::Resolve` for every leaf afterwards. A leaf whose
  // memory changes between the two is not compared with the host.
  absl::Status CheckInvariants();

  const VmOptions& options() const;

 private:
  friend class Walker;

  explicit Vm(std::unique_ptr<Engine> engine);

  std::unique_ptr<Engine> engine_;
};

}  // namespace tdp

#endif  // TDP_MMU_VM_H_
