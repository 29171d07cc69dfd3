// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The fault.

#include "tdp/mmu/shadow/shadow_vcpu_impl.h"

#include <algorithm>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"

namespace tdp {
namespace {

// How often an emulated write may find its page missing. More tries mean that someone is as fast.
constexpr int kTries = 64;

// Returns the access of an error code: of W, U and I the kinds are their order. A fetch is no
// write.
GuestAccess AccessOfErrorCode(uint32_t error_code) {
  static_assert(GuestAccess::Write().raw() == guest::kFaultWrite >> 1 &&
                GuestAccess::Read().ByUser().raw() == guest::kFaultUser >> 1 &&
                GuestAccess::Fetch().raw() == guest::kFaultFetch >> 2);
  const uint32_t fetch = error_code >> 2 & guest::kFaultFetch >> 2;
  const uint32_t writes_and_user = error_code >> 1 & (guest::kFaultWrite | guest::kFaultUser) >> 1;
  return GuestAccess::FromRaw(fetch | (writes_and_user & ~(fetch >> 2)));
}

}  // namespace

ShadowVcpuImpl::ShadowVcpuImpl(const PagingParts& parts, const FlushClock::Member& member,
                               GuestWindow& window)
    : ShadowFaults(parts, member, window, nullptr) {}

// --- The fault -----------------------------------------------------------------------------------

ABSL_ATTRIBUTE_ALWAYS_INLINE inline PagingFaultResult ShadowVcpuImpl::HandlePageFault(
    Gva gva, uint32_t error_code, bool excused) {
  using namespace guest;
  PagingFaultResult result;
  constexpr uint32_t kKnown = kFaultPresent | kFaultWrite | kFaultUser | kFaultFetch;
  if (ABSL_PREDICT_FALSE(member_.is_in_guest() || (error_code & ~kKnown) != 0)) {
    Refuse(error_code, result);
    return result;
  }
  PagingFault fault(walk_);
  fault.address = gva.raw();
  fault.access = AccessOfErrorCode(error_code);
  if (excused && !fault.access.is_user()) fault.access = fault.access.ExcusedFromSmap();
  fault.is_write = fault.access.is_write();
  fault.was_present = (error_code & kFaultPresent) != 0;
  const Next next = Try(fault, result);
  if (ABSL_PREDICT_FALSE(next != Next::kDone)) TryAgain(fault, next, result);
  // A page fault drops what is cached for its address (SDM vol. 3A, 5.10.4.1).
  if (ABSL_PREDICT_FALSE(result.outcome == PagingOutcome::kGuestFault)) {
    InvalidateIn(gva, [this](const ShadowRoot& root) { return &root == &root_; });
  }
  Count(result.outcome);
  return result;
}

PagingFaultResult ShadowVcpu::HandlePageFault(Gva gva, uint32_t error_code, bool excused) {
  return impl_->HandlePageFault(gva, error_code, excused);
}

// Ends a fault that no shadow table can have caused.
void ShadowVcpuImpl::Refuse(uint32_t error_code, PagingFaultResult& result) const {
  result.outcome = PagingOutcome::kError;
  result.status = CheckOutside();
  if (!result.status.ok()) return;
  result.status = absl::InvalidArgumentError(
      absl::StrFormat("error_code 0x%x: shadow tables cause no such fault", error_code));
}

void ShadowVcpuImpl::TryAgain(PagingFault& fault, Next next, PagingFaultResult& result) {
  const auto release = [this] { return ReleaseCachedRoots(); };
  const auto reload = [this] { return ReloadRoot(); };
  Repeat(result, next, [&](PagingFaultResult& to) { return Try(fault, to); }, walk_, reload,
         {root_.pages, release});
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline ShadowVcpuImpl::Next ShadowVcpuImpl::Try(
    PagingFault& fault, PagingFaultResult& result) {
  const Next next = TryBy(
      fault, result, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE { return Walk(fault, result); },
      [&](ShadowZap& zap)
          ABSL_ATTRIBUTE_ALWAYS_INLINE { return InstallBesideOthers(fault, zap, result); });
  return ABSL_PREDICT_TRUE(next != Next::kAlone) ? next : InstallAlone(fault, result);
}

// Walks the guest's tables. `fault.path` says how they map the address.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline ShadowVcpuImpl::Next ShadowVcpuImpl::Walk(
    PagingFault& fault, PagingFaultResult& result) {
  {
    MmuReadSection section(reader_);
    GvaToGpa(paging_, roots_, window_, Gva(fault.address), fault.access, walk_);
    if (ABSL_PREDICT_TRUE(walk_.outcome == GuestWalkOutcome::kMapped)) {
      result.gpa = walk_.gpa;
      TakePath(fault);
      fault.root = root_.PageOf(Gva(fault.address));
      PlanNeighbours(fault, root_.role.wide_entries(), NeighbourOf());
      return Next::kAgain;
    }
  }
  return WalkEnded(fault, result);
}

// Ends a fault whose walk maps nothing.
ShadowVcpuImpl::Next ShadowVcpuImpl::WalkEnded(const PagingFault& fault,
                                               PagingFaultResult& result) const {
  switch (walk_.outcome) {
    case GuestWalkOutcome::kMapped:
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
      result = Error<PagingFaultResult>(absl::InvalidArgumentError(
          absl::StrFormat("gva 0x%x is not canonical: it causes no #PF", fault.address)));
      return Next::kDone;
  }
  return Next::kDone;
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void ShadowVcpuImpl::TakePath(PagingFault& fault) const {
  Path& path = fault.path;
  path.gfn = Gfn::Of(walk_.gpa);
  if (ABSL_PREDICT_FALSE(paging_.mode() == PagingMode::kNone)) {
    path.leaf_level = Path::kNoTables;
    path.rights = GuestRights::kAll;
    return;
  }
  path.leaf_level = walk_.level;
  const uint64_t leaf = walk_.entries[static_cast<size_t>(walk_.level)];
  if (!fault.access.is_write()) {
    path.rights = PagingGuest::Clean(walk_.rights, leaf).raw();
    return;
  }
  // A write has set D, unless that cannot be set. The parts of a large page stand in a page that is
  // found by its rights: one with W beyond the guest's own (CR0.WP is clear) is not the one that a
  // read finds, through which the write that sets D again would not be seen.
  path.rights = (path.leaf_level == 1 ? walk_.rights : Emulated(fault, walk_.rights)).raw();
}

// Returns the level of the largest leaf that the guest's leaf, the slot and the host's page allow.
// 1 GiB is left to tables of 2 MiB: whether the CPU has such pages in its own paging is not known
// here.
ABSL_ATTRIBUTE_NOINLINE Level ShadowVcpuImpl::LargestLeaf(const PagingFault& fault) const {
  const Level host =
      parts_.policy.LargestLevel(*fault.slot, fault.path.gfn, fault.page, Access::Read());
  return std::min({host, Level(fault.path.leaf_level), kLevel2M});
}

// Puts a 4 KiB leaf into a page that is linked, in a reader's section. Returns kAlone if more has
// to change.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline ShadowVcpuImpl::Next ShadowVcpuImpl::InstallBesideOthers(
    PagingFault& fault, ShadowZap& zap, PagingFaultResult& result) {
  if (ABSL_PREDICT_FALSE(NeedsSmapEmulation(fault))) return EmulateInstead(result);
  if (ABSL_PREDICT_FALSE(parts_.policy.MayBeLarge(fault.page)) && LargestLeaf(fault) > kLevel4K) {
    return Next::kAlone;
  }
  return SetBesideOthers(fault, [&](ShadowPlace place) ABSL_ATTRIBUTE_ALWAYS_INLINE {
    return InstallAt(fault, ShadowSide::kReader, place, kLevel4K, zap, result);
  });
}

// Does whatever puts the leaf into the shadow, in a writer's section.
ABSL_ATTRIBUTE_NOINLINE ShadowVcpuImpl::Next ShadowVcpuImpl::InstallAlone(
    PagingFault& fault, PagingFaultResult& result) {
  return DoAlone(fault, [&](ShadowZap& zap) {
    tables().LimitUnsync(stock_.descriptors, zap);  // this fault may let one more page go unsync
    const Level goal = parts_.policy.MayBeLarge(fault.page) ? LargestLeaf(fault) : kLevel4K;
    const auto reach = [&](ShadowPlace& place) { return ReachLeaf(fault, goal, zap, place); };
    return SetAlone(fault, goal, reach, [&](ShadowPlace place) {
      return InstallAt(fault, ShadowSide::kWriter, place, goal, zap, result);
    });
  });
}

ShadowVcpuImpl::Next ShadowVcpuImpl::EmulateInstead(PagingFaultResult& result) {
  result.outcome = PagingOutcome::kEmulateWrite;
  return Next::kDone;
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline ShadowVcpuImpl::Next ShadowVcpuImpl::InstallAt(
    PagingFault& fault, ShadowSide side, ShadowPlace place, Level goal, ShadowZap& zap,
    PagingFaultResult& result) {
  bool writable = false;
  if (ABSL_PREDICT_FALSE(!DecideWrite(fault, side, goal, writable))) return Next::kAlone;
  if (ABSL_PREDICT_FALSE(fault.access.is_write() && !writable)) {
    // The host was asked for a page to be written: if it gave none, it is changing its mind.
    result.outcome = fault.page.writable ? PagingOutcome::kEmulateWrite : PagingOutcome::kRetry;
    return Next::kDone;
  }
  const PagingEntry leaf =
      LeafOf(fault.page.hfn.AlignDown(goal.pages()), goal,
             Emulated(fault, GuestRights(fault.path.rights)), writable, fault.page, *fault.slot);
  return SetLeaf(fault, side, place, goal, leaf, zap, result, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    PrefetchAround(fault, *place.page, place.index);
  });
}

ShadowVcpuImpl::Next ShadowVcpuImpl::ReachLeaf(const PagingFault& fault, Level goal, ShadowZap& zap,
                                               ShadowPlace& place) {
  if (fault.root == nullptr || !IsCurrent(*fault.root)) return Next::kLoadRoot;
  const PagingGuest guest(paging_, root_.role);
  ShadowSyncer<PagingGuest> syncer(tables(), guest, stock_.descriptors, zap);
  const auto sync = [&](ShadowPage& page, const std::byte* table) {
    return syncer.Sync(page, table);
  };
  const Next next = Reach(fault, goal, zap, place, sync);
  if (next == Next::kDone && goal > kLevel4K &&
      fault.slot->state->MaxLevel(fault.path.gfn) < goal) {
    return Next::kAgain;  // a table of the walk itself may lie in the page, and be tracked only now
  }
  return next;
}

// --- The leaf ------------------------------------------------------------------------------------

// Returns whether the write has to be emulated for SMAP's sake. With CR0.WP clear a supervisor
// writes a read-only user page. The shadow makes it a supervisor's page for that time, which SMAP
// would not guard.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool ShadowVcpuImpl::NeedsSmapEmulation(
    const PagingFault& fault) const {
  const GuestRights rights = walk_.rights;
  return fault.access.is_write() && !rights.writable() && rights.user() &&
         (paging_.controls().cr4 & guest::kCr4Smap) != 0;
}

