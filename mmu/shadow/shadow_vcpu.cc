// SPDX-License-Identifier: Apache-2.0
//
// The fault.

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/shadow/shadow_sync.h"

namespace tdp {
namespace {

// Tries that find a table's page missing, a root zapped, and so on. More of them mean that someone
// is as fast.
constexpr int kTries = 64;
// Pages zapped at a time where tables or the quota have run out.
constexpr size_t kRecycleBatch = 32;
// Roots of other vCPUs that are zapped at a time, where there is nothing else: two vCPUs' in PAE
// paging.
constexpr size_t kRootsAtOnce = 8;
// Times that what was recycled may have gone to other vCPUs.
constexpr int kRestocks = 8;
// How many shadow pages a fault or a root can add.
constexpr size_t kPagesPerFault = 5;

PagingFaultResult Error(absl::Status status) {
  PagingFaultResult result;
  result.outcome = PagingOutcome::kError;
  result.status = std::move(status);
  return result;
}

}  // namespace

ShadowVcpu::ShadowVcpu(const ShadowParts& parts, const FlushClock::Member& member,
                       GuestWindow& window)
    : parts_(parts),
      member_(member),
      window_(window),
      shadow_(parts.shadows[0].get()),
      reader_(parts.mmu_lock),
      slots_(parts.slots),
      table_slots_(parts.slots),
      stock_(shadow_->pool(), parts.pools) {}

absl::Status ShadowVcpu::CheckOutside() const {
  if (!member_.is_in_guest()) return absl::OkStatus();
  return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
}

// --- The fault -----------------------------------------------------------------------------------

PagingFaultResult ShadowVcpu::HandlePageFault(Gva gva, uint32_t error_code, bool excused) {
  using namespace guest;
  PagingFaultResult result;
  if (absl::Status bad = CheckOutside(); !bad.ok()) return Error(std::move(bad));
  if ((error_code & ~(kFaultPresent | kFaultWrite | kFaultUser | kFaultFetch)) != 0) {
    return Error(absl::InvalidArgumentError(
        absl::StrFormat("error_code 0x%x: shadow tables cause no such fault", error_code)));
  }
  Fault fault;
  fault.gva = gva;
  fault.access = (error_code & kFaultFetch) != 0   ? GuestAccess::Fetch()
                 : (error_code & kFaultWrite) != 0 ? GuestAccess::Write()
                                                   : GuestAccess::Read();
  if ((error_code & kFaultUser) != 0) {
    fault.access = fault.access.ByUser();
  } else if (excused) {
    fault.access = fault.access.ExcusedFromSmap();
  }
  result.outcome = PagingOutcome::kRetry;
  for (int i = 0; i < kTries; ++i) {
    const Next next = Try(fault, result);
    if (ABSL_PREDICT_TRUE(next == Next::kDone)) break;
    bool no_memory = false;
    if (absl::Status status = Prepare(next, no_memory); !status.ok()) {
      result = absl::IsUnavailable(status) ? PagingFaultResult{PagingOutcome::kBlocked}
                                           : Error(std::move(status));
      break;
    }
    if (no_memory && walk_.outcome == GuestWalkOutcome::kNeedsPage) {
      result.outcome = PagingOutcome::kNoTable;
      result.gpa = walk_.gpa;
      break;
    }
    result.outcome = PagingOutcome::kRetry;
  }
  // A page fault drops what is cached for its address (SDM vol. 3A, 5.10.4.1).
  if (result.outcome == PagingOutcome::kGuestFault) {
    InvalidateIn(gva, [this](const ShadowRoot& root) { return &root == &root_; });
  }
  Count(result.outcome);
  return result;
}

// Life of a shadow fault, top to bottom. docs/shadow.md has the reasons.
ShadowVcpu::Next ShadowVcpu::Try(Fault& fault, PagingFaultResult& result) {
  stock_.Refill().IgnoreError();  // without tables it may still go well
  fault.sequence = parts_.sequence.Current();
  if (const Next next = Walk(fault, result); next != Next::kAgain) return next;
  if (const Next next = FindMemory(fault, result); next != Next::kAgain) return next;

  const Access needed = fault.access.is_write() ? Access::Write() : Access::Read();
  absl::StatusOr<HostPage> page = parts_.backend.Resolve(fault.hva, needed);
  if (!page.ok()) {
    result = absl::IsUnavailable(page.status()) ? PagingFaultResult{PagingOutcome::kBlocked}
                                                : Error(page.status());
    return Next::kDone;
  }
  fault.page = &*page;

  PendingFlush flush;
  Next next;
  {
    MmuReadSection section(reader_);
    const SpinLockHolder hold(shadow().lock());
    if (parts_.sequence.MovedSince(fault.sequence, fault.hva)) return Next::kAgain;
    page->order = parts_.sequence.StableOrder(fault.hva, page->hfn, page->order);
    ShadowZap zap;
    next = Install(fault, zap, result);
    flush = shadow().Commit(std::move(zap));
  }
  shadow().Settle(std::move(flush));
  return next;
}

// Through the guest's tables. kAgain: they map the address, and `fault.path` says how.
ShadowVcpu::Next ShadowVcpu::Walk(Fault& fault, PagingFaultResult& result) {
  {
    MmuReadSection section(reader_);
    GvaToGpa(paging_, roots_, window_, fault.gva, fault.access, walk_);
  }
  switch (walk_.outcome) {
    case GuestWalkOutcome::kMapped:
      TakePath(fault);
      return Next::kAgain;
    case GuestWalkOutcome::kNeedsPage:
      return Next::kFetch;
    case GuestWalkOutcome::kPageFault:
      result.outcome = PagingOutcome::kGuestFault;
      result.error_code = walk_.error_code;
      return Next::kDone;
    case GuestWalkOutcome::kNoMemory:
    case GuestWalkOutcome::kNestedFault:
      break;  // not of this memory
    case GuestWalkOutcome::kNonCanonical:
      result = Error(absl::InvalidArgumentError(
          absl::StrFormat("gva 0x%x is not canonical: it causes no #PF", fault.gva.raw())));
      return Next::kDone;
  }
  return Next::kDone;
}

void ShadowVcpu::TakePath(Fault& fault) const {
  ShadowPath& path = fault.path;
  path.gfn = Gfn::Of(walk_.gpa);
  if (paging_.mode() == PagingMode::kNone) {
    path.leaf_level = ShadowPath::kNoTables;
    path.rights = GuestRights::kAll;
    return;
  }
  path.leaf_level = walk_.level;
  for (int level = walk_.top; level >= walk_.level; --level) {
    const auto at = static_cast<size_t>(level);
    path.steps[at] = {walk_.entries[at], walk_.entry_addresses[at], walk_.table_rights[at].raw()};
  }
  const uint64_t leaf = walk_.entries[static_cast<size_t>(walk_.level)];
  // A write has set D, unless it cannot be set.
  path.rights =
      fault.access.is_write() ? walk_.rights.raw() : PagingGuest::Clean(walk_.rights, leaf).raw();
}

// kAgain: there is memory behind the address, and it may be accessed.
ShadowVcpu::Next ShadowVcpu::FindMemory(Fault& fault, PagingFaultResult& result) {
  result.gpa = walk_.gpa;
  fault.slot = slots_.Find(space_, fault.path.gfn);
  const bool write = fault.access.is_write();
  if (fault.slot == nullptr || (write && !fault.slot->invalid && fault.slot->is_read_only())) {
    result.outcome = PagingOutcome::kMmio;
    return Next::kDone;
  }
  if (fault.slot->invalid) {
    result.outcome = PagingOutcome::kRetry;
    return Next::kDone;
  }
  fault.hva = fault.slot->HvaOf(fault.path.gfn);
  fault.log_write = fault.slot->logs_dirty_pages() && write;
  return Next::kAgain;
}

// Under the lock.
ShadowVcpu::Next ShadowVcpu::Install(Fault& fault, ShadowZap& zap, PagingFaultResult& result) {
  if (const Next next = HasRooms(fault); next != Next::kDone) return next;
  ShadowPage* root = root_.PageOf(fault.gva);
  if (root == nullptr || !IsCurrent(root_)) return Next::kLoadRoot;
  if (shadow().IsFull(kPagesPerFault)) return Next::kTables;
  if (NeedsSmapEmulation(fault)) {
    result.outcome = PagingOutcome::kEmulateWrite;
    return Next::kDone;
  }

  Fetch fetch(shadow(), window_, table_slots_, stock_, zap);
  const PagingGuest guest(paging_, root_.role);
  ShadowSyncer<PagingGuest> syncer(shadow(), guest, stock_.descriptors, zap);
  const Level goal = GoalOf(fault);
  FetchOutcome outcome = fetch.Reach(
      *root, fault.gva.raw(), fault.path, goal,
      [&syncer](ShadowPage& page, const std::byte* table) { return syncer.Sync(page, table); });
  if (outcome != FetchOutcome::kInstalled) return AfterFetch(outcome, fetch);
  // A table of the walk itself may lie in the page, and be tracked only now.
  if (goal > kLevel4K && fault.slot->state->MaxLevel(fault.path.gfn) < goal) return Next::kAgain;

  const bool writable = MayWrite(fault, goal);
  if (fault.access.is_write() && !writable) {
    // The host was asked for a page to be written: if it gave none, it is changing its mind.
    result.outcome = fault.page->writable ? PagingOutcome::kEmulateWrite : PagingOutcome::kRetry;
    return Next::kDone;
  }
  SlotRmap& rmap = *shadow().RmapOf(fault.path.gfn);
  outcome = fetch.Set(fault.path, LeafOf(fault, goal, writable), rmap);
  if (outcome != FetchOutcome::kInstalled && outcome != FetchOutcome::kSpurious) {
    return AfterFetch(outcome, fetch);
  }
  result.outcome =
      outcome == FetchOutcome::kInstalled ? PagingOutcome::kFixed : PagingOutcome::kSpurious;
  result.level = goal;
  if (fault.log_write) MarkDirty(fault);
  if (outcome == FetchOutcome::kInstalled && goal == kLevel4K && fault.page->order > 0) {
    Prefetch(fault, *fetch.page(), fetch.index());
  }
  return Next::kDone;
}

// Whether the log and the reverse map have memory for the page; if not, notes what needs it.
ShadowVcpu::Next ShadowVcpu::HasRooms(const Fault& fault) {
  const Gfn gfn = fault.path.gfn;
  const std::shared_ptr<SlotRmap>& rmap = shadow().RmapOf(gfn);
  // The slot comes before its reverse map is seen, or the other way round: for a moment.
  if (ABSL_PREDICT_FALSE(rmap == nullptr)) return Next::kAgain;
  if (ABSL_PREDICT_FALSE(!rmap->IsPrepared(gfn))) {
    rooms_.rmap = rmap;
    rooms_.gfn = gfn;
    return Next::kMakeRoom;
  }
  if (!fault.log_write) return Next::kDone;
  DirtyLog* log = fault.slot->state->dirty_log();
  const uint64_t index = fault.slot->IndexOf(gfn);
  if (log == nullptr || ABSL_PREDICT_TRUE(log->IsPrepared(index))) return Next::kDone;
  rooms_.log = fault.slot->state->shared_log();
  rooms_.log_index = index;
  return Next::kMakeRoom;
}

ShadowVcpu::Next ShadowVcpu::AfterFetch(FetchOutcome outcome, const Fetch& fetch) {
  switch (outcome) {
    case FetchOutcome::kInstalled:
    case FetchOutcome::kSpurious:
      return Next::kDone;
    case FetchOutcome::kChanged:
    case FetchOutcome::kFlushFirst:
      return Next::kAgain;
    case FetchOutcome::kNeedsTables:
      return Next::kTables;
    case FetchOutcome::kNeedsTracking:
      rooms_.tracking = fetch.short_of_tracking;
      rooms_.gfn = fetch.gfn_without_tracking;
      return Next::kMakeRoom;
    case FetchOutcome::kNeedsPage:
      return Next::kFetch;
  }
  return Next::kAgain;
}

// --- The leaf ------------------------------------------------------------------------------------

// The largest leaf that the guest's leaf, the slot and the host's page allow. 1 GiB is left to
// tables of 2 MiB: whether the CPU has such pages in its own paging is not known here.
Level ShadowVcpu::GoalOf(const Fault& fault) const {
  const Level host =
      parts_.policy.LargestLevel(*fault.slot, fault.path.gfn, *fault.page, Access::Read());
  return std::min({host, Level(fault.path.leaf_level), kLevel2M});
}

// With CR0.WP clear a supervisor writes a read-only user page. The shadow makes it a supervisor's
// page for that time, which SMAP would not guard: such a write is emulated.
bool ShadowVcpu::NeedsSmapEmulation(const Fault& fault) const {
  const GuestRights rights(fault.path.rights);
  return fault.access.is_write() && !rights.writable() && rights.user() &&
         (paging_.controls().cr4 & guest::kCr4Smap) != 0;
}

// What the leaf says where CR0.WP is clear and a supervisor writes a page without W: W, but for
// supervisors alone. A user's access takes it back. With SMEP the supervisor must not execute it
// (KVM's FNAME(page_fault)).
GuestRights ShadowVcpu::Emulated(const Fault& fault, GuestRights rights) const {
  if (!fault.access.is_write() || rights.writable()) return rights;
  const bool smep = (paging_.controls().cr4 & guest::kCr4Smep) != 0;
  const unsigned lost = rights.user() ? GuestRights::kUser | (smep ? GuestRights::kExecute : 0) : 0;
  return GuestRights((rights.raw() | GuestRights::kWrite) & ~lost);
}

// Whether the leaf may have W at all. Under the lock; a write to a tracked table of leaves lets it
// go unsync.
bool ShadowVcpu::MayWrite(const Fault& fault, Level level) {
  const MemorySlot& slot = *fault.slot;
  if (slot.is_read_only() || !fault.page->writable) return false;
  const bool write = fault.access.is_write();
  if (slot.logs_dirty_pages() && !write) return false;
  if (level > kLevel4K) return true;  // no large leaf stands where a page is tracked
  return !shadow().MustTrack(fault.path.gfn, slot.state->permits(), write);
}

PagingEntry ShadowVcpu::LeafOf(const Fault& fault, Level level, bool writable) const {
  GuestRights rights = Emulated(fault, GuestRights(fault.path.rights));
  if (!writable) rights = rights & GuestRights(GuestRights::kAll & ~GuestRights::kWrite);
  const Hfn frame = fault.page->hfn.AlignDown(level.pages());
  PagingEntry leaf = PagingEntry::Leaf(frame, level, rights);
  if (fault.page->writable && !fault.slot->is_read_only()) leaf = leaf.WithHostWritable();
  return fault.page->memory_type == MemoryType::kUncacheable ? leaf.WithUncached() : leaf;
}

// After the page was made writable, not before: docs/locking.md shows what the other order loses.
void ShadowVcpu::MarkDirty(const Fault& fault) {
  if (DirtyLog* log = fault.slot->state->dirty_log())
    log->Mark(fault.slot->IndexOf(fault.path.gfn));
}

// --- Neighbours ----------------------------------------------------------------------------------

// Entries around the one that was set, where the guest's tables map what lies in the same host page
// and the shadow has nothing (KVM's FNAME(pte_prefetch)): the host need not be asked again.
void ShadowVcpu::Prefetch(const Fault& fault, ShadowPage& page, int index) {
  constexpr int kWindow = 8;
  constexpr int kSpareTables = 3;
  const std::byte* table = nullptr;
  if (!page.is_direct()) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    table = window_.Reach(page.gfn.address(), false, why);
    if (table == nullptr) return;
  }
  const Gfn gfn = fault.path.gfn;
  const PageCount size(uint64_t{1} << fault.page->order);
  const Hfn frames = fault.page->hfn.AlignDown(size);
  const uint64_t inside = (fault.page->hfn - frames).raw();
  const int first = index & ~(kWindow - 1);
  for (int i = first; i < first + kWindow; ++i) {
    LeafOrigin origin;
    if (PagingShadow::At(page, i).Load().is_present()) continue;
    if (!PrefetchOrigin(page, i, table, origin)) continue;
    // Where the page lies in the host's, which begins `inside` frames before `gfn`.
    const uint64_t place = origin.gfn().raw() - gfn.raw() + inside;
    if (place >= size.raw() || !fault.slot->Contains(origin.gfn())) continue;
    SlotRmap& rmap = *shadow().RmapOf(gfn);
    if (!rmap.IsPrepared(origin.gfn()) || stock_.tables.size() < kSpareTables) continue;
    Fault neighbour = fault;
    HostPage host = *fault.page;
    host.hfn = frames + PageCount(place);
    neighbour.access = fault.access.is_user() ? GuestAccess::Read().ByUser() : GuestAccess::Read();
    neighbour.path.gfn = origin.gfn();
    neighbour.path.rights = origin.rights();
    neighbour.page = &host;
    const bool writable = MayWrite(neighbour, kLevel4K);
    if (!shadow().SetLeaf(page, i, LeafOf(neighbour, kLevel4K, writable), origin, rmap, stock_)) {
      return;
    }
  }
}

