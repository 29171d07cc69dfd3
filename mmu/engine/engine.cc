// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/engine.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
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
  limits.host_physical_address_bits = capabilities.physical_address_bits;
  limits.user_address_end = options.host_address_end;
  limits.max_physical_address_bits = SlotAddressBits(options, capabilities);
  limits.private_memory = options.private_memory;
  return limits;
}

}  // namespace

Engine::Engine(Backend& backend, const VmOptions& options)
    : slots_(LimitsOf(options, backend.capabilities())),
      mmu_lock_(options.section_clock),
      pool_(backend, options.table_quota,
            EptEntry::Empty(UsesVirtualizationExceptions(options, backend.capabilities()))),
      clock_(backend, *this),
      cold_tables_(*this),
      logging_(DirtyTrackingInUse(options, backend.capabilities())),
      quotas_(options.ept_levels, options.address_spaces),
      table_quota_by_memory_(options.table_quota == kQuotaByMemory),
      spare_(pool_),
      backend_(backend),
      options_(options),
      accessed_dirty_(UsesAccessedDirty(options, backend.capabilities())),
      max_leaf_level_(MaxLeafLevel(options, backend.capabilities())),
      guest_end_(uint64_t{1} << GuestPhysicalBits(options)),
      paging_kind_(PagingKindOf(options)),
      shadow_pools_(MakeShadowOwner<ShadowPools>()) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Backend& backend, const VmOptions& options) {
  TDP_RETURN_IF_ERROR(CheckVmOptions(options, backend.capabilities()));
  auto engine = absl::WrapUnique(new Engine(backend, options));
  for (int space = 0; space < options.address_spaces; ++space) {
    TDP_RETURN_IF_ERROR(engine->AddAddressSpace());
  }
  engine->ChangeQuotas([&engine](MemoryQuotas& quotas) {
    engine->ForEachKind([&quotas](MappedTables& tables) { tables.AddNeeds(quotas); });
  });
  return engine;
}

MmuParts Engine::parts() { return {slots_, mmu_lock_, pool_, clock_, logging_, zaps_}; }

// Adds an address space before anyone else sees the engine.
absl::Status Engine::AddAddressSpace() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (options_.private_memory && private_frames_ == nullptr) {
    private_frames_ = std::make_unique<const PrivateFrames>(false);
  }
  AddressSpaceOptions space;
  space.kind = paging_kind_;
  space.caches_mmio = options_.mmio_caching;
  space.mmu.levels = options_.ept_levels;
  space.mmu.accessed_dirty = accessed_dirty_;
  space.mmu.address_space = static_cast<AddressSpaceId>(spaces_.size());
  space.mmu.execute_4k_only = options_.execute_4k_only;
  space.policy.accessed_dirty = accessed_dirty_;
  space.policy.largest = max_leaf_level_;
  space.policy.tracking = dirty_tracking();
  space.policy.execute_4k_only = options_.execute_4k_only;
  space.policy.execute_by_mode = UsesExecuteByMode(options_, backend_.capabilities());
  space.policy.resolves_pages = backend_.capabilities().resolves_pages;
  space.policy.suppress_ve = pool_.empty_entry().suppress_ve();
  space.shadow = {space.mmu.address_space, options_.shadow_page_quota};
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<AddressSpace> made,
                       AddressSpace::Make(space, parts(), shadow_pools_.get()));
  made->views().base().policy().set_private_frames(private_frames_.get());
  spaces_.push_back(std::move(made));
  return absl::OkStatus();
}

Engine::~Engine() {
  clock_.Reclaim();  // no vCPU is left, so everything that waited can go
  TableList roots;
  for (const std::unique_ptr<AddressSpace>& space : spaces_) space->TakeTables(roots);
  Engine::Reclaim(std::move(roots));
}

PagingParts Engine::shadow_parts() {
  std::vector<PagingShadow*> shadows;
  for (const std::unique_ptr<AddressSpace>& space : spaces_)
    shadows.push_back(space->shadow_tables());
  return {
      backend_,           slots_, sequence_, mmu_lock_, views(0).base().policy(), *shadow_pools_,
      std::move(shadows), *this};
}

NestedParts Engine::nested_parts() {
  std::vector<NestedShadow*> shadows;
  for (const std::unique_ptr<AddressSpace>& space : spaces_)
    shadows.push_back(space->nested_tables());
  return {
      backend_,           slots_, sequence_, mmu_lock_, views(0).base().policy(), *shadow_pools_,
      std::move(shadows), *this};
}

void Engine::AddTo(VmStats& stats) const {
  stats.zaps = zaps_.value();
  stats.tables_freed = tables_freed();
  stats.table_reclaims = recycles_.load(std::memory_order_relaxed);
  stats.tables_in_use = pool_.taken();
  stats.table_bytes_reserved = pool_.reserved_bytes();
  for (const std::unique_ptr<AddressSpace>& space : spaces_) {
    space->ForEachKind([&](const MappedTables& tables) { tables.AddTo(stats.shadow); });
  }
  stats.writer_section_ns = mmu_lock_.writer_ns();
  stats.flush_generation = clock_.generation();
}

