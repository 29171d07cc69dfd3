// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A host for tests of ranges: frames follow from addresses, and the test decides the rest.

#ifndef TDP_TESTS_MMU_ARITHMETIC_HOST_H_
#define TDP_TESTS_MMU_ARITHMETIC_HOST_H_

#include <atomic>
#include <set>

#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/vm.h"

namespace tdp {

class ArithmeticHost : public MinimalBackend {
 public:
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
    resolves.fetch_add(1, std::memory_order_relaxed);
    if (missing.contains(hva)) return absl::NotFoundError("nothing is mapped there");
    HostPage page;
    page.hfn = Hfn((hva.raw() + offset) >> kPageShift);
    page.order = order;
    page.writable = writable || access.can_write();
    page.memory_type = memory_type;
    return page;
  }

  std::atomic<int> resolves = 0;
  int order = 0;
  bool writable = true;
  uint64_t offset = 0;
  MemoryType memory_type = MemoryType::kWriteBack;
  std::set<Hva> missing;
};

// The entry that maps `gpa`, for a test that plays the CPU; null if none does.
inline uint64_t* EntryOf(const Vm& vm, Gpa gpa) {
  const Eptp eptp = vm.eptp();
  auto* table = reinterpret_cast<uint64_t*>(eptp.root().raw());
  for (Level level = eptp.root_level();; level = level.below()) {
    uint64_t* where = table + level.IndexOf(Gfn::Of(gpa));
    const EptEntry entry = EntryRef(where).Load();
    if (entry.kind(level) == EntryKind::kLeaf) return where;
    if (entry.kind(level) != EntryKind::kTable) return nullptr;
    table = reinterpret_cast<uint64_t*>(entry.address().raw());
  }
}

}  // namespace tdp

#endif  // TDP_TESTS_MMU_ARITHMETIC_HOST_H_
