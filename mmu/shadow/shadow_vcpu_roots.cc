// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's registers, the roots that follow from them, and its flushes.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/reverse_mapped/shadow_sync.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"

namespace tdp {
namespace {

constexpr int kRootTries = 64;
constexpr size_t kRootPages = 4;

// Returns whether one page is the root. PAE hardware has four pages at the top, each for a GiB.
bool IsWideRoot(PageRole role) { return role.level() > kLevel2M; }

// Makes a role that stands where a guest's root lies in no memory: it maps nothing, and no fault
// lets it map anything.
constexpr PageRole NoMemoryRole(PageRole role) {
  return role.WithDirect(true).WithInvalid(true).WithAccess(Access::None());
}

// Returns whether MOV to CR0 or CR4 under PAE paging leaves the PDPTEs as they were loaded,
// whatever memory says by now (SDM vol. 3A, 5.4.1).
bool KeepsPdptes(const GuestControls& before, const GuestControls& after) {
  constexpr uint64_t kCr0 =
      guest::kCr0Paging | guest::kCr0CacheDisable | guest::kCr0NotWriteThrough;
  constexpr uint64_t kCr4 = guest::kCr4PageSizeExtensions | guest::kCr4PhysicalAddressExtension |
                            guest::kCr4GlobalPages | guest::kCr4Smep;
  return before.mode() == PagingMode::kPae && after.mode() == PagingMode::kPae &&
         ((before.cr0 ^ after.cr0) & kCr0) == 0 && ((before.cr4 ^ after.cr4) & kCr4) == 0;
}

// Returns whether `cr3`, a register's value, sets a bit that a CPU in a 64-bit mode refuses: one
// above its physical addresses. In other modes CR3 has 32 bits, whatever stands above them.
bool HasReservedBit(const GuestControls& controls, uint64_t cr3) {
  return controls.mode() >= PagingMode::k4Level && cr3 >> controls.physical_address_bits != 0;
}

// Returns the bits of CR3 that are the root's address.
constexpr uint64_t RootMask(PagingMode mode) {
  return mode >= PagingMode::k4Level ? PagingGeometry<PagingMode::k4Level>::kRootMask
                                     : PagingGeometry<PagingMode::k32Bit>::kRootMask;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShadowVcpuImpl>> ShadowVcpuImpl::Create(
    const PagingParts& parts, const FlushClock::Member& member, GuestWindow& window) {
  auto vcpu = absl::WrapUnique(new ShadowVcpuImpl(parts, member, window));
  TDP_RETURN_IF_ERROR(vcpu->LoadRoot(vcpu->paging_, vcpu->roots_, vcpu->root_));
  vcpu->LoadRegisters();
  return vcpu;
}

ShadowVcpuImpl::~ShadowVcpuImpl() {
  Release(root_);
  for (ShadowRoot& root : previous_.roots()) Release(root);
}

// --- Registers -----------------------------------------------------------------------------------

absl::StatusOr<GuestEvent> ShadowVcpuImpl::SetPaging(const GuestControls& controls, uint64_t cr3) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  constexpr uint64_t kKeys = guest::kCr4UserKeys | guest::kCr4SupervisorKeys;
  if ((controls.cr4 & kKeys) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("cr4 0x%x: protection keys are not shadowed", controls.cr4));
  }
  if (controls.physical_address_bits < 32 || controls.physical_address_bits > 52) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "physical_address_bits is %d: must be 32 to 52", controls.physical_address_bits));
  }
  if (HasReservedBit(controls, cr3)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cr3 0x%x: has bits above the %d of physical_address_bits", cr3,
                        controls.physical_address_bits));
  }
  const GuestPaging paging(controls);
  GuestRoots roots;
  roots.cr3 = cr3;
  if (cr3 == roots_.cr3 && KeepsPdptes(paging_.controls(), controls)) {
    roots.pdptes = roots_.pdptes;
  } else {
    TDP_ASSIGN_OR_RETURN(const GuestEvent event, LoadPdptes(paging, cr3, roots));
    if (event != GuestEvent::kNone) return event;
  }
  bool kept = false;
  TDP_RETURN_IF_ERROR(SwitchRoot(paging, roots, kept));
  Resync();
  return GuestEvent::kNone;
}