// Returns what the leaf says where CR0.WP is clear and a supervisor writes a page without W: W, but
// for supervisors alone. A user's access takes it back. With SMEP the supervisor must not execute
// it (KVM's FNAME(page_fault)).
ABSL_ATTRIBUTE_ALWAYS_INLINE inline GuestRights ShadowVcpuImpl::Emulated(const PagingFault& fault,
                                                                         GuestRights rights) const {
  if (ABSL_PREDICT_TRUE(!fault.access.is_write() || rights.writable())) return rights;
  const bool smep = (paging_.controls().cr4 & guest::kCr4Smep) != 0;
  const unsigned lost = rights.user() ? GuestRights::kUser | (smep ? GuestRights::kExecute : 0) : 0;
  return GuestRights((rights.raw() | GuestRights::kWrite) & ~lost);
}

// Says in `writable` whether the leaf may have W at all. A write to a tracked table of leaves lets
// it go unsync, which takes a writer: returns false if this is none.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool ShadowVcpuImpl::DecideWrite(const PagingFault& fault,
                                                                     ShadowSide side, Level level,
                                                                     bool& writable) {
  AssertInSection();
  const MemorySlot& slot = *fault.slot;
  const bool write = fault.access.is_write();
  writable = !slot.is_read_only() && fault.page.writable && (write || !slot.logs_dirty_pages());
  if (!writable || level > kLevel4K) return true;  // no large leaf stands where a page is tracked
  if (ABSL_PREDICT_TRUE(!slot.state->permits().IsWriteTracked(fault.path.gfn))) return true;
  if (write && side == ShadowSide::kReader) return false;
  writable =
      !(write ? tables().MustTrackEvenUnsync(fault.path.gfn) : tables().MustTrack(fault.path.gfn));
  return true;
}

