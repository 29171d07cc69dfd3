// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/nested_vcpu_impl.h"

#include <algorithm>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/shadow/nested_vcpu.h"

namespace tdp {
namespace {

// How often a root is tried whose pages others take. More tries mean that someone is as fast.
constexpr int kNestedTries = 128;

// Refuses a width that no CPU has.
absl::Status CheckWidth(const EntryRules& rules) {
  if (rules.physical_address_bits >= 32 && rules.physical_address_bits <= 52) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "rules.physical_address_bits is %d: must be 32 to 52", rules.physical_address_bits));
}

// Returns what L2's own tables allow at a final address, where the CPU says so.
GuestRights GuestRightsOf(ExitQualification qualification) {
  return GuestRights((qualification.user_address() ? GuestRights::kUser : 0u) |
                     (qualification.guest_writable() ? GuestRights::kWrite : 0u) |
                     (qualification.guest_no_execute() ? 0u : GuestRights::kExecute));
}

}  // namespace

NestedVcpuImpl::NestedVcpuImpl(const NestedParts& parts, const FlushClock::Member& member,
                               GuestWindow& window, DirtyRing* ring)
    : ShadowFaults(parts, member, window, ring) {}

NestedVcpuImpl::~NestedVcpuImpl() { ReleaseRoot(); }

// --- To L2 and back ------------------------------------------------------------------------------

absl::Status NestedVcpuImpl::CheckContext(const NestedContext& context) const {
  const Capabilities& can = parts_.backend.capabilities();
  const EntryRules& rules = context.rules;
  TDP_RETURN_IF_ERROR(CheckWidth(rules));
  TDP_RETURN_IF_ERROR(context.eptp.Check(rules.capabilities, rules.physical_address_bits));
  TDP_RETURN_IF_ERROR(Eptp::Make(Hpa(0), context.eptp.levels(), context.eptp.accessed_dirty())
                          .Check(can.ept, can.physical_address_bits));
  if (context.eptp.supervisor_shadow_stack()) {
    return absl::InvalidArgumentError("eptp: supervisor shadow stacks are not shadowed");
  }
  if (rules.mbec) return absl::InvalidArgumentError("rules.mbec is set: it is not shadowed");
  if (rules.paging_write) {
    return absl::InvalidArgumentError("rules.paging_write is set: it is not shadowed");
  }
  if (rules.capabilities.execute_only() && !can.ept.execute_only()) {
    return absl::InvalidArgumentError("rules offer execute-only pages, which the CPU lacks");
  }
  // No qualification says then what L2's own tables allow, and L1 would hear that it is nothing.
  if (rules.capabilities.advanced_exit_information() && !can.ept.advanced_exit_information()) {
    return absl::InvalidArgumentError("rules offer advanced exit information, which the CPU lacks");
  }
  return absl::OkStatus();
}

absl::Status NestedVcpuImpl::Enter(const NestedContext& context) {
  TDP_RETURN_IF_ERROR(CheckOutside());
  TDP_RETURN_IF_ERROR(CheckContext(context));
  if (!IsRootOf(context)) {
    ShadowPage* root = nullptr;
    TDP_RETURN_IF_ERROR(LoadRoot(context, root));
    ReleaseRoot();
    root_ = root;
  }
  // L2 has one VPID of the CPU's: translations of another of L1's must not be met under it.
  owes_flush_ |= context.vpid == 0 || context.vpid != last_vpid_;
  last_vpid_ = context.vpid;
  context_ = context;
  is_entered_ = true;
  return absl::OkStatus();
}

absl::Status NestedVcpuImpl::Leave() {
  TDP_RETURN_IF_ERROR(CheckOutside());
  owes_flush_ |= is_entered_ && context_.vpid == 0;
  is_entered_ = false;
  return absl::OkStatus();
}

absl::Status NestedVcpuImpl::CheckRunsOnEpt() const {
  if (!is_entered_) return absl::OkStatus();
  return absl::FailedPreconditionError("the vCPU runs L2: its faults are nested()'s");
}