absl::StatusOr<GuestEvent> ShadowVcpuImpl::WriteCr3(uint64_t value) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  const bool pcids = (paging_.controls().cr4 & guest::kCr4ProcessContextIds) != 0;
  const bool keep = pcids && (value & guest::kCr3KeepTranslations) != 0;
  GuestRoots roots = roots_;
  roots.cr3 = pcids ? value & ~guest::kCr3KeepTranslations : value;
  if (HasReservedBit(paging_.controls(), roots.cr3)) return GuestEvent::kGeneralProtection;
  TDP_ASSIGN_OR_RETURN(const GuestEvent event, LoadPdptes(paging_, roots.cr3, roots));
  if (event != GuestEvent::kNone) return event;
  bool kept = false;
  TDP_RETURN_IF_ERROR(SwitchRoot(paging_, roots, kept));
  // Pages that the guest asks to keep may stay unsync. But pages are shared by address spaces, and
  // what another one has brought into them since is nothing that this one's CPU can have kept.
  if (!keep || !kept || root_.left_at != tables().additions()) Resync();
  return GuestEvent::kNone;
}

// Loads, in PAE paging, the PDPTEs of `cr3` into `roots`.
absl::StatusOr<GuestEvent> ShadowVcpuImpl::LoadPdptes(const GuestPaging& paging, uint64_t cr3,
                                                      GuestRoots& roots) {
  roots.pdptes = {};
  if (paging.mode() != PagingMode::kPae) return GuestEvent::kNone;
  for (int i = 0; i < kRootTries; ++i) {
    GuestWalkOutcome outcome;
    {
      MmuReadSection section(reader_);
      outcome = tdp::LoadPdptes(paging, cr3, window_, roots);
    }
    if (outcome == GuestWalkOutcome::kMapped) return GuestEvent::kNone;
    if (outcome == GuestWalkOutcome::kPageFault) return GuestEvent::kGeneralProtection;
    bool no_memory = false;
    TDP_RETURN_IF_ERROR(FetchPage(no_memory));
    // This is what a bus answers where nothing is: all ones, which has reserved bits set.
    if (no_memory) return GuestEvent::kGeneralProtection;
  }
  return absl::UnavailableError(
      absl::StrFormat("the PDPTEs at cr3 0x%x are changing: try again", cr3));
}

absl::Status ShadowVcpuImpl::SetAddressSpace(AddressSpaceId space) {
  if (space == space_) return absl::OkStatus();
  // The guest may have written the tables of one space in the other, where nothing shadowed them
  // and so nothing was seen. Nothing that a CPU kept is left either, whatever is still unsync.
  parts_.shadows[space]->ZapAll().Settle();
  const auto use = [this](AddressSpaceId other) { UseSpace(other); };
  const AddressSpaceId before = space_;
  use(space);
  ShadowRoot root;
  const absl::Status status = LoadRoot(paging_, roots_, root);
  use(before);
  if (!status.ok()) return status;
  Release(root_);
  for (ShadowRoot& cached : previous_.roots()) Release(cached);
  use(space);
  root_ = root;
  LoadRegisters();
  owes_flush_ = true;  // linear translations are not tagged by their root
  return absl::OkStatus();
}

// --- Roots ---------------------------------------------------------------------------------------

