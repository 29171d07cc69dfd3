// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/engine.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/dirty/detached_dirt.h"

namespace tdp {
namespace {

SlotLimits LimitsOf(const VmOptions& options, const Capabilities& capabilities) {
  SlotLimits limits;
  limits.slots = options.slot_limit;
  limits.address_spaces = options.address_spaces;
  limits.guest_physical_address_bits = GuestPhysicalBits(options);
  limits.user_address_end = options.host_address_end;
  // In two dimensions a guest's address goes through the CPU's own paging, which stops at the CPU's
  // width whatever the guest was told. A shadow maps host frames only.
  if (options.paging == Paging::kEpt) {
    limits.max_physical_address_bits = capabilities.physical_address_bits;
  }
  limits.private_memory = options.private_memory;
  return limits;
}

}  // namespace

Engine::Engine(Backend& backend, const VmOptions& options)
    : slots(LimitsOf(options, backend.capabilities())),
      mmu_lock(options.section_clock),
      pool(backend, options.table_quota,
           EptEntry::Empty(UsesVirtualizationExceptions(options, backend.capabilities()))),
      clock(backend, *this),
      table_reclaim(*this),
      quotas_(options.ept_levels, options.address_spaces,
              options.nested || options.paging == Paging::kShadow),
      table_quota_by_memory_(options.table_quota == kQuotaByMemory),
      spare_(pool),
      backend_(backend),
      options_(options),
      accessed_dirty_(UsesAccessedDirty(options, backend.capabilities())),
      dirty_tracking_(DirtyTrackingInUse(options, backend.capabilities())),
      max_leaf_level_(MaxLeafLevel(options, backend.capabilities())),
      guest_end_(uint64_t{1} << GuestPhysicalBits(options)) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Backend& backend, const VmOptions& options) {
  TDP_RETURN_IF_ERROR(CheckVmOptions(options, backend.capabilities()));
  auto engine = absl::WrapUnique(new Engine(backend, options));
  for (int space = 0; space < options.address_spaces; ++space) {
    TDP_RETURN_IF_ERROR(engine->AddAddressSpace());
  }
  for (int space = 0; options.nested && space < options.address_spaces; ++space) {
    const ShadowTablesOptions nested = {static_cast<AddressSpaceId>(space),
                                        options.shadow_page_quota};
    engine->nested_.push_back(
        std::make_unique<NestedShadow>(engine->pool, engine->shadow_pools_, engine->clock, nested));
  }
  engine->ChangeQuotas([](MemoryQuotas&) {});
  return engine;
}

// Before anyone else sees the engine.
absl::Status Engine::AddAddressSpace() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (options_.private_memory && private_frames == nullptr) {
    private_frames = std::make_unique<const PrivateFrames>(false);
  }
  DirectMmuOptions mmu;
  mmu.levels = options_.ept_levels;
  mmu.accessed_dirty = accessed_dirty_;
  mmu.address_space = static_cast<AddressSpaceId>(views_.size());
  mmu.execute_4k_only = options_.execute_4k_only;
  LeafPolicyOptions policy;
  policy.accessed_dirty = accessed_dirty_;
  policy.largest = max_leaf_level_;
  policy.tracking = dirty_tracking_;
  policy.execute_4k_only = mmu.execute_4k_only;
  policy.execute_by_mode = UsesExecuteByMode(options_, backend_.capabilities());
  policy.suppress_ve = pool.empty_entry().suppress_ve();
  auto views = std::make_unique<ViewSet>(mmu, policy, pool);
  TDP_ASSIGN_OR_RETURN(View * base, views->Make());
  base->policy().set_private_frames(private_frames.get());
  base->Open();
  if (options_.reverse_map) {
    reverse_mapped_.push_back(std::make_unique<ReverseMappedMmu>(base->mmu()));
  }
  if (options_.paging == Paging::kShadow) {
    const ShadowTablesOptions shadow = {mmu.address_space, options_.shadow_page_quota};
    shadows_.push_back(std::make_unique<PagingShadow>(pool, shadow_pools_, clock, shadow));
  }
  views_.push_back(std::move(views));
  return absl::OkStatus();
}

Engine::~Engine() {
  clock.Reclaim();  // no vCPU is left, so everything that waited can go
  shadows_.clear();
  nested_.clear();
  TableList roots;
  for (const auto& views : views_) views->TakeTables(roots);
  Engine::Reclaim(std::move(roots));
}