// L1 and L2 have a root each, so a flush is always of all. INVEPT drops combined translations of
// every VPID, and L1 and L2 have no others. L2's root may stand in memory that has come.
bool NestedVcpuImpl::FlushForEntry(VcpuId id, bool owed, bool has_new_tables) {
  if (!std::exchange(owes_flush_, false) && !owed && !has_new_tables) return false;
  parts_.backend.InvalidateAll(id);
  return true;
}

absl::Status NestedVcpuImpl::SetAddressSpace(AddressSpaceId space) {
  if (is_entered_) {
    return absl::FailedPreconditionError("the vCPU runs L2: NestedVcpu::Leave comes first");
  }
  ReleaseRoot();
  UseSpace(space);
  return absl::OkStatus();
}

Eptp NestedVcpuImpl::eptp() const {
  if (root_ == nullptr) return Eptp();
  return Eptp::Make(tables().pool().HpaOf(root_->table->entries()), context_.eptp.levels(),
                    context_.eptp.accessed_dirty());
}

// --- Roots ---------------------------------------------------------------------------------------

// EPT02 has A and D flags where EPT12 has: with them the CPU counts reads of L2's tables as writes,
// which L1 is to see.
PageRole NestedVcpuImpl::RootRole(const NestedContext& context) const {
  const EntryRules& rules = context.rules;
  return PageRole()
      .WithLevel(context.eptp.root_level())
      .WithAddressSpace(space_)
      .WithAccess(Access::All())
      .WithWideEntries(true)
      .WithGuestMode(true)
      .WithAccessedDirty(context.eptp.accessed_dirty())
      .WithPages2M(rules.capabilities.pages_2m())
      .WithPages1G(rules.capabilities.pages_1g())
      .WithExecuteOnly(rules.capabilities.execute_only())
      .WithPhysicalAddressBits(rules.physical_address_bits);
}

// Returns whether the root that is held is what `context` runs on.
bool NestedVcpuImpl::IsRootOf(const NestedContext& context) const {
  return root_ != nullptr && root_->gfn == Gfn(context.eptp.root().raw() >> kPageShift) &&
         root_->role == RootRole(context) && tables().IsCurrent(*root_);
}

absl::Status NestedVcpuImpl::LoadRoot(const NestedContext& context, ShadowPage*& root) {
  const Gfn gfn(context.eptp.root().raw() >> kPageShift);
  const PageRole role = RootRole(context);
  for (int i = 0; i < kNestedTries; ++i) {
    stock_.Refill().IgnoreError();  // there may be a root already
    ShadowPage* found = nullptr;
    {
      const MmuWriteSection section(parts_.mmu_lock);
      ShadowZap zap;
      found = tables().Find(gfn, role);
      if (found == nullptr && !tables().IsFull(kPagesPerFault)) {
        found = tables().Make(gfn, role, nullptr, stock_, zap);
      }
      if (found != nullptr) tables().Hold(*found);
      TDP_CHECK(zap.is_empty());
    }
    if (found != nullptr) {
      root = found;
      return absl::OkStatus();
    }
    TDP_RETURN_IF_ERROR(Restock({absl::MakeConstSpan(&root_, 1), [] { return false; }}));
  }
  return absl::UnavailableError("shadow pages go as fast as they come: try again");
}

void NestedVcpuImpl::ReleaseRoot() {
  if (root_ == nullptr) return;
  ReleaseRoots(tables(), absl::MakeConstSpan(&root_, 1));
  root_ = nullptr;
}

// --- The violation -------------------------------------------------------------------------------

NestedFaultResult NestedVcpuImpl::HandleViolation(Gpa gpa, ExitQualification qualification) {
  if (absl::Status bad = CheckOutside(); !bad.ok()) return Error<NestedFaultResult>(std::move(bad));
  if (!is_entered_)
    return Error<NestedFaultResult>(absl::FailedPreconditionError("the vCPU has not entered L2"));
  if (absl::Status bad = qualification.Check(); !bad.ok())
    return Error<NestedFaultResult>(std::move(bad));
  Violation fault(walk_);
  fault.address = gpa.raw();
  fault.request.gpa = gpa;
  fault.request.access = qualification.access();
  fault.request.linear_address_valid = qualification.linear_address_valid();
  fault.request.final_address = qualification.final_address();
  fault.request.guest_rights = GuestRightsOf(qualification);
  fault.qualification = qualification;
  fault.is_write = fault.request.access.can_write();
  fault.was_present = qualification.reached_leaf();
  const auto none = [] { return false; };  // every root that is held is in use
  const auto reload = [this] { return ReloadRoot(); };
  const auto attempt = [&](NestedFaultResult& to) { return Try(fault, to); };
  NestedFaultResult result;
  const Next next = attempt(result);
  Repeat(result, next, attempt, walk_, reload, {absl::MakeConstSpan(&root_, 1), none});
  // A violation drops what is cached for its address (SDM vol. 3C, 30.4.3.1).
  if (result.outcome == NestedOutcome::kViolation ||
      result.outcome == NestedOutcome::kMisconfiguration) {
    DropPath(gpa);
  }
  Count(result.outcome);
  return result;
}