PageRole ShadowVcpuImpl::RootRole(const GuestPaging& paging) const {
  const GuestControls& controls = paging.controls();
  const bool wp = (controls.cr0 & guest::kCr0WriteProtect) != 0;
  const PagingMode mode = paging.mode();
  const bool is_64_bit = mode >= PagingMode::k4Level;
  const int level = mode == PagingMode::k5Level ? 5 : mode == PagingMode::k4Level ? 4 : 2;
  const bool pse = (controls.cr4 & guest::kCr4PageSizeExtensions) != 0;
  return PageRole()
      .WithLevel(Level(level))
      .WithAddressSpace(space_)
      .WithDirect(mode == PagingMode::kNone)
      .WithAccess(Access::FromRaw(GuestRights::kAll))
      .WithWideEntries(mode != PagingMode::k32Bit)
      .WithNoExecute((controls.efer & guest::kEferNoExecute) != 0)
      .WithCr0Wp(wp)
      .WithSmepWithoutWp(!wp && (controls.cr4 & guest::kCr4Smep) != 0)
      .WithSmapWithoutWp(!wp && (controls.cr4 & guest::kCr4Smap) != 0)
      .WithPagingMode(static_cast<int>(mode))
      .WithPages2M(mode != PagingMode::k32Bit || pse)
      .WithPages1G(is_64_bit && controls.pages_1g)
      .WithPhysicalAddressBits(controls.physical_address_bits);
}

// Makes the root that `roots` ask for the current one, and keeps the one before. Where that fails
// nothing has changed. `kept` says whether it had been kept.
absl::Status ShadowVcpuImpl::SwitchRoot(const GuestPaging& paging, const GuestRoots& roots,
                                        bool& kept) {
  const PageRole role = RootRole(paging);
  kept = true;
  root_.left_at = tables().additions();
  if (!root_.Is(roots.cr3, roots.pdptes, role)) {
    ShadowRoot root = previous_.Take(roots.cr3, roots.pdptes, role);
    if (!root.is_loaded) {
      kept = false;
      TDP_RETURN_IF_ERROR(LoadRoot(paging, roots, root));
    }
    ShadowRoot gone = previous_.Put(root_);
    Release(gone);
    root_ = root;
  }
  paging_ = paging;
  roots_ = roots;
  LoadRegisters();
  return absl::OkStatus();
}

absl::Status ShadowVcpuImpl::LoadRoot(const GuestPaging& paging, const GuestRoots& roots,
                                      ShadowRoot& root) {
  for (int i = 0; i < kRootTries; ++i) {
    stock_.Refill().IgnoreError();
    Next next = Next::kDone;
    // The tables that the root shadows are tracked; nothing is derived from them before this.
    TakeAway([&](ShadowZap& zap) {
      next = tables().IsFull(kRootPages) ? Next::kTables : BuildRoot(paging, roots, root, zap);
    });
    if (next == Next::kDone) return absl::OkStatus();
    bool no_memory = false;
    const auto release = [this] { return ReleaseCachedRoots(); };
    const auto reload = [] { return absl::OkStatus(); };  // a root needs no other
    TDP_RETURN_IF_ERROR(Prepare(next, reload, {root_.pages, release}, no_memory));
  }
  return absl::UnavailableError(
      absl::StrFormat("the memory of cr3 0x%x is changing: try again", roots.cr3));
}

// Builds a root in a writer's section: holds every page, or none.
ShadowVcpuImpl::Next ShadowVcpuImpl::BuildRoot(const GuestPaging& paging, const GuestRoots& roots,
                                               ShadowRoot& root, ShadowZap& zap) {
  AssertWriting(parts_.mmu_lock);
  ShadowRoot fresh;
  fresh.cr3 = roots.cr3;
  fresh.pdptes = roots.pdptes;
  fresh.role = RootRole(paging);
  const size_t count = IsWideRoot(fresh.role) ? 1 : kRootPages;
  for (size_t i = 0; i < count; ++i) {
    PageRole role = fresh.role;
    Gfn gfn((roots.cr3 & RootMask(paging.mode())) >> kPageShift);
    if (paging.mode() == PagingMode::kNone) gfn = Gfn(i * kLevel1G.pages().raw());
    if (paging.mode() == PagingMode::k32Bit) role = role.WithQuadrant(static_cast<int>(i));
    if (paging.mode() == PagingMode::kPae) {
      if ((roots.pdptes[i] & guest::kPresent) == 0) continue;
      gfn = Gfn((roots.pdptes[i] & guest::kAddressMask) >> kPageShift);
    }
    const Next next = BuildRootPage(gfn, role, fresh.pages[i], zap);
    if (next != Next::kDone) return next;
  }
  for (ShadowPage* page : fresh.pages) {
    if (page != nullptr) tables().Hold(*page);
  }
  fresh.is_loaded = true;
  root = fresh;
  return Next::kDone;
}