PagingParts Engine::shadow_parts() {
  return {backend_,      slots,    sequence, mmu_lock, views_[0]->base().policy(),
          shadow_pools_, shadows_, *this};
}

NestedParts Engine::nested_parts() {
  return {backend_,      slots,   sequence, mmu_lock, views_[0]->base().policy(),
          shadow_pools_, nested_, *this};
}

absl::StatusOr<TablePage*> Engine::NewRoot() {
  TableList one;
  TDP_RETURN_IF_ERROR(pool.Take(1, one));
  return one.Pop();
}

EntryDefect Engine::CheckEntry(EptEntry entry, Level level) const {
  const Capabilities& capabilities = backend_.capabilities();
  EntryRules rules;
  rules.capabilities = capabilities.ept;
  rules.physical_address_bits = capabilities.physical_address_bits;
  rules.mbec = UsesExecuteByMode(options_, capabilities);
  return entry.Check(level, rules);
}

bool Engine::Detach(AddressSpaceId space, Gfn first, Gfn end, TableCache& spare,
                    TableList& detached) {
  bool any = DetachNested(space, first, end, detached);
  ForEachView(space,
              [&](View& view) { any |= DetachIn(space, view, first, end, spare, detached); });
  return any;
}

bool Engine::DetachNested(AddressSpaceId space, Gfn first, Gfn end, TableList& detached) {
  NestedShadow* nested_shadow = nested(space);
  if (ABSL_PREDICT_TRUE(nested_shadow == nullptr)) return false;
  ShadowZap zap;
  nested_shadow->Detach(first, end, zap);
  const bool any = !zap.is_empty();
  detached.Splice(std::move(zap.tables));
  return any;
}

bool Engine::DetachIn(AddressSpaceId space, View& view, Gfn first, Gfn end, TableCache& spare,
                      TableList& detached) {
  if (ReverseMappedMmu* mapped = reverse_mapped(space)) {
    return mapped->Detach(first, end, spare, detached);
  }
  if (PagingShadow* shadowed = shadow(space)) {
    ShadowZap zap;
    shadowed->Detach(first, end, zap);
    const bool any = !zap.is_empty();
    detached.Splice(std::move(zap.tables));
    return any;
  }
  if (!HarvestsDetached()) return view.mmu().Detach(first, end, spare, detached);
  DetachedDirt dirt(slots, space);
  return view.mmu().Detach(first, end, spare, detached, &dirt);
}

bool Engine::DetachRaising(const MemorySlot& slot, TableList& detached) {
  bool any = false;
  TableList found;
  ForEachView(slot.address_space, [&](View& view) {
    const ViewRules* rules = view.policy().rules();
    if (rules == nullptr || !rules->has_marked()) return;
    TableCache none(pool);  // a large leaf over an edge goes as a whole
    any |= view.mmu().Detach(slot.base, slot.end(), none, found);
  });
  // Whatever D bits are there are older than the log, or it ends.
  for (TablePage* table = found.head(); table != nullptr; table = table->next) {
    table->may_be_dirty = false;
  }
  detached.Splice(std::move(found));
  return any;
}

// MMIO entries stand anywhere, and to look for them would be to visit every table. It is done once
// in half a million changes of slots or more, and costs the guest its faults again.
bool Engine::DetachMmio(AddressSpaceId space, TableList& detached) {
  if (!options_.mmio_caching || options_.paging == Paging::kShadow) return false;
  TableCache none(pool);  // nothing has to be split
  bool any = false;
  ForEachView(space, [&](View& view) {
    any |= DetachIn(space, view, Gfn(0), view.mmu().end(), none, detached);
  });
  return any;
}

bool Engine::WriteProtect(AddressSpaceId space, Gfn first, Gfn end) {
  NestedShadow* nested_shadow = nested(space);
  const bool any = nested_shadow != nullptr && nested_shadow->WriteProtect(first, end);
  return WriteProtectDirect(space, first, end) || any;
}

bool Engine::WriteProtectDirect(AddressSpaceId space, Gfn first, Gfn end) {
  if (ReverseMappedMmu* mapped = reverse_mapped(space)) return mapped->WriteProtect(first, end);
  if (PagingShadow* shadowed = shadow(space)) return shadowed->WriteProtect(first, end);
  bool any = false;
  ForEachView(space, [&](View& view) { any |= view.mmu().WriteProtect(first, end); });
  return any;
}