void NestedVcpuImpl::AddTo(FaultStats& stats) const {
  AddCounted<NestedOutcome>(stats);
  stats.guest_faults +=
      Counted(NestedOutcome::kViolation) + Counted(NestedOutcome::kMisconfiguration);
}

NestedVcpuImpl::Next NestedVcpuImpl::Try(Violation& fault, NestedFaultResult& result) {
  const Next next = TryBy(
      fault, result, [&] { return Walk(fault, result); },
      [&](ShadowZap& zap) { return InstallBesideOthers(fault, zap, result); });
  return next != Next::kAlone ? next : InstallAlone(fault, result);
}

// Walks EPT12, which sets its A and D flags.
NestedVcpuImpl::Next NestedVcpuImpl::Walk(Violation& fault, NestedFaultResult& result) {
  {
    MmuReadSection section(reader_);
    NestedEptWalker<GuestWindow>(context_.eptp, context_.rules, window_).Walk(fault.request, walk_);
    if (ABSL_PREDICT_TRUE(walk_.outcome == NestedEptOutcome::kMapped)) {
      result.gpa = walk_.gpa;
      TakePath(fault);
      fault.root = root_;
      PlanNeighbours(fault, true, NeighbourOf());
      return Next::kAgain;
    }
  }
  switch (walk_.outcome) {
    case NestedEptOutcome::kMapped:
      return Next::kAgain;
    case NestedEptOutcome::kNeedsPage:
      return Next::kFetch;
    case NestedEptOutcome::kViolation:
      result.outcome = NestedOutcome::kViolation;
      result.qualification = walk_.qualification.WithCauseOf(fault.qualification);
      return Next::kDone;
    case NestedEptOutcome::kMisconfiguration:
      result.outcome = NestedOutcome::kMisconfiguration;
      return Next::kDone;
    case NestedEptOutcome::kNoMemory:
      result.outcome = NestedOutcome::kNoTable;
      result.gpa = walk_.gpa;
      return Next::kDone;
  }
  return Next::kDone;
}

void NestedVcpuImpl::TakePath(Violation& fault) const {
  Path& path = fault.path;
  path.gfn = Gfn::Of(walk_.gpa);
  path.leaf_level = walk_.level;
  const EptEntry leaf = walk_.entries[static_cast<size_t>(walk_.level)];
  // A write has set D.
  path.rights = Clean(walk_.rights, fault.is_write ? leaf.WithDirty() : leaf);
}

// Returns, of `rights`, those that EPT02 may have: without W where the write that sets D in L1's
// `leaf` is yet to be seen.
uint32_t NestedVcpuImpl::Clean(Access rights, EptEntry leaf) const {
  rights = rights.Without(Access::UserExecute());
  if (context_.eptp.accessed_dirty() && !leaf.dirty()) rights = rights.Without(Access::Write());
  return rights.raw();
}

// Returns the level of the largest leaf that EPT12, the slot and the host's page allow.
Level NestedVcpuImpl::LargestLeaf(const Violation& fault) const {
  const Level host =
      parts_.policy.LargestLevel(*fault.slot, fault.path.gfn, fault.page, fault.request.access);
  return std::min(Level(fault.path.leaf_level), host);
}

// Puts a 4 KiB leaf into a page of EPT02 that is linked, in a reader's section. Returns kAlone if
// more has to change.
NestedVcpuImpl::Next NestedVcpuImpl::InstallBesideOthers(Violation& fault, ShadowZap& zap,
                                                         NestedFaultResult& result) {
  if (LargestLeaf(fault) > kLevel4K) return Next::kAlone;
  return SetBesideOthers(fault, [&](ShadowPlace place) {
    return InstallAt(fault, ShadowSide::kReader, place, kLevel4K, zap, result);
  });
}