// Types that the PAT would have to give are not obeyed: what is not ordinary memory is uncached.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline PagingEntry ShadowVcpuImpl::LeafOf(Hfn frame, Level level,
                                                                       GuestRights rights,
                                                                       bool writable,
                                                                       const HostPage& page,
                                                                       const MemorySlot& slot) {
  if (!writable) rights = rights & GuestRights(GuestRights::kAll & ~GuestRights::kWrite);
  PagingEntry leaf = PagingEntry::Leaf(frame, level, rights);
  if (page.writable && !slot.is_read_only()) leaf = leaf.WithHostWritable();
  return page.memory_type == MemoryType::kWriteBack ? leaf : leaf.WithUncached();
}

// --- Neighbours ----------------------------------------------------------------------------------

ABSL_ATTRIBUTE_ALWAYS_INLINE inline void ShadowVcpuImpl::PrefetchAround(const PagingFault& fault,
                                                                        ShadowPage& page,
                                                                        int index) {
  // Most neighbours differ by their frames alone, so what else a leaf says is kept for the next. A
  // class, since compilers do not agree on where a mutable lambda has its attributes.
  struct LeafOfNeighbour {
    const ShadowVcpuImpl* vcpu;
    const MemorySlot* slot;
    bool may_track;
    uint32_t key = ~uint32_t{0};  // what `leaf` was made of
    PagingEntry leaf = {};        // of frame 0

    ABSL_ATTRIBUTE_ALWAYS_INLINE PagingEntry operator()(LeafOrigin origin, const HostPage& host,
                                                        bool writable) {
      if (ABSL_PREDICT_FALSE(may_track) && writable) {
        writable = !(slot->state->permits().IsWriteTracked(origin.gfn()) &&
                     vcpu->tables().MustTrack(origin.gfn()));
      }
      const uint32_t made_of = origin.rights() << 16 | uint32_t{writable} << 9 |
                               uint32_t{host.writable} << 8 |
                               static_cast<uint32_t>(host.memory_type);
      if (made_of != key) {
        key = made_of;
        leaf = vcpu->LeafOf(Hfn(0), kLevel4K, GuestRights(origin.rights()), writable, host, *slot);
      }
      return leaf.WithFrame(host.hfn);
    }
  };
  const auto make_leaf_of = [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
    return LeafOfNeighbour{this, fault.slot, MayTrackNeighbours(fault)};
  };
  Prefetch(fault, page, index, NeighbourOf(), make_leaf_of);
}