void Engine::NarrowPages(MmuLock::Reader& reader, AddressSpaceId space, Gfn base, uint64_t mask,
                         uint64_t bits) {
  TDP_CHECK(clock.is_narrowing());
  MmuReadSection section(reader);
  if (PagingShadow* shadowed = shadow(space)) {
    const SpinLockHolder hold(shadowed->lock());
    shadowed->WriteProtectPages(base, mask);
  } else {
    ForEachView(space, [&](View& view) { view.mmu().NarrowPages(base, mask, bits); });
  }
  if (NestedShadow* nested_shadow = nested(space)) {
    const SpinLockHolder hold(nested_shadow->lock());
    nested_shadow->WriteProtectPages(base, mask);
  }
}

// `detach_all(spare, detached)` takes mappings away in a writer's section and says whether there
// were any. If not, someone else may have taken them and not have settled yet: that is owed then.
template <typename DetachAll>
PendingFlush Engine::ZapBy(DetachAll detach_all) {
  // For a large leaf that reaches over an end. Without tables to split it the leaf goes as a whole,
  // which is as correct and only costs a fault more.
  TableCache fresh(pool);
  if (!has_spare_.load(std::memory_order_relaxed)) fresh.Refill().IgnoreError();
  TableList detached;
  MmuWriteSection section(mmu_lock);
  spare_.TakeFrom(fresh);
  const bool any = detach_all(spare_, detached);
  PendingFlush flush = clock.AdvanceIf(any);
  clock.Retire(std::move(detached), flush);
  if (any) zaps.Add();
  has_spare_.store(spare_.IsStocked(), std::memory_order_relaxed);
  return flush;
}

PendingFlush Engine::Zap(AddressSpaceId space, Gfn first, Gfn end) {
  end = std::min(end, mmu(space).end());
  return ZapBy([&](TableCache& spare, TableList& detached) {
    return Detach(space, first, end, spare, detached);
  });
}

PendingFlush Engine::ZapEverywhere(Gfn first, Gfn end, absl::FunctionRef<void()> before) {
  end = std::min(end, mmu(0).end());
  return ZapBy([&](TableCache& spare, TableList& detached) {
    before();
    bool any = false;
    for (size_t space = 0; space < address_spaces(); ++space) {
      any |= Detach(static_cast<AddressSpaceId>(space), first, end, spare, detached);
    }
    return any;
  });
}

PendingFlush Engine::ZapIn(AddressSpaceId space, View& view, Gfn first, Gfn end,
                           absl::FunctionRef<void()> before) {
  end = std::min(end, view.mmu().end());
  return ZapBy([&](TableCache& spare, TableList& detached) {
    before();
    return DetachIn(space, view, first, end, spare, detached);
  });
}

// First no CPU can get at anything; then the pages go, a few in a section.
template <typename Shadow>
PendingFlush Engine::ZapShadow(Shadow& shadow) {
  constexpr size_t kBatch = 64;
  PendingFlush flush;
  bool more = true;
  for (bool first = true; more; first = false) {
    MmuWriteSection section(mmu_lock);
    ShadowZap zap;
    if (first) {
      shadow.MakeObsolete(zap);
    } else {
      more = shadow.ZapObsolete(kBatch, zap);
    }
    PendingFlush part = clock.Advance();
    clock.Retire(std::move(zap.tables), part);
    flush.Merge(std::move(part));
    if (first) zaps.Add();
  }
  return flush;
}

template <typename Visit>
void Engine::ForEachShadow(Visit visit) {
  for (const std::unique_ptr<PagingShadow>& shadow : shadows_) visit(*shadow);
  for (const std::unique_ptr<NestedShadow>& shadow : nested_) visit(*shadow);
}

// Zaps the oldest shadow pages, up to `count` of each address space, and settles the flush. How
// many they were.
size_t Engine::RecycleShadows(size_t count) {
  size_t zapped = 0;
  ForEachShadow([&](auto& shadow) {
    PendingFlush flush;
    {
      MmuWriteSection section(mmu_lock);
      ShadowZap zap;
      zapped += shadow.ZapOldest(count, zap);
      flush = shadow.Commit(std::move(zap));
    }
    flush.Settle();
  });
  return zapped;
}

