// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::sim {
namespace {

constexpr PageCount kReservedFrames = PageCount::FromBytes(MiB(2));
constexpr int kTableBlockOrder = std::countr_zero(kTableBlockBytes) - kPageShift;

// Table blocks are aligned in physical memory and, since the direct map is one offset, must be so
// through it too: the arena is aligned to more than a page.
constexpr ByteCount kArenaAlignment = MiB(2);

std::byte* ReserveArena(ByteCount size) {
  TDP_CHECK(size % MiB(2) == 0 && size > MiB(2));
  void* reserved = mmap(nullptr, size + kArenaAlignment, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TDP_CHECK(reserved != MAP_FAILED);
  const auto start = reinterpret_cast<uintptr_t>(reserved);
  const uintptr_t aligned = (start + kArenaAlignment - 1) & ~(kArenaAlignment - 1);
  if (aligned != start) munmap(reserved, aligned - start);
  const uintptr_t end = aligned + size;
  munmap(reinterpret_cast<void*>(end), start + size + kArenaAlignment - end);
  return reinterpret_cast<std::byte*>(aligned);
}

absl::Status CheckRange(Hva hva, ByteCount size) {
  if (!hva.is_page_aligned()) {
    return absl::InvalidArgumentError(absl::StrFormat("hva %#x is not page aligned", hva.raw()));
  }
  if (size == 0 || size % kPageSize != 0 || hva.raw() + size < hva.raw()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "size %#x is not a positive number of pages after hva %#x", size, hva.raw()));
  }
  return absl::OkStatus();
}

uint64_t Vpn(Hva hva) { return hva.raw() >> kPageShift; }

FrameAllocatorOptions AllocatorOptions(const HostMemoryOptions& options) {
  return {.frames = PageCount::FromBytes(options.size),
          .reserved = kReservedFrames,
          .shuffled = options.shuffled,
          .fragmentation = options.fragmentation,
          .seed = options.seed};
}

}  // namespace

HostMemory::HostMemory(const HostMemoryOptions& options)
    : options_(options),
      arena_(ReserveArena(options.size)),
      allocator_(AllocatorOptions(options)) {}

HostMemory::~HostMemory() { munmap(arena_, options_.size); }

void HostMemory::Reset() {
  AbslMutexLock lock(mutex_);
  TDP_CHECK_EQ(table_blocks_, 0);
  regions_.clear();
  table_budget_.reset();
  allocator_.Reset();
}

// Notes that these frames are handed out. Whether one of them was before.
bool HostMemory::NoteUse(Hfn first, int order) {
  const uint64_t end = first.raw() + (uint64_t{1} << order);
  if (used_.size() < (end + 63) / 64) used_.resize((end + 63) / 64);
  bool any = false;
  for (uint64_t frame = first.raw(); frame < end;) {
    const uint64_t count = std::min(64 - frame % 64, end - frame);
    const uint64_t bits = (~uint64_t{0} >> (64 - count)) << frame % 64;
    any |= (used_[frame / 64] & bits) != 0;
    used_[frame / 64] |= bits;
    frame += count;
  }
  return any;
}

// Frames that were never handed out are zeros. Of large pieces few pages may have been touched, so
// their memory is dropped and not cleared.
std::optional<Hfn> HostMemory::AllocateFrames(int order, bool zeroed) {
  const std::optional<Hfn> first = allocator_.Allocate(order);
  if (!first.has_value() || !NoteUse(*first, order) || !zeroed) return first;
  std::byte* const memory = At(first->address());
  if (order == 0) {
    std::memset(memory, 0, kPageSize);
  } else {
    madvise(memory, kPageSize << order, MADV_DONTNEED);
  }
  return first;
}

PageCount HostMemory::free_frames() const {
  AbslMutexLock lock(mutex_);
  return allocator_.free_frames();
}

// --- table blocks ---

absl::StatusOr<Hpa> HostMemory::AllocateTableBlock() {
  AbslMutexLock lock(mutex_);
  if (table_budget_.has_value() && *table_budget_ <= 0) {
    return absl::ResourceExhaustedError("the budget of table blocks is used up");
  }
  const std::optional<Hfn> frame = AllocateFrames(kTableBlockOrder, /*zeroed=*/false);
  if (!frame.has_value()) {
    return absl::ResourceExhaustedError("no free run of frames for a table block");
  }
  if (table_budget_.has_value()) --*table_budget_;
  ++table_blocks_;
  return frame->address();
}