EntryDefect Engine::CheckEntry(EptEntry entry, Level level) const {
  const Capabilities& capabilities = backend_.capabilities();
  EntryRules rules;
  rules.capabilities = capabilities.ept;
  rules.physical_address_bits = capabilities.physical_address_bits;
  rules.mbec = UsesExecuteByMode(options_, capabilities);
  return entry.Check(level, rules);
}

void Engine::NarrowPages(MmuLock::Reader& reader, AddressSpaceId space, Gfn base, uint64_t mask,
                         WriteNotice notice) {
  TDP_CHECK(clock_.is_narrowing());
  const MmuReadSection section(reader);
  spaces_[space]->NarrowPages(base, mask, notice);
}

// Returns how many tables split the leaves that reach over both ends of as many ranges in every
// view, or as many of them as are kept at hand.
int Engine::SpareFor(size_t ranges) const {
  constexpr size_t kPerRange = 4;  // of 1 GiB into 2 MiB into 4 KiB, at both ends
  size_t views = 0;
  for (const std::unique_ptr<AddressSpace>& space : spaces_) views += space->views().size();
  constexpr auto kLeast = static_cast<size_t>(TableCache::kFaultMaximum);
  constexpr auto kMost = static_cast<size_t>(TableCache::kCapacity);
  return static_cast<int>(std::clamp(kPerRange * views * std::min(ranges, kMost), kLeast, kMost));
}

void Engine::NoteSpare() {
  const int size = spare_.size();
  spare_noted_.store(size >= SpareFor(1) ? size : 0, std::memory_order_relaxed);
}

// Few zaps need any.
ABSL_ATTRIBUTE_NOINLINE void Engine::RefillSpare(size_t ranges) {
  const int wanted = SpareFor(ranges);
  if (spare_noted_.load(std::memory_order_relaxed) >= wanted) return;
  TableCache fresh(pool_);
  // Near the quota some are better than none.
  if (!fresh.Refill(wanted).ok()) fresh.Refill().IgnoreError();
  const MmuWriteSection section(mmu_lock_);
  spare_.TakeFrom(fresh, wanted);
  NoteSpare();
}

size_t Engine::GiveSpareBack() {
  TableCache given(pool_);  // returns them behind the section
  const MmuWriteSection section(mmu_lock_);
  given.TakeFrom(spare_, TableCache::kCapacity);
  NoteSpare();
  return static_cast<size_t>(given.size());
}

// `detach_all(spare, detached)` takes mappings away in a writer's section and says whether there
// were any. If not, someone else may have taken them and not have settled yet: that is owed then.
// `then(flush)` is called at the end of the section.
template <typename DetachAll, typename Then>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline PendingFlush Engine::ZapBy(DetachAll detach_all, Then then) {
  TableList detached;
  MmuWriteSection section(mmu_lock_);
  const int spare = spare_.size();
  const bool any = detach_all(spare_, detached);
  PendingFlush flush = clock_.AdvanceIf(any);
  clock_.Retire(std::move(detached), flush);
  if (any) zaps_.Add();
  if (ABSL_PREDICT_FALSE(spare_.size() != spare)) {
    NoteSpare();
  }
  then(flush);
  return flush;
}

template <typename DetachAll>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline PendingFlush Engine::ZapBy(DetachAll detach_all) {
  return ZapBy(detach_all, [](const PendingFlush&) {});
}

PendingFlush Engine::ZapWith(
    absl::FunctionRef<bool(TableCache& spare, TableList& detached)> detach_all) {
  return ZapBy(detach_all);
}

PendingFlush Engine::Zap(AddressSpaceId space, FrameRange range) {
  StockSpare();
  return ZapBy([&](TableCache& spare, TableList& detached) {
    return spaces_[space]->Detach(range, spare, detached);
  });
}

PendingFlush Engine::ZapEverywhere(Gfn first, Gfn end, absl::FunctionRef<void()> before) {
  end = std::min(end, mmu(0).end());
  return ZapBy([&](TableCache& spare, TableList& detached) {
    before();
    bool any = false;
    ForEachSpace([&](AddressSpace& space) { any |= space.Detach({first, end}, spare, detached); });
    return any;
  });
}

PendingFlush Engine::ZapIn(AddressSpaceId space, View& view, Gfn first, Gfn end,
                           absl::FunctionRef<void()> before) {
  end = std::min(end, view.mmu().end());
  return ZapBy([&](TableCache& spare, TableList& detached) {
    before();
    return spaces_[space]->DetachIn(view, {first, end}, spare, detached);
  });
}