size_t Engine::RecycleTables(size_t wanted) {
  constexpr size_t kShadowsAtOnce = 32;
  if (options_.paging == Paging::kShadow) return RecycleShadows(kShadowsAtOnce);
  size_t shadow_tables = 0;
  ForEachShadow([&](const auto& shadow) { shadow_tables += shadow.table_count(); });
  if (2 * shadow_tables > pool.taken()) {
    const size_t zapped = RecycleShadows(kShadowsAtOnce);
    return zapped != 0 ? zapped : table_reclaim.Run(wanted);
  }
  const size_t cold = table_reclaim.Run(wanted);
  return cold != 0 ? cold : RecycleShadows(kShadowsAtOnce);
}

void Engine::ChangeQuotas(absl::FunctionRef<void(MemoryQuotas&)> change) {
  MutexLock lock(quota_mutex_);
  change(quotas_);
  if (table_quota_by_memory_) pool.set_quota(quotas_.Tables());
  if (options_.shadow_page_quota != kQuotaByMemory) return;
  ForEachShadow([this](auto& shadow) ABSL_EXCLUSIVE_LOCKS_REQUIRED(quota_mutex_) {
    shadow.set_page_quota(quotas_.ShadowPages(shadow.options().address_space));
  });
}

void Engine::FixTableQuota(size_t tables) {
  MutexLock lock(quota_mutex_);
  table_quota_by_memory_ = false;
  pool.set_quota(tables);
}

void Engine::TrimShadows() {
  constexpr size_t kBatch = 64;
  ForEachShadow([&](auto& shadow) {
    for (size_t zapped = kBatch; zapped == kBatch;) {
      PendingFlush flush;
      {
        MmuWriteSection section(mmu_lock);
        ShadowZap zap;
        zapped = shadow.ZapOldest(std::min(kBatch, shadow.excess()), zap);
        flush = shadow.Commit(std::move(zap));
      }
      shadow.Settle(std::move(flush));
    }
  });
}

absl::StatusOr<PendingFlush> Engine::ZapAll(AddressSpaceId space) {
  if (PagingShadow* shadowed = shadow(space)) return ZapShadow(*shadowed);
  // At the quota this is the way to get tables back, so the quota must not refuse the new root.
  TDP_ASSIGN_OR_RETURN(TablePage * root, pool.TakeInExchange());
  TableCache spare(pool);  // nothing has to be split
  TableList detached;
  PendingFlush flush;
  if (NestedShadow* nested_shadow = nested(space)) flush = ZapShadow(*nested_shadow);
  {
    MmuWriteSection section(mmu_lock);
    if (ReverseMappedMmu* mapped = reverse_mapped(space)) mapped->ForgetAll();
    TablePage* old = mmu(space).ReplaceRoot(root);
    old->may_be_dirty = true;
    detached.Push(old);
    views(space).UpdateList(views(space).base());
    // Other views keep their roots: no table has to be had for them, and the cost is flat, too.
    for (size_t i = kBaseView + 1; i < views(space).size(); ++i) {
      DetachIn(space, views(space)[i], Gfn(0), mmu(space).end(), spare, detached);
    }
    PendingFlush part = clock.AdvanceAllRoots();
    clock.Retire(std::move(detached), part);
    flush.Merge(std::move(part));
    zaps.Add();
  }
  return flush;
}

// Every table is followed by its children in the list, so that the list is both the work and the
// result.
void Engine::Reclaim(TableList&& subtrees) {
  TableList work = std::move(subtrees);
  TableList done;
  std::optional<DetachedHarvest> harvest;
  if (HarvestsDetached()) harvest.emplace(slots, mmu_lock);
  while (TablePage* table = work.Pop()) {
    const Level level = table->level();
    if (level == kLevel4K && harvest && table->may_be_dirty) harvest->Take(*table);
    for (int i = 0; level > kLevel4K && i < Level::kEntries; ++i) {
      const EptEntry entry = table->entry(i).Load();
      if (entry.kind(level) == EntryKind::kTable) {
        TablePage* below = TablePage::Of(pool.EntriesOf(entry.address()));
        below->may_be_dirty = table->may_be_dirty && entry.is_writable();
        work.Push(below);
      }
    }
    done.Push(table);
  }
  tables_freed.fetch_add(done.size(), std::memory_order_relaxed);
  pool.Return(std::move(done));
}

}  // namespace tdp