ShadowVcpuImpl::Next ShadowVcpuImpl::BuildRootPage(Gfn gfn, PageRole role, ShadowPage*& page,
                                                   ShadowZap& zap) {
  LargePagePermits* tracking = nullptr;
  if (!role.direct()) {
    const MemorySlot* slot = table_slots_.Find(space_, gfn);
    if (slot == nullptr || slot->invalid) {
      role = NoMemoryRole(role);
    } else {
      tracking = &slot->state->permits();
      if (!tracking->IsWriteTrackingPrepared(gfn)) {
        missing_.tracking = slot->state->shared_permits();
        missing_.gfn = gfn;
        return Next::kMakeRoom;
      }
    }
  }
  page = tables().Find(gfn, role);
  if (page == nullptr) page = tables().Make(gfn, role, tracking, stock_, zap);
  return page == nullptr ? Next::kTables : Next::kDone;
}

// Returns whether `root`, one of the root's pages, still shadows what it was made for. One without
// memory does not: there may be some by now. The others are nothing to an address below this one.
bool ShadowVcpuImpl::IsCurrent(const ShadowPage& root) const {
  return tables().IsCurrent(root) && !root.role.invalid();
}

// Lets go of a root, which may be of the address space that the vCPU is about to leave.
void ShadowVcpuImpl::Release(ShadowRoot& root) {
  if (!root.is_loaded) return;
  ReleaseRoots(*parts_.shadows[root.role.address_space()], root.pages);
  root = ShadowRoot();
}

// Loads the registers for the current root. Translations are not tagged by roots, so another one
// wants a flush.
void ShadowVcpuImpl::LoadRegisters() {
  const ShadowRegisters before = registers_;
  registers_ = ShadowControls(paging_.controls());
  const auto hpa_of = [this](const ShadowPage* page) {
    return tables().pool().HpaOf(page->table->entries()).raw();
  };
  if (IsWideRoot(root_.role)) {
    registers_.cr3 = hpa_of(root_.pages[0]);
  } else {
    for (size_t i = 0; i < kRootPages; ++i) {
      if (root_.pages[i] == nullptr) continue;
      registers_.pdptes[i] = hpa_of(root_.pages[i]) | guest::kPresent;
    }
  }
  owes_flush_ |= !(registers_ == before);
}

// --- The guest's flushes -------------------------------------------------------------------------

// Returns whether any page is out of sync.
bool ShadowVcpuImpl::HasUnsync() {
  const MmuReadSection section(reader_);
  return tables().unsync().first() != nullptr;
}

// Reads every page again that went unsync: what the guest has written counts from here on. The CPUs
// first lose the right to write the tables, and what they have cached of it.
void ShadowVcpuImpl::Resync() {
  if (!HasUnsync()) return;
  TakeAway([this](ShadowZap& zap) { tables().BeginResync(zap); });
  for (;;) {
    Next next = Next::kDone;
    TakeAway([&](ShadowZap& zap) { next = ResyncPages(zap); });
    if (next == Next::kDone) return;
    FetchForSync();
  }
}

// Brings in the tables that a sync will read. One that cannot be read is zapped with all others
// that are out of sync: as good as synced.
void ShadowVcpuImpl::FetchForSync() {
  bool no_memory = false;
  if (FetchPage(no_memory).ok() && !no_memory) return;
  TakeAway([&](ShadowZap& zap) {
    while (ShadowPage* page = tables().unsync().first()) {
      tables().Zap(*page, stock_.descriptors, zap);
    }
  });
}

