// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/guest_kernel.h"

#include <atomic>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

// Bits of an x86-64 paging-structure entry (SDM vol. 3A, 4.5.4).
constexpr uint64_t kPresent = 1 << 0;
constexpr uint64_t kWritable = 1 << 1;
constexpr uint64_t kUser = 1 << 2;
constexpr uint64_t kAccessed = 1 << 5;
constexpr uint64_t kLargePage = 1 << 7;
// Marks an entry that is not present, in which every other bit is the kernel's own: the page was
// evicted, and the bits of the address are its number.
constexpr uint64_t kEvicted = 1 << 9;
constexpr uint64_t kAddressMask = 0x000f'ffff'ffff'f000;

uint64_t Load(uint64_t* entry) {
  return std::atomic_ref<uint64_t>(*entry).load(std::memory_order_acquire);
}

// Other CPUs walk these tables: what the entry points to is filled before the entry is seen.
void Store(uint64_t* entry, uint64_t value) {
  std::atomic_ref<uint64_t>(*entry).store(value, std::memory_order_release);
}

bool IsLeaf(uint64_t entry, Level level) { return level == kLevel4K || (entry & kLargePage) != 0; }

}  // namespace

absl::StatusOr<std::unique_ptr<GuestKernel>> GuestKernel::Create(const MemoryMap& map,
                                                                 GuestMemory memory,
                                                                 const Options& options) {
  std::unique_ptr<GuestKernel> kernel(new GuestKernel(map, std::move(memory), options));
  AbslMutexLock lock(kernel->mutex_);
  TDP_RETURN_IF_ERROR(kernel->MakeSpace());
  return kernel;
}

GuestKernel::GuestKernel(const MemoryMap& map, GuestMemory memory, const Options& options)
    : options_(options), memory_(std::move(memory)), frames_(map, options.frames) {}

absl::StatusOr<size_t> GuestKernel::AddSpace() {
  AbslMutexLock lock(mutex_);
  written_ = nullptr;
  TDP_RETURN_IF_ERROR(MakeSpace());
  return roots_.size() - 1;
}

absl::Status GuestKernel::MakeSpace() {
  TDP_ASSIGN_OR_RETURN(const Gfn root, AllocateTable());
  const size_t space = roots_.size();
  roots_.push_back(root.address());
  mappings_.emplace_back();
  if (!options_.shared_kernel) return absl::OkStatus();
  if (space == 0) {
    TDP_RETURN_IF_ERROR(MapKernelMemory());
  } else {
    // The kernel's tables hang at one entry of each root.
    const Level top(options_.levels);
    TDP_ASSIGN_OR_RETURN(const Entry from, EntryAt(Gfn::Of(roots_[0]), top, Gva(kKernelMemory)));
    TDP_ASSIGN_OR_RETURN(const Entry to, EntryAt(root, top, Gva(kKernelMemory)));
    Write(to, Load(from.place));
  }
  for (ByteCount at = 0; at < kStackBytes; at += kPageSize) {
    TDP_RETURN_IF_ERROR(MapKernelPage(Gva(StackOf(space) + at), kLevel4K));
  }
  return absl::OkStatus();
}

// With one large page where there is one, as kernels are.
absl::Status GuestKernel::MapKernelMemory() {
  const absl::Status whole = MapKernelPage(Gva(kKernelMemory), kLevel2M);
  if (!absl::IsResourceExhausted(whole)) return whole;
  for (ByteCount at = 0; at < kKernelBytes; at += kPageSize) {
    TDP_RETURN_IF_ERROR(MapKernelPage(Gva(kKernelMemory + at), kLevel4K));
  }
  return absl::OkStatus();
}

absl::Status GuestKernel::MapKernelPage(Gva gva, Level level) {
  TDP_ASSIGN_OR_RETURN(const Entry entry, WalkTo(0, gva, level));
  const std::optional<Gfn> frame = frames_.Allocate(level);
  if (!frame.has_value()) {
    return absl::ResourceExhaustedError("the guest has no memory left for its kernel");
  }
  Write(entry, frame->address().raw() | kPresent | kWritable | (level > kLevel4K ? kLargePage : 0));
  return absl::OkStatus();
}

absl::Status GuestKernel::HandlePageFault(Gva gva, std::vector<Gpa>* written, size_t space) {
  AbslMutexLock lock(mutex_);
  written_ = written;
  for (Level level = options_.page; level > kLevel4K; level = level.below()) {
    TDP_ASSIGN_OR_RETURN(bool mapped, Map(space, gva, level));
    if (mapped) return absl::OkStatus();
  }
  TDP_ASSIGN_OR_RETURN(bool mapped, Map(space, gva, kLevel4K));
  if (mapped) return absl::OkStatus();
  size_t pages = 0;
  for (const auto& mappings : mappings_) pages += mappings.size();
  return absl::ResourceExhaustedError(
      absl::StrCat("the guest has no memory left after ", pages, " pages"));
}

