// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/guest_hypervisor.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/access.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/memory_type.h"

namespace tdp::tools {
namespace {

EptEntry Load(uint64_t* entry) {
  return EptEntry(std::atomic_ref<uint64_t>(*entry).load(std::memory_order_acquire));
}

// The engine reads these tables meanwhile: what the entry points to is filled before it is seen.
void Store(uint64_t* entry, EptEntry value) {
  std::atomic_ref<uint64_t>(*entry).store(value.raw(), std::memory_order_release);
}

Access RightsOf(const MapRegion* region) {
  if (region == nullptr || region->kind == RegionKind::kMmio) return Access::None();
  return region->kind == RegionKind::kRom ? Access::ReadExecute() : Access::All();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestHypervisor>> GuestHypervisor::Create(const MemoryMap& map,
                                                                         GuestMemory memory,
                                                                         ByteCount table_memory,
                                                                         const Options& options) {
  std::unique_ptr<GuestHypervisor> hypervisor(
      new GuestHypervisor(map, std::move(memory), table_memory, options));
  AbslMutexLock lock(hypervisor->mutex_);
  TDP_ASSIGN_OR_RETURN(const Gfn root, hypervisor->AllocateTable());
  hypervisor->eptp_ = Eptp::Make(Hpa(root.address().raw()), options.levels, false);
  return hypervisor;
}

GuestHypervisor::GuestHypervisor(const MemoryMap& map, GuestMemory memory, ByteCount table_memory,
                                 const Options& options)
    : map_(map), memory_(std::move(memory)), table_memory_(table_memory), options_(options) {}

absl::StatusOr<bool> GuestHypervisor::HandleViolation(Gpa gpa, Access access) {
  const MapRegion* region = map_.Find(gpa);
  const Access rights = RightsOf(region);
  if (rights.is_empty() || !rights.Covers(access)) return false;
  const Level level = LevelFor(*region, gpa);
  AbslMutexLock lock(mutex_);
  TDP_ASSIGN_OR_RETURN(uint64_t * entry, WalkTo(gpa, level));
  if (Load(entry).is_present()) return true;  // another CPU was faster
  // L1 takes frames of its own memory for host frames.
  const Hfn frame = Hfn::Of(Hpa(gpa.AlignDown(level.bytes()).raw() + kL2Memory));
  Store(entry, EptEntry::Leaf(frame, level, rights, MemoryType::kWriteBack));
  ++leaves_[level.raw() - 1];
  return true;
}

Level GuestHypervisor::LevelFor(const MapRegion& region, Gpa gpa) const {
  const Gpa block = gpa.AlignDown(options_.page.bytes());
  const bool fits = region.Contains(block) && region.Contains(block + (options_.page.bytes() - 1));
  return fits ? options_.page : kLevel4K;
}

absl::StatusOr<uint64_t*> GuestHypervisor::WalkTo(Gpa gpa, Level target) {
  Gfn table = Gfn(eptp_.root().raw() >> kPageShift);
  for (Level level = eptp_.root_level();; level = level.below()) {
    TDP_ASSIGN_OR_RETURN(uint64_t * entry, EntryAt(table, level, gpa));
    if (level == target) return entry;
    if (!Load(entry).is_present()) {
      TDP_ASSIGN_OR_RETURN(const Gfn made, AllocateTable());
      Store(entry, EptEntry::Table(Hpa(made.address().raw())));
    }
    table = Gfn(Load(entry).address().raw() >> kPageShift);
  }
}

absl::StatusOr<bool> GuestHypervisor::Maps(Gpa gpa) const {
  AbslMutexLock lock(mutex_);
  Gfn table = Gfn(eptp_.root().raw() >> kPageShift);
  for (Level level = eptp_.root_level();; level = level.below()) {
    TDP_ASSIGN_OR_RETURN(uint64_t * at, EntryAt(table, level, gpa));
    const EptEntry entry = Load(at);
    if (entry.kind(level) != EntryKind::kTable) return entry.is_present();
    table = Gfn(entry.address().raw() >> kPageShift);
  }
}

absl::StatusOr<uint64_t*> GuestHypervisor::EntryAt(Gfn table, Level level, Gpa gpa) const {
  TDP_ASSIGN_OR_RETURN(std::byte * page, memory_(table));
  return reinterpret_cast<uint64_t*>(page) + (gpa.raw() >> level.shift() & (Level::kEntries - 1));
}

absl::StatusOr<Gfn> GuestHypervisor::AllocateTable() {
  const Gfn frame(table_pages_.raw());
  if ((frame.raw() + 1) * kPageSize > table_memory_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the guest's hypervisor has no memory left after ", frame.raw(), " tables"));
  }
  table_pages_ += PageCount(1);
  return frame;
}

std::array<uint64_t, 2> GuestHypervisor::leaves() const {
  AbslMutexLock lock(mutex_);
  return leaves_;
}

PageCount GuestHypervisor::table_pages() const {
  AbslMutexLock lock(mutex_);
  return table_pages_;
}

}  // namespace tdp::tools
