// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A model of the part of a guest kernel that paging sees: it gives programs their memory at the
// first touch and describes it in real x86-64 page tables, in guest memory, a root for each
// program.

#ifndef TDP_TOOLS_GUEST_GUEST_KERNEL_H_
#define TDP_TOOLS_GUEST_GUEST_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/tools/guest/guest_frames.h"
#include "tdp/tools/guest/memory_map.h"

namespace tdp::tools {

// The kernel's own reach to its memory: the 4 KiB page at `gfn`, zeroed before its first use.
using GuestMemory = std::function<absl::StatusOr<std::byte*>(Gfn gfn)>;

// One page of the program.
struct GuestMapping {
  Gva gva;
  Gpa gpa;
  Level level = kLevel4K;
};

// Thread-safe: each vCPU may take page faults. The kernel's own accesses are made at once and are
// not part of what is replayed.
class GuestKernel {
 public:
  struct Options {
    Level page =
        kLevel4K;    // largest page for the program; smaller ones where no such frame is free
    int levels = 4;  // of the page tables, 4 or 5
    // Every address space has the kernel in its upper half: text and data of 2 MiB, and a stack of
    // two pages for each program.
    bool shared_kernel = false;
    GuestFrames::Options frames = {};
  };

  // Where that is, for 4 and 5 levels alike.
  static constexpr uint64_t kKernelMemory = 0xffff'ff80'0000'0000;
  static constexpr ByteCount kKernelBytes = MiB(2);
  static constexpr uint64_t kKernelStacks = 0xffff'ffc0'0000'0000;
  static constexpr ByteCount kStackBytes = KiB(8);
  // Returns where the stack of the program in `space` begins; pages that are mapped to nothing lie
  // between stacks.
  static constexpr uint64_t StackOf(size_t space) {
    return kKernelStacks + 2 * kStackBytes * uint64_t{space};
  }

  // Makes the root table. ResourceExhausted if there is no frame for it.
  static absl::StatusOr<std::unique_ptr<GuestKernel>> Create(const MemoryMap& map,
                                                             GuestMemory memory,
                                                             const Options& options);

  // Another address space, for another program: its number. The first has number 0.
  // ResourceExhausted without guest memory. Before there are threads.
  absl::StatusOr<size_t> AddSpace() ABSL_LOCKS_EXCLUDED(mutex_);
  size_t spaces() const { return roots_.size(); }

  // Returns what CR3 holds, but for the PCID.
  Gpa root(size_t space = 0) const { return roots_[space]; }
  int levels() const { return options_.levels; }

  // Maps the page of `gva`, readable, writable and executable by the user, if it is not mapped.
  // ResourceExhausted when guest RAM is used up.
  // A page that was taken away comes back. `written`, if not null, gets the places of the table
  // entries that were stored.
  absl::Status HandlePageFault(Gva gva, std::vector<Gpa>* written = nullptr, size_t space = 0)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes the `index`-th of all pages of `space`, modulo their number, out of the tables until it
  // faults: as a kernel does that looks for idle pages. There is at least one. Returns it, for its
  // invalidation, with the place of its entry in `written`.
  absl::StatusOr<GuestMapping> TakeAway(uint64_t index, Gpa& written, size_t space = 0)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes the `index`-th page of `space` away and gives its frame to who asks next; the page gets
  // another one when it faults. InvalidArgument for a large page. The caller invalidates it.
  absl::Status Evict(size_t index, size_t space = 0) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns whether the A bit of the `index`-th page is set, which it is no more afterwards.
  absl::StatusOr<bool> TestAndClearAccessed(size_t index, size_t space = 0)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The `index`-th page. Where one is that was evicted means nothing.
  GuestMapping mapping(size_t index, size_t space = 0) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns all pages of the program in `space`, in the order of their first touch.
  std::vector<GuestMapping> mappings(size_t space = 0) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns how many pages hold page tables, the root included.
  PageCount table_pages() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  GuestKernel(const MemoryMap& map, GuestMemory memory, const Options& options);

  absl::Status MakeSpace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Maps the kernel's own page, in all spaces.
  absl::Status MapKernelPage(Gva gva, Level level) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MapKernelMemory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Gfn> AllocateTable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An entry in memory, and where that is.
  struct Entry {
    uint64_t* place;
    Gpa gpa;
  };
  absl::StatusOr<Entry> EntryAt(Gfn table, Level level, Gva gva)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns the lowest present entry on the way to `gva`, made down to `target` where it is
  // missing: the entry of `target`, or a large leaf above it.
  absl::StatusOr<Entry> WalkTo(size_t space, Gva gva, Level target)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(const Entry& entry, uint64_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Maps the page of `gva` in `space` at `level`. False if there is no frame of that size, or
  // smaller pages stand in its place.
  absl::StatusOr<bool> Map(size_t space, Gva gva, Level level)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const GuestMemory memory_;
  std::vector<Gpa> roots_;  // by space
  mutable absl::Mutex mutex_;
  GuestFrames frames_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::vector<GuestMapping>> mappings_ ABSL_GUARDED_BY(mutex_);  // by space
  PageCount table_pages_ ABSL_GUARDED_BY(mutex_);
  std::vector<Gpa>* written_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the call under way
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_GUEST_GUEST_KERNEL_H_