PendingFlush Engine::ZapSlot(const MemorySlot& slot, absl::FunctionRef<void()> after) {
  return ZapBy([&](TableCache& spare, TableList& detached) {
    sequence_.Move();
    const bool any = spaces_[slot.address_space]->Detach({slot.base, slot.end()}, spare, detached);
    after();
    return any;
  });
}

void Engine::ShowPrivateFrames(const PrivateFrames* frames) {
  AssertWriting(mmu_lock_);
  ForEachSpace([frames](AddressSpace& space) {
    space.views().ForEach([frames](View& view) { view.policy().set_private_frames(frames); });
  });
}

void Engine::TrackAccess() {
  bool is_new = false;
  ForEachSpace([&is_new](AddressSpace& space) {
    space.views().ForEach([&is_new](View& view) { is_new |= view.policy().SetMayBeAged(); });
  });
  if (!is_new) return;
  const MmuWriteSection section(mmu_lock_);
  sequence_.Move();
}

PendingFlush Engine::BeginInvalidation(HostRange range, bool may_end, bool& ended) {
  const auto detach_all = [&](TableCache& spare, TableList& detached) {
    bool any = false;
    slots_.ForEachInHostRange(range, [&](const MemorySlot& slot, Gfn first, PageCount pages) {
      any |= spaces_[slot.address_space]->Detach({first, first + pages}, spare, detached);
    });
    return any;
  };
  return ZapBy(detach_all, [&](const PendingFlush& owed) {
    ended = may_end && clock_.TrySettle(owed);
    ended ? sequence_.Move() : sequence_.Begin(range);
  });
}

// Zaps the oldest shadow pages, up to `count` of each address space, and settles the flush. Returns
// how many they were; where there is none to zap, how many tables came back all the same: another
// thread may have zapped them and not settled, and its flush is as good as one of our own.
size_t Engine::RecycleShadows(size_t count) {
  const uint64_t before = tables_freed();
  size_t zapped = 0;
  ForEachKind([&](MappedTables& tables) { zapped += tables.ZapOldest(count); });
  if (zapped != 0) return zapped;
  clock_.Outstanding().Settle();
  clock_.WaitForReclaims();
  return tables_freed() - before;
}

size_t Engine::RecycleTables(size_t wanted) {
  constexpr size_t kShadowsAtOnce = 32;
  size_t shadow_tables = 0;
  ForEachKind([&](MappedTables& tables) { shadow_tables += tables.shadow_table_count(); });
  if (2 * shadow_tables > pool_.taken()) {
    const size_t zapped = RecycleShadows(kShadowsAtOnce);
    return zapped != 0 ? zapped : cold_tables_.Run(wanted);
  }
  const size_t cold = cold_tables_.Run(wanted);
  return cold != 0 ? cold : RecycleShadows(kShadowsAtOnce);
}

void Engine::ChangeQuotas(absl::FunctionRef<void(MemoryQuotas&)> change) {
  MutexLock lock(quota_mutex_);
  change(quotas_);
  if (table_quota_by_memory_) pool_.set_quota(quotas_.Tables());
  if (options_.shadow_page_quota != kQuotaByMemory) return;
  const MemoryQuotas quotas = quotas_;
  ForEachKind([&quotas](MappedTables& tables) { tables.SetQuota(quotas); });
}

void Engine::SetTableQuota(size_t tables) {
  MutexLock lock(quota_mutex_);
  table_quota_by_memory_ = tables == kQuotaByMemory;
  pool_.set_quota(table_quota_by_memory_ ? quotas_.Tables() : tables);
}

void Engine::TrimShadows() {
  ForEachKind([](MappedTables& tables) { tables.TrimToQuota(); });
}

// Goes through detached subtrees. Every table is followed by its children in the list, so that the
// list is both the work and the result.
void Engine::Reclaim(TableList&& subtrees) {
  TableList work = std::move(subtrees);
  TableList done;
  std::optional<DetachedHarvest> harvest;
  if (logging_.are_harvested()) harvest.emplace(slots_, mmu_lock_);
  while (TablePage* table = work.Pop()) {
    const Level level = table->level();
    if (level == kLevel4K && harvest && table->may_be_dirty) harvest->Take(*table);
    for (int i = 0; level > kLevel4K && i < Level::kEntries; ++i) {
      const EptEntry entry = table->entry(i).Load();
      if (entry.kind(level) == EntryKind::kTable) {
        TablePage* below = TablePage::Of(pool_.EntriesOf(entry.address()));
        below->may_be_dirty = table->may_be_dirty && entry.is_writable();
        work.Push(below);
      }
    }
    done.Push(table);
  }
  tables_freed_.fetch_add(done.size(), std::memory_order_relaxed);
  pool_.Return(std::move(done));
}

}  // namespace tdp