absl::StatusOr<GuestMapping> GuestKernel::TakeAway(uint64_t index, Gpa& written, size_t space) {
  AbslMutexLock lock(mutex_);
  written_ = nullptr;
  const GuestMapping mapping = mappings_[space][index % mappings_[space].size()];
  TDP_ASSIGN_OR_RETURN(const Entry entry, WalkTo(space, mapping.gva, mapping.level));
  Write(entry, Load(entry.place) & ~kPresent);
  written = entry.gpa;
  return mapping;
}

absl::Status GuestKernel::Evict(size_t index, size_t space) {
  AbslMutexLock lock(mutex_);
  written_ = nullptr;
  const GuestMapping& mapping = mappings_[space][index];
  if (mapping.level != kLevel4K) return absl::InvalidArgumentError("a large page is not evicted");
  TDP_ASSIGN_OR_RETURN(const Entry entry, WalkTo(space, mapping.gva, kLevel4K));
  Write(entry, uint64_t{index} << kPageShift | kEvicted);
  frames_.Free(Gfn::Of(mapping.gpa));
  return absl::OkStatus();
}

absl::StatusOr<bool> GuestKernel::TestAndClearAccessed(size_t index, size_t space) {
  AbslMutexLock lock(mutex_);
  const GuestMapping& mapping = mappings_[space][index];
  TDP_ASSIGN_OR_RETURN(const Entry entry, WalkTo(space, mapping.gva, mapping.level));
  return (std::atomic_ref<uint64_t>(*entry.place).fetch_and(~kAccessed) & kAccessed) != 0;
}

GuestMapping GuestKernel::mapping(size_t index, size_t space) const {
  AbslMutexLock lock(mutex_);
  return mappings_[space][index];
}

void GuestKernel::Write(const Entry& entry, uint64_t value) {
  Store(entry.place, value);
  if (written_ != nullptr) written_->push_back(entry.gpa);
}

absl::StatusOr<bool> GuestKernel::Map(size_t space, Gva gva, Level level) {
  TDP_ASSIGN_OR_RETURN(const Entry entry, WalkTo(space, gva, level));
  const uint64_t old = Load(entry.place);
  if ((old & kPresent) != 0) return IsLeaf(old, level);
  const bool evicted = (old & kEvicted) != 0;
  if (old != 0 && !evicted) {
    Write(entry, old | kPresent);  // it had been taken away
    return true;
  }
  const std::optional<Gfn> frame = frames_.Allocate(level);
  if (!frame.has_value()) return false;
  const uint64_t large = level > kLevel4K ? kLargePage : 0;
  Write(entry, frame->address().raw() | kPresent | kWritable | kUser | large);
  if (evicted) {
    mappings_[space][(old & kAddressMask) >> kPageShift].gpa = frame->address();
  } else {
    mappings_[space].push_back({gva.AlignDown(level.bytes()), frame->address(), level});
  }
  return true;
}

absl::StatusOr<GuestKernel::Entry> GuestKernel::WalkTo(size_t space, Gva gva, Level target) {
  Gfn table = Gfn::Of(roots_[space]);
  for (Level level(options_.levels);; level = level.below()) {
    TDP_ASSIGN_OR_RETURN(const Entry entry, EntryAt(table, level, gva));
    uint64_t value = Load(entry.place);
    if (level == target || ((value & kPresent) != 0 && IsLeaf(value, level))) return entry;
    if ((value & kPresent) == 0) {
      TDP_ASSIGN_OR_RETURN(Gfn made, AllocateTable());
      value = made.address().raw() | kPresent | kWritable | kUser;
      Write(entry, value);
    }
    table = Gfn::Of(Gpa(value & kAddressMask));
  }
}

absl::StatusOr<GuestKernel::Entry> GuestKernel::EntryAt(Gfn table, Level level, Gva gva) {
  TDP_ASSIGN_OR_RETURN(std::byte * page, memory_(table));
  const uint64_t index = gva.raw() >> level.shift() & (Level::kEntries - 1);
  return Entry{reinterpret_cast<uint64_t*>(page) + index,
               table.address() + index * sizeof(uint64_t)};
}

absl::StatusOr<Gfn> GuestKernel::AllocateTable() {
  const std::optional<Gfn> frame = frames_.Allocate(kLevel4K);
  if (!frame.has_value()) {
    return absl::ResourceExhaustedError("the guest has no memory left for its page tables");
  }
  table_pages_ += PageCount(1);
  return *frame;
}

std::vector<GuestMapping> GuestKernel::mappings(size_t space) const {
  AbslMutexLock lock(mutex_);
  return mappings_[space];
}

PageCount GuestKernel::table_pages() const {
  AbslMutexLock lock(mutex_);
  return table_pages_;
}

}  // namespace tdp::tools