// --- Between two tries ---------------------------------------------------------------------------

absl::Status ShadowVcpuImpl::ReloadRoot() {
  ShadowRoot root;
  TDP_RETURN_IF_ERROR(LoadRoot(paging_, roots_, root));
  Release(root_);
  root_ = root;
  LoadRegisters();
  return absl::OkStatus();
}

// Lets go of the cached roots, so that their pages can be recycled. Returns whether there were any.
bool ShadowVcpuImpl::ReleaseCachedRoots() {
  bool any = false;
  for (ShadowRoot& root : previous_.roots()) {
    any |= root.is_loaded;
    Release(root);
  }
  return any;
}

// --- Emulated writes -----------------------------------------------------------------------------

absl::Status ShadowVcpuImpl::EmulateWrite(Gpa gpa, ByteCount size,
                                          absl::FunctionRef<void(std::byte* place)> store) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  if (size == 0 || size > kPageSize - gpa.page_offset()) {
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

bool ShadowVcpuImpl::TryStore(Gpa gpa, absl::FunctionRef<void(std::byte* place)> store,
                              GuestWalkOutcome& why) {
  MmuReadSection section(reader_);
  std::byte* place = window_.Reach(gpa, true, why);
  if (place == nullptr) return false;
  store(place);
  window_.Wrote(gpa);
  return true;
}

absl::Status ShadowVcpuImpl::OnWritten(Gpa gpa, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  if (size == 0 || gpa.raw() + size - 1 < gpa.raw()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size 0x%x at gpa 0x%x: must not be none, and not wrap", size, gpa.raw()));
  }
  while (size != 0) {
    const ByteCount inside = std::min(size, kPageSize - gpa.page_offset());
    for (PagingShadow* shadow : parts_.shadows) {
      OnWrittenIn(*shadow, gpa, inside);
    }
    size -= inside;
    gpa = gpa + inside;
  }
  return absl::OkStatus();
}

// Follows a write within one page. The address spaces may show the same memory at the same address,
// so it is the table of each.
void ShadowVcpuImpl::OnWrittenIn(PagingShadow& shadow, Gpa gpa, ByteCount size) {
  PendingFlush flush;
  bool is_table;
  {
    const MmuReadSection section(reader_);
    is_table = shadow.Shadows(Gfn::Of(gpa));
    // Another thread may have just dropped something for the same bytes that some CPU still has.
    if (!is_table) flush = shadow.CommitAll(ShadowZap());
  }
  if (is_table) {
    const MmuWriteSection section(parts_.mmu_lock);
    ShadowZap zap;
    shadow.OnWrite(gpa, size, stock_.descriptors, zap);
    flush = shadow.CommitAll(std::move(zap));
  }
  flush.Settle();
}

// --- The side of a vCPU --------------------------------------------------------------------------

absl::Status ShadowVcpuImpl::CheckRunsOnEpt() const {
  return absl::FailedPreconditionError("VmOptions.paging is kShadow: there is no EPT");
}

// A root that is zapped from here on is emptied, and this vCPU kicked.
bool ShadowVcpuImpl::FlushForEntry(VcpuId id, bool owed, bool) {
  if (!std::exchange(owes_flush_, false) && !owed) return false;
  parts_.backend.InvalidateLinear(id);
  return true;
}

void ShadowVcpuImpl::AddTo(FaultStats& stats) const {
  AddCounted<PagingOutcome>(stats);
  stats.guest_faults += Counted(PagingOutcome::kGuestFault);
  stats.emulated_writes += Counted(PagingOutcome::kEmulateWrite);
}

// --- The face ------------------------------------------------------------------------------------

ShadowVcpu::ShadowVcpu(std::unique_ptr<ShadowVcpuImpl> impl) : impl_(std::move(impl)) {}
ShadowVcpu::~ShadowVcpu() = default;

const GuestPaging& ShadowVcpu::paging() const { return impl_->paging(); }
const GuestRoots& ShadowVcpu::roots() const { return impl_->roots(); }
const ShadowRegisters& ShadowVcpu::registers() const { return impl_->registers(); }

absl::StatusOr<GuestEvent> ShadowVcpu::SetPaging(const GuestControls& controls, uint64_t cr3) {
  return impl_->SetPaging(controls, cr3);
}
absl::StatusOr<GuestEvent> ShadowVcpu::WriteCr3(uint64_t value) { return impl_->WriteCr3(value); }
absl::Status ShadowVcpu::Invlpg(Gva gva) { return impl_->Invlpg(gva); }
absl::StatusOr<GuestEvent> ShadowVcpu::Invpcid(uint64_t type, uint64_t pcid, Gva gva) {
  return impl_->Invpcid(type, pcid, gva);
}

absl::Status ShadowVcpu::EmulateWrite(Gpa gpa, ByteCount size,
                                      absl::FunctionRef<void(std::byte* place)> store) {
  return impl_->EmulateWrite(gpa, size, store);
}
absl::Status ShadowVcpu::OnWritten(Gpa gpa, ByteCount size) { return impl_->OnWritten(gpa, size); }

}  // namespace tdp