bool ShadowVcpu::PrefetchOrigin(ShadowPage& page, int index, const std::byte* table,
                                LeafOrigin& origin) const {
  if (page.is_direct()) {
    origin = page.OriginOf(index);
    return true;
  }
  const PagingGuest guest(paging_, root_.role);
  return guest.Leaf(GuestEntryBehind(page, index, table), page.role, origin);
}

// --- Between two tries ---------------------------------------------------------------------------

absl::Status ShadowVcpu::Prepare(Next next, bool& no_memory) {
  switch (next) {
    case Next::kDone:
    case Next::kAgain:
      return absl::OkStatus();
    case Next::kFetch:
      return FetchPage(no_memory);
    case Next::kMakeRoom:
      return MakeRoom();
    case Next::kTables:
      return Restock();
    case Next::kLoadRoot: {
      ShadowRoot root;
      TDP_RETURN_IF_ERROR(LoadRoot(paging_, roots_, root));
      Release(root_);
      root_ = root;
      LoadRegisters();
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status ShadowVcpu::FetchPage(bool& no_memory) {
  GuestWalkOutcome outcome = GuestWalkOutcome::kMapped;
  TDP_RETURN_IF_ERROR(window_.Fetch(outcome));
  no_memory = outcome == GuestWalkOutcome::kNoMemory;
  return absl::OkStatus();
}

// The shared pointers keep what is made room in, while it is.
absl::Status ShadowVcpu::MakeRoom() {
  const Rooms rooms = std::exchange(rooms_, Rooms());
  if (rooms.log != nullptr) TDP_RETURN_IF_ERROR(rooms.log->Prepare(rooms.log_index));
  if (rooms.rmap != nullptr) TDP_RETURN_IF_ERROR(rooms.rmap->Prepare(rooms.gfn));
  if (rooms.tracking != nullptr) {
    TDP_RETURN_IF_ERROR(rooms.tracking->PrepareWriteTracking(rooms.gfn));
  }
  return absl::OkStatus();
}

// Tables ran out or the quota is full. What one thread has recycled another may take first.
absl::Status ShadowVcpu::Restock() {
  absl::Status status;
  for (int i = 0; i < kRestocks; ++i) {
    if (!Recycle()) {
      return absl::ResourceExhaustedError("no shadow page and no table is left to be recycled");
    }
    status = stock_.Refill();
    if (status.ok()) break;
  }
  return status;
}

// Whether there are more pages or tables to be had now.
bool ShadowVcpu::Recycle() {
  bool is_full;
  {
    MmuReadSection section(reader_);
    const SpinLockHolder hold(shadow().lock());
    is_full = shadow().IsFull(kPagesPerFault);
  }
  if (is_full) return RecycleQuota();
  return parts_.recycler.RecycleTables(ShadowStock::kTables) != 0 || ReleaseCachedRoots();
}

// Oldest first, as KVM's kvm_mmu_zap_oldest_mmu_pages. Where the quota is full of roots, those that
// this vCPU keeps for later go, then those of other vCPUs.
bool ShadowVcpu::RecycleQuota() {
  PendingFlush flush;
  size_t zapped;
  {
    MmuReadSection section(reader_);
    const SpinLockHolder hold(shadow().lock());
    ShadowZap zap;
    zapped = shadow().ZapOldest(kRecycleBatch, stock_.descriptors, zap);
    flush = shadow().Commit(std::move(zap));
  }
  shadow().Settle(std::move(flush));
  if (zapped != 0 || ReleaseCachedRoots()) return true;
  {
    MmuReadSection section(reader_);
    const SpinLockHolder hold(shadow().lock());
    ShadowZap zap;
    zapped = shadow().ZapHeld(kRootsAtOnce, root_.pages, stock_.descriptors, zap);
    flush = shadow().Commit(std::move(zap));
  }
  shadow().Settle(std::move(flush));
  return zapped != 0;
}

// Their pages can be recycled then. Whether there were any.
bool ShadowVcpu::ReleaseCachedRoots() {
  bool any = false;
  for (ShadowRoot& root : previous_.roots()) {
    any |= root.is_loaded;
    Release(root);
  }
  return any;
}

// --- Emulated writes -----------------------------------------------------------------------------

absl::Status ShadowVcpu::EmulateWrite(Gpa gpa, ByteCount size,
                                      absl::FunctionRef<void(std::byte* place)> store) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  if (size == 0 || gpa.page_offset() + size > kPageSize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size %u at gpa 0x%x: must be within one page", size, gpa.raw()));
  }
  for (int i = 0; i < kTries; ++i) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    if (TryStore(gpa, store, why)) return OnWritten(gpa, size);
    if (why == GuestWalkOutcome::kMapped) {
      return absl::PermissionDeniedError(
          absl::StrFormat("gpa 0x%x is read-only memory", gpa.raw()));
    }
    bool no_memory = false;
    TDP_RETURN_IF_ERROR(FetchPage(no_memory));
    if (no_memory) {
      return absl::NotFoundError(absl::StrFormat("no memory at gpa 0x%x", gpa.raw()));
    }
  }
  return absl::UnavailableError(
      absl::StrFormat("guest memory at gpa 0x%x is changing: try again", gpa.raw()));
}

bool ShadowVcpu::TryStore(Gpa gpa, absl::FunctionRef<void(std::byte* place)> store,
                          GuestWalkOutcome& why) {
  MmuReadSection section(reader_);
  std::byte* place = window_.Reach(gpa, true, why);
  if (place == nullptr) return false;
  store(place);
  window_.Wrote(gpa);
  return true;
}

absl::Status ShadowVcpu::OnWritten(Gpa gpa, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  if (size == 0 || gpa.raw() + size - 1 < gpa.raw()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size 0x%x at gpa 0x%x: must not be none, and not wrap", size, gpa.raw()));
  }
  while (size != 0) {
    const ByteCount inside = std::min(size, kPageSize - gpa.page_offset());
    for (const std::unique_ptr<PagingShadow>& shadow : parts_.shadows) {
      OnWrittenIn(*shadow, gpa, inside);
    }
    size -= inside;
    gpa = gpa + inside;
  }
  return absl::OkStatus();
}

// Within one page. The address spaces may show the same memory at the same address, so it is the
// table of each.
void ShadowVcpu::OnWrittenIn(PagingShadow& shadow, Gpa gpa, ByteCount size) {
  PendingFlush flush;
  {
    MmuReadSection section(reader_);
    const SpinLockHolder hold(shadow.lock());
    ShadowZap zap;
    shadow.OnWrite(gpa, size, stock_.descriptors, zap);
    // What another thread has just dropped for the same bytes some CPU may still have.
    zap.flush |= shadow.IsUnsettled();
    flush = shadow.Commit(std::move(zap));
  }
  shadow.Settle(std::move(flush));
}

// --- Counting ------------------------------------------------------------------------------------

void ShadowVcpu::Count(PagingOutcome outcome) { outcomes_[static_cast<size_t>(outcome)].Add(); }

void ShadowVcpu::AddTo(FaultStats& stats) const {
  const auto count = [this](PagingOutcome outcome) {
    return outcomes_[static_cast<size_t>(outcome)].value();
  };
  stats.fixed += count(PagingOutcome::kFixed);
  stats.spurious += count(PagingOutcome::kSpurious);
  stats.retry += count(PagingOutcome::kRetry);
  stats.mmio += count(PagingOutcome::kMmio);
  stats.blocked += count(PagingOutcome::kBlocked);
  stats.errors += count(PagingOutcome::kError);
  stats.guest_faults += count(PagingOutcome::kGuestFault);
  stats.emulated_writes += count(PagingOutcome::kEmulateWrite);
}

}  // namespace tdp
