// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Simulated host memory: physical frames in one lazily filled arena, and the host's page table from
// host virtual addresses to frames. A test plays the host kernel with it: it maps, moves, protects
// and takes away pages, and tells the `Vm` as an mmu-notifier would.

#ifndef TDP_BACKENDS_SIM_HOST_MEMORY_H_
#define TDP_BACKENDS_SIM_HOST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tdp/backends/sim/frame_allocator.h"
#include "tdp/backends/sim/mapped_range.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"

namespace tdp::sim {

struct HostMemoryOptions {
  ByteCount size = GiB(64);  // of physical memory; costs nothing until touched. Whole 2 MiB
  bool shuffled = false;     // single frames come out in random order
  double fragmentation = 0;  // share of 2 MiB blocks that cannot back a large page, 0 to 1
  uint64_t seed = 1;
};

// Tells how a range of host virtual memory is to be backed.
struct HostMapping {
  int order = 0;  // largest piece of backing: 0 (4 KiB), 9 (2 MiB) or 18 (1 GiB). Where no such
                  // piece is free or the range is too short for it, the next smaller one
  bool writable = true;
};

// Thread-safe. Addresses and sizes of ranges are multiples of 4 KiB, else InvalidArgument.
class HostMemory {
 public:
  explicit HostMemory(const HostMemoryOptions& options = {});
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Makes it as new: no range is mapped, no budget is set, and the same calls find the same frames
  // again, with zeros in them. Costs what was used and not the size. No table block is in use
  // (checked).
  void Reset();

  // --- physical memory ---
  ByteCount size() const { return options_.size; }
  // Returns the distance at which memory is reached: the byte at `hpa` stands at the pointer `hpa +
  // direct_map_offset()`.
  uintptr_t direct_map_offset() const { return reinterpret_cast<uintptr_t>(arena_); }
  // Returns what the CPUs see.
  PhysicalMemory physical() const { return PhysicalMemory(arena_, options_.size); }
  std::byte* At(Hpa hpa) const { return arena_ + hpa.raw(); }
  PageCount free_frames() const;

  // `kTableBlockBytes` of frames for tables. ResourceExhausted if memory or the budget is used up.
  absl::StatusOr<Hpa> AllocateTableBlock();
  void FreeTableBlock(Hpa block);
  // Lets `blocks` more table blocks be had, then none: for starvation tests. Nullopt lifts the
  // limit.
  void SetTableBlockBudget(std::optional<int> blocks);
  int table_blocks_in_use() const;

  // --- host virtual memory ---
  // Reserves [hva, hva + size) as anonymous memory, backed at the first touch. AlreadyExists if a
  // page of it is mapped.
  absl::Status Map(Hva hva, ByteCount size, const HostMapping& mapping = {});
  // Takes the range out of the page table and frees its frames. Nothing need be mapped there.
  absl::Status Unmap(Hva hva, ByteCount size);
  // Frees the frames but keeps the range: the next touch finds zeroed memory (MADV_DONTNEED).
  absl::Status Discard(Hva hva, ByteCount size);
  // Moves every backed page of the range to another frame with its content, in pieces of 4 KiB.
  absl::Status Migrate(Hva hva, ByteCount size);
  // Makes the range writable or not. NotFound if a page of it is not mapped.
  absl::Status Protect(Hva hva, ByteCount size, bool writable);

  // Returns the page behind `hva`, backed now if it was not. NotFound if nothing is mapped there,
  // PermissionDenied for a write to a read-only page, ResourceExhausted without free frames.
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access);

  // Like `Resolve` for a read, and gives the byte's place; valid to the end of its 4 KiB page.
  absl::StatusOr<std::byte*> AtHva(Hva hva);

 private:
  // A range made by one `Map`, or what later calls left of it.
  struct Region {
    int order;  // of the largest piece of backing
    MappedRange pages;
  };
  using Regions = std::map<uint64_t, Region>;  // by first page number

  Regions::iterator FindRegion(uint64_t vpn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Regions::iterator FirstBeyond(uint64_t vpn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t MappedPagesIn(uint64_t first, uint64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SplitRegionAt(uint64_t vpn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Back(Region& region, uint64_t vpn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool BackPiece(MappedRange& pages, uint64_t vpn, int order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Hfn> AllocateFrames(int order, bool zeroed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool NoteUse(Hfn first, int order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BreakPieceAt(uint64_t vpn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleasePages(uint64_t first, uint64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  template <typename Visit>
  void ForEachKept(uint64_t first, uint64_t last, Visit visit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HostMemoryOptions options_;
  std::byte* const arena_;
  mutable absl::Mutex mutex_;
  FrameAllocator allocator_ ABSL_GUARDED_BY(mutex_);
  // A bit for each frame that was ever handed out, as far as there are any: it may hold old bytes.
  std::vector<uint64_t> used_ ABSL_GUARDED_BY(mutex_);
  Regions regions_ ABSL_GUARDED_BY(mutex_);
  std::optional<int> table_budget_ ABSL_GUARDED_BY(mutex_);
  int table_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_HOST_MEMORY_H_