void HostMemory::FreeTableBlock(Hpa block) {
  AbslMutexLock lock(mutex_);
  allocator_.Free(Hfn::Of(block), kTableBlockOrder);
  --table_blocks_;
}

void HostMemory::SetTableBlockBudget(std::optional<int> blocks) {
  AbslMutexLock lock(mutex_);
  table_budget_ = blocks;
}

int HostMemory::table_blocks_in_use() const {
  AbslMutexLock lock(mutex_);
  return table_blocks_;
}

// --- regions ---

HostMemory::Regions::iterator HostMemory::FindRegion(uint64_t vpn) {
  const auto it = FirstBeyond(vpn);
  return it != regions_.end() && it->second.pages.Contains(vpn) ? it : regions_.end();
}

// Returns the first region that reaches beyond `vpn`.
HostMemory::Regions::iterator HostMemory::FirstBeyond(uint64_t vpn) {
  auto it = regions_.upper_bound(vpn);
  if (it == regions_.begin()) return it;
  const auto before = std::prev(it);
  return before->second.pages.end() > vpn ? before : it;
}

uint64_t HostMemory::MappedPagesIn(uint64_t first, uint64_t last) {
  uint64_t mapped = 0;
  for (auto it = FirstBeyond(first); it != regions_.end() && it->first < last; ++it) {
    const MappedRange& pages = it->second.pages;
    mapped += std::min(last, pages.end()) - std::max(first, pages.first());
  }
  return mapped;
}

void HostMemory::SplitRegionAt(uint64_t vpn) {
  const auto it = FindRegion(vpn);
  if (it == regions_.end() || it->first == vpn) return;
  regions_.emplace(vpn, Region{it->second.order, it->second.pages.SplitAt(vpn)});
}

// Pages that are backed, and some that are not.
template <typename Visit>
void HostMemory::ForEachKept(uint64_t first, uint64_t last, Visit visit) {
  for (auto it = FirstBeyond(first); it != regions_.end() && it->first < last; ++it) {
    it->second.pages.ForEachKept(first, last, visit);
  }
}

absl::Status HostMemory::Map(Hva hva, ByteCount size, const HostMapping& mapping) {
  TDP_RETURN_IF_ERROR(CheckRange(hva, size));
  if (mapping.order != 0 && mapping.order != 9 && mapping.order != 18) {
    return absl::InvalidArgumentError(
        absl::StrFormat("order %d of a host mapping is not 0, 9 or 18", mapping.order));
  }
  AbslMutexLock lock(mutex_);
  const uint64_t first = Vpn(hva);
  const uint64_t last = Vpn(hva + size);
  if (MappedPagesIn(first, last) != 0) {
    return absl::AlreadyExistsError(
        absl::StrFormat("hva %#x to %#x overlaps a mapping", hva.raw(), hva.raw() + size));
  }
  regions_.emplace(first, Region{mapping.order, MappedRange(first, last, mapping.writable)});
  return absl::OkStatus();
}

// A large piece that the page at `vpn` lies in becomes single pages, as when the host splits a huge
// page before it changes a part of it.
void HostMemory::BreakPieceAt(uint64_t vpn) {
  const auto it = FindRegion(vpn);
  if (it == regions_.end()) return;
  const int order = it->second.pages.Get(vpn).order;
  if (order == 0) return;
  const uint64_t first = vpn & ~((uint64_t{1} << order) - 1);
  ForEachKept(first, first + (uint64_t{1} << order),
              [](uint64_t, MappedPage& page) { page.order = 0; });
}

void HostMemory::ReleasePages(uint64_t first, uint64_t last) {
  BreakPieceAt(first);
  BreakPieceAt(last - 1);
  ForEachKept(first, last, [this](uint64_t, MappedPage& page) {
    mutex_.AssertHeld();
    if (page.hfn != 0) allocator_.Free(Hfn(page.hfn), 0);
    page.hfn = 0;
    page.order = 0;
  });
}

absl::Status HostMemory::Unmap(Hva hva, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckRange(hva, size));
  AbslMutexLock lock(mutex_);
  const uint64_t first = Vpn(hva);
  const uint64_t last = Vpn(hva + size);
  ReleasePages(first, last);
  SplitRegionAt(first);
  SplitRegionAt(last);
  regions_.erase(regions_.lower_bound(first), regions_.lower_bound(last));
  return absl::OkStatus();
}