// Syncs the pages, in a writer's section. A page that went unsync again meanwhile is read and stays
// so.
ShadowVcpuImpl::Next ShadowVcpuImpl::ResyncPages(ShadowZap& zap) {
  AssertWriting(parts_.mmu_lock);
  const PagingGuest guest(paging_, root_.role);
  ShadowSyncer<PagingGuest> syncer(tables(), guest, stock_.descriptors, zap);
  for (ShadowPage* page = tables().unsync().first(); page != nullptr;) {
    ShadowPage* next = ShadowSideList::Next(page);
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    const std::byte* table = window_.Reach(page->gfn.address(), false, why);
    if (table == nullptr) return Next::kFetch;
    if (syncer.Sync(*page, table) && page->sync == ShadowSync::kResyncing) {
      tables().SetSynced(*page);
    }
    page = next;
  }
  return Next::kDone;
}

absl::Status ShadowVcpuImpl::Invlpg(Gva gva) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  // Global pages are every PCID's: this concerns all roots that are not synced anyway before they
  // are used.
  InvalidateIn(gva, [](const ShadowRoot&) { return true; });
  return absl::OkStatus();
}

absl::StatusOr<GuestEvent> ShadowVcpuImpl::Invpcid(uint64_t type, uint64_t pcid, Gva gva) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  const bool pcids = (paging_.controls().cr4 & guest::kCr4ProcessContextIds) != 0;
  const bool bad_pcid = pcid > 0xfff || (type <= 1 && pcid != 0 && !pcids);
  // The mode that the guest is in does not matter to it.
  const int linear_bits = (paging_.controls().cr4 & guest::kCr4FiveLevels) != 0 ? 57 : 48;
  const bool bad_address = type == 0 && !IsCanonical(gva, linear_bits);
  if (type > 3 || bad_pcid || bad_address) return GuestEvent::kGeneralProtection;
  if (type == 0) {
    InvalidateIn(gva, [&](const ShadowRoot& root) {
      return !pcids || (root.cr3 & guest::kCr3ProcessContextIdMask) == pcid;
    });
  } else {
    Resync();
  }
  return GuestEvent::kNone;
}

// Syncs the entry for `gva` in the current and the cached roots that `concerns` holds of.
void ShadowVcpuImpl::InvalidateIn(Gva gva, absl::FunctionRef<bool(const ShadowRoot&)> concerns) {
  while (HasUnsync()) {
    Next next = Next::kDone;
    TakeAway([&](ShadowZap& zap) {
      if (concerns(root_)) next = ResyncAddress(root_, gva, zap);
      for (const ShadowRoot& root : previous_.roots()) {
        if (next == Next::kDone && root.is_loaded && concerns(root)) {
          next = ResyncAddress(root, gva, zap);
        }
      }
    });
    if (next == Next::kDone) return;
    FetchForSync();
  }
}

// Syncs the entry for `gva` below `root`, in a writer's section.
ShadowVcpuImpl::Next ShadowVcpuImpl::ResyncAddress(const ShadowRoot& root, Gva gva,
                                                   ShadowZap& zap) {
  AssertWriting(parts_.mmu_lock);
  ShadowPage* page = root.PageOf(gva);
  if (page != nullptr) page = LeafPageOf(*page, gva.raw());
  if (page == nullptr || page->sync == ShadowSync::kSynced) return Next::kDone;
  GuestWalkOutcome why = GuestWalkOutcome::kMapped;
  const std::byte* table = window_.Reach(page->gfn.address(), false, why);
  if (table == nullptr) return Next::kFetch;
  const PagingGuest guest(paging_, root_.role);
  ShadowSyncer<PagingGuest> syncer(tables(), guest, stock_.descriptors, zap);
  if (guest.Reads(page->role)) {
    syncer.SyncEntry(*page, kLevel4K.IndexOf(Gfn(gva.raw() >> kPageShift)), table);
  } else {
    tables().Zap(*page, stock_.descriptors, zap);
  }
  return Next::kDone;
}

// --- Looking -------------------------------------------------------------------------------------

ShadowVcpuImpl::Found ShadowVcpuImpl::Look(Gva gva) {
  const MmuReadSection section(reader_);
  ShadowPage* const root = root_.PageOf(gva);
  if (root == nullptr) return Found();
  const ShadowPlace end = EndOfWay(*root, gva.raw());
  return {PagingShadow::At(*end.page, end.index).Load(), end.page->level()};
}

}  // namespace tdp