// Does whatever puts the leaf into EPT02, in a writer's section.
NestedVcpuImpl::Next NestedVcpuImpl::InstallAlone(Violation& fault, NestedFaultResult& result) {
  return DoAlone(fault, [&](ShadowZap& zap) {
    const Level goal = LargestLeaf(fault);
    const auto reach = [&](ShadowPlace& place) { return ReachLeaf(fault, goal, zap, place); };
    return SetAlone(fault, goal, reach, [&](ShadowPlace place) {
      return InstallAt(fault, ShadowSide::kWriter, place, goal, zap, result);
    });
  });
}

NestedVcpuImpl::Next NestedVcpuImpl::InstallAt(Violation& fault, ShadowSide side, ShadowPlace place,
                                               Level goal, ShadowZap& zap,
                                               NestedFaultResult& result) {
  const bool may_write =
      !fault.slot->is_read_only() && (!fault.slot->logs_dirty_pages() || fault.is_write);
  const EptEntry leaf = LeafOf(fault.page.hfn.AlignDown(goal.pages()), goal, fault.path.gfn,
                               Access::FromRaw(static_cast<uint8_t>(fault.path.rights)),
                               may_write && fault.page.writable, fault.page, *fault.slot);
  return SetLeaf(fault, side, place, goal, leaf, zap, result,
                 [&] { PrefetchAround(fault, *place.page, place.index); });
}

NestedVcpuImpl::Next NestedVcpuImpl::ReachLeaf(const Violation& fault, Level goal, ShadowZap& zap,
                                               ShadowPlace& place) {
  if (!tables().IsCurrent(*root_)) return Next::kLoadRoot;
  // Nothing says what L1 has changed in a table while it was not linked: it is filled anew.
  const auto empty = [&](ShadowPage& page, const std::byte*) {
    for (int i = 0; page.present != 0 && i < Level::kEntries; ++i) {
      tables().Drop(page, i, stock_.descriptors, zap);
    }
    return true;
  };
  return Reach(fault, goal, zap, place, empty);
}

// Returns whether EPT02 may have what `entry` says without an access of L2's. A CPU may cache
// whatever EPT12 allows, but with A and D flags not before it has set A, which L1 would see.
bool NestedVcpuImpl::MayHaveUnasked(EptEntry entry, Access table, LeafOrigin& origin) const {
  if (!entry.is_present(false) || entry.Check(kLevel4K, context_.rules) != EntryDefect::kNone) {
    return false;
  }
  if (context_.eptp.accessed_dirty() && !entry.accessed()) return false;
  const Access rights = table & entry.access();
  origin = LeafOrigin(Gfn(entry.frame().raw()), Clean(rights, entry));
  return true;
}

void NestedVcpuImpl::PrefetchAround(const Violation& fault, ShadowPage& page, int index) {
  const auto make_leaf_of = [&] {
    return [&](LeafOrigin origin, const HostPage& host, bool writable) {
      const Access rights = Access::FromRaw(static_cast<uint8_t>(origin.rights()));
      return LeafOf(host.hfn, kLevel4K, origin.gfn(), rights, writable, host, *fault.slot);
    };
  };
  Prefetch(fault, page, index, NeighbourOf(), make_leaf_of);
}

// Makes the leaf with the rights that EPT12, slot and host have in common, and typed like L1's own
// leaf of the frame. The memory types of EPT12 do not count: the memory is the host's. EPT12 has no
// MBEC, so its X is for both modes, whether or not the CPU tells them apart. Nothing that EPT02
// lacks may become #VE: the guest that would get it is L2.
EptEntry NestedVcpuImpl::LeafOf(Hfn frame, Level level, Gfn gfn, Access rights, bool writable,
                                const HostPage& page, const MemorySlot& slot) const {
  if (rights.can_execute()) rights = rights | Access::UserExecute();
  if (!writable) rights = rights.Without(Access::Write());
  // Nobody reads the A and D flags of EPT02, so they are set for good.
  EptEntry leaf = EptEntry::Leaf(frame, level, rights, page.memory_type)
                      .WithIgnorePat()
                      .WithAccessed()
                      .WithDirty();
  leaf = parts_.policy.WithType(leaf, gfn);
  if (parts_.policy.options().suppress_ve) leaf = leaf.WithSuppressVe();
  return page.writable && !slot.is_read_only() ? leaf.WithHostWritable() : leaf;
}