absl::Status HostMemory::Discard(Hva hva, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckRange(hva, size));
  AbslMutexLock lock(mutex_);
  ReleasePages(Vpn(hva), Vpn(hva + size));
  return absl::OkStatus();
}

absl::Status HostMemory::Migrate(Hva hva, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckRange(hva, size));
  AbslMutexLock lock(mutex_);
  BreakPieceAt(Vpn(hva));
  BreakPieceAt(Vpn(hva + size) - 1);
  bool exhausted = false;
  ForEachKept(Vpn(hva), Vpn(hva + size), [&](uint64_t, MappedPage& page) {
    mutex_.AssertHeld();
    page.order = 0;
    if (page.hfn == 0 || exhausted) return;
    const std::optional<Hfn> target = AllocateFrames(0, /*zeroed=*/false);  // it is written over
    exhausted = !target.has_value();
    if (exhausted) return;
    std::memcpy(At(target->address()), At(Hfn(page.hfn).address()), kPageSize);
    allocator_.Free(Hfn(page.hfn), 0);
    page.hfn = target->raw();
  });
  if (exhausted) return absl::ResourceExhaustedError("no free frame to move a page to");
  return absl::OkStatus();
}

absl::Status HostMemory::Protect(Hva hva, ByteCount size, bool writable) {
  TDP_RETURN_IF_ERROR(CheckRange(hva, size));
  AbslMutexLock lock(mutex_);
  const uint64_t first = Vpn(hva);
  const uint64_t last = Vpn(hva + size);
  if (MappedPagesIn(first, last) != last - first) {
    return absl::NotFoundError(
        absl::StrFormat("hva %#x to %#x is not wholly mapped", hva.raw(), hva.raw() + size));
  }
  BreakPieceAt(first);
  BreakPieceAt(last - 1);
  for (auto it = FindRegion(first); it != regions_.end() && it->first < last; ++it) {
    MappedRange& pages = it->second.pages;
    const uint64_t end = std::min(last, pages.end());
    for (uint64_t vpn = std::max(first, pages.first()); vpn < end; ++vpn) {
      pages.At(vpn).writable = writable;
    }
  }
  return absl::OkStatus();
}

// --- the first touch ---

bool HostMemory::BackPiece(MappedRange& pages, uint64_t vpn, int order) {
  const uint64_t count = uint64_t{1} << order;
  const uint64_t start = vpn & ~(count - 1);
  if (start < pages.first() || start + count > pages.end()) return false;
  const bool writable = pages.Get(vpn).writable;
  for (uint64_t at = start; at < start + count; ++at) {
    const MappedPage page = pages.Get(at);
    if (page.hfn != 0 || page.writable != writable) return false;
  }
  const std::optional<Hfn> frame = AllocateFrames(order, /*zeroed=*/true);
  if (!frame.has_value()) return false;
  for (uint64_t i = 0; i < count; ++i) {
    MappedPage& page = pages.At(start + i);
    page.hfn = frame->raw() + i;
    page.order = static_cast<int8_t>(order);
  }
  return true;
}

bool HostMemory::Back(Region& region, uint64_t vpn) {
  for (int order = region.order; order >= 0; order -= 9) {
    if (BackPiece(region.pages, vpn, order)) return true;
  }
  return false;
}

absl::StatusOr<HostPage> HostMemory::Resolve(Hva hva, Access access) {
  AbslMutexLock lock(mutex_);
  const uint64_t vpn = Vpn(hva);
  const auto it = FindRegion(vpn);
  if (it == regions_.end()) {
    return absl::NotFoundError(absl::StrFormat("nothing is mapped at hva %#x", hva.raw()));
  }
  const MappedPage& page = it->second.pages.At(vpn);
  if (access.can_write() && !page.writable) {
    return absl::PermissionDeniedError(absl::StrFormat("hva %#x is read-only", hva.raw()));
  }
  if (page.hfn == 0 && !Back(it->second, vpn)) {
    return absl::ResourceExhaustedError(absl::StrFormat("no free frame for hva %#x", hva.raw()));
  }
  return HostPage{.hfn = Hfn(page.hfn), .order = page.order, .writable = page.writable};
}

absl::StatusOr<std::byte*> HostMemory::AtHva(Hva hva) {
  TDP_ASSIGN_OR_RETURN(const HostPage page, Resolve(hva, Access::Read()));
  return At(page.hfn.address() + hva.page_offset());
}

}  // namespace tdp::sim
