// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest kernel reads and writes its page tables through this, by its own accesses: through its
// mapping of all memory or through a page that it maps for the purpose.

#ifndef TDP_TESTS_KERNEL_GUEST_TABLES_H_
#define TDP_TESTS_KERNEL_GUEST_TABLES_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "tests/kernel/frame_pool.h"
#include "tests/kernel/guest_layout.h"
#include "tests/kernel/referee.h"

namespace tdp::kernel {

// Says what the kernel's own walk of its tables found.
struct TableWalk {
  int level = 0;          // of the leaf, or of the entry that is not present
  uint64_t entry_at = 0;  // its gpa
  uint64_t entry = 0;
  Rights rights;

  bool present() const { return (entry & kPresent) != 0; }
};

class GuestTables {
 public:
  GuestTables(Referee& referee, FramePool& pool)
      : referee_(referee), pool_(pool), shape_(referee.shape()), layout_(shape_) {}

  // Says which CPU makes the accesses from now on, and whether stores go through a page of its own.
  void Use(int cpu, bool through_scratch) {
    cpu_ = cpu;
    through_scratch_ = through_scratch;
  }
  // Says which entry in the kernel's tables maps this CPU's own page.
  void set_scratch_entry(int cpu, uint64_t gpa) { scratch_entries_[cpu & 7] = gpa; }

  uint64_t ReadEntry(uint64_t gpa);
  void WriteEntry(uint64_t gpa, uint64_t value);
  uint64_t ReadWord(uint64_t gpa);
  void WriteWord(uint64_t gpa, uint64_t value);

  // Walks to `gva` from the tables at `root`.
  TableWalk Walk(uint64_t root, uint64_t gva) { return WalkTo(root, gva, 1); }
  // Goes down to `level` at most, and stops there whatever the entry is.
  TableWalk WalkTo(uint64_t root, uint64_t gva, int level);
  // Returns the place of the entry of `level` on the way to `gva`, with tables made above it.
  // Nothing if there is no frame for one, or a large page is in the way. `made_pdpte` says that CR3
  // must be loaded again for the CPU to see it.
  std::optional<uint64_t> EntryFor(uint64_t root, uint64_t gva, int level, bool& made_pdpte);

  // Returns a frame for a table, all zero.
  std::optional<uint64_t> NewTable() { return pool_.AllocateTable(); }

 private:
  int top() const { return shape_.is_pae() ? 3 : shape_.levels; }
  uint64_t EntryAt(uint64_t table, uint64_t gva, int level) const;
  void WriteThroughScratch(uint64_t gpa, uint64_t value);
  void WriteDirectly(uint64_t gpa, uint64_t value);
  MachineAccess Kernel(uint64_t gva, sim::AccessKind kind, uint64_t value = 0) const;

  Referee& referee_;
  FramePool& pool_;
  const PagingShape shape_;
  const GuestLayout layout_;
  int cpu_ = 0;
  bool through_scratch_ = false;
  uint64_t scratch_entries_[8] = {};
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_GUEST_TABLES_H_