// Empties the lowest entry on the way to `gpa` that is there.
void NestedVcpuImpl::DropPath(Gpa gpa) {
  TakeAway([&](ShadowZap& zap) {
    const ShadowPlace end = EndOfWay(*root_, gpa.raw());
    tables().Drop(*end.page, end.index, stock_.descriptors, zap);
  });
}

absl::Status NestedVcpuImpl::ReloadRoot() {
  ShadowPage* root = nullptr;
  TDP_RETURN_IF_ERROR(LoadRoot(context_, root));
  ReleaseRoot();
  root_ = root;
  return absl::OkStatus();
}

// --- L1's flushes --------------------------------------------------------------------------------

absl::StatusOr<bool> NestedVcpuImpl::Invept(uint64_t type, Eptp eptp, const EntryRules& rules) {
  constexpr uint64_t kSingle = 1;
  constexpr uint64_t kAll = 2;
  TDP_RETURN_IF_ERROR(CheckOutside());
  TDP_RETURN_IF_ERROR(CheckWidth(rules));
  const EptCapabilities can = rules.capabilities;
  const bool is_single = type == kSingle && can.invept_single();
  if (!is_single && !(type == kAll && can.invept_all())) return false;
  if (is_single && !eptp.Check(can, rules.physical_address_bits).ok()) return false;
  // Pages of one EPT12 are shared with others where these share tables, so all go. An EPTP says
  // nothing of address spaces, and neither does the CPU's cache.
  for (NestedShadow* shadow : parts_.shadows) shadow->ZapAll().Settle();
  return true;
}

absl::StatusOr<bool> NestedVcpuImpl::Invvpid(uint64_t type, uint64_t vpid, Gva gva,
                                             const EntryRules& rules, int linear_address_bits) {
  constexpr uint64_t kAddress = 0;
  constexpr uint64_t kAll = 2;
  constexpr uint64_t kLastType = 3;
  constexpr uint64_t kLastVpid = 0xffff;
  TDP_RETURN_IF_ERROR(CheckOutside());
  if (linear_address_bits != 48 && linear_address_bits != 57) {
    return absl::InvalidArgumentError(
        absl::StrFormat("linear_address_bits is %d: must be 48 or 57", linear_address_bits));
  }
  if (type > kLastType || !rules.capabilities.invvpid(static_cast<int>(type))) return false;
  if (vpid > kLastVpid || (vpid == 0 && type != kAll)) return false;
  if (type == kAddress && !IsCanonical(gva, linear_address_bits)) return false;
  owes_flush_ = true;
  return true;
}

// --- The face ------------------------------------------------------------------------------------

NestedVcpu::NestedVcpu(std::unique_ptr<NestedVcpuImpl> impl) : impl_(std::move(impl)) {}
NestedVcpu::~NestedVcpu() = default;

absl::Status NestedVcpu::Enter(const NestedContext& context) { return impl_->Enter(context); }
absl::Status NestedVcpu::Leave() { return impl_->Leave(); }
bool NestedVcpu::is_entered() const { return impl_->is_entered(); }
Eptp NestedVcpu::eptp() const { return impl_->eptp(); }

NestedFaultResult NestedVcpu::HandleViolation(Gpa gpa, ExitQualification qualification) {
  return impl_->HandleViolation(gpa, qualification);
}
absl::StatusOr<bool> NestedVcpu::Invept(uint64_t type, Eptp eptp, const EntryRules& rules) {
  return impl_->Invept(type, eptp, rules);
}
absl::StatusOr<bool> NestedVcpu::Invvpid(uint64_t type, uint64_t vpid, Gva gva,
                                         const EntryRules& rules, int linear_address_bits) {
  return impl_->Invvpid(type, vpid, gva, rules, linear_address_bits);
}

}  // namespace tdp
