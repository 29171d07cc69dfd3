// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest for benchmarks: a `Vm` with one slot over a host that answers by arithmetic.

#ifndef TDP_BENCHMARKS_GUEST_H_
#define TDP_BENCHMARKS_GUEST_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {

// Every host page is there, writable, and of 2^order frames; the frame follows from the address.
class ArithmeticHost : public MinimalBackend {
 public:
  explicit ArithmeticHost(int order) : order_(order) {}
  absl::StatusOr<HostPage> Resolve(Hva hva, Access) override {
    HostPage page;
    page.hfn = Hfn(hva.raw() >> kPageShift);
    page.order = order_;
    return page;
  }
  // Host pages of 4 KiB that happen to lie in a row are one run.
  absl::StatusOr<size_t> ResolveRange(Hva hva, PageCount pages, Access access,
                                      absl::Span<HostRun> runs) override {
    runs[0] = {*Resolve(hva, access), pages};
    return size_t{1};
  }

 private:
  const int order_;
};

class Guest {
 public:
  // `size` bytes of memory from gpa 0, in host pages of 2^order frames.
  Guest(ByteCount size, int order, VmOptions options = {}, uint32_t flags = 0);

  // A fault that found nothing mapped; aborts unless it is fixed or spurious.
  void Fault(uint64_t gfn) { Fault(*vcpu, gfn); }
  void Fault(Vcpu& on, uint64_t gfn);
  // Faults every frame in, in steps of `step` frames.
  void Populate(uint64_t step = 1);
  // Empties every leaf table without touching the structure: the next faults find their tables
  // warm.
  void ClearLeaves();
  // Returns how many tables are linked, the root included.
  uint64_t CountTables() const;

  const ByteCount size;
  const uint64_t pages;
  ArithmeticHost host;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
};

// 0 to n-1 in a random order that is always the same.
std::vector<uint32_t> Shuffled(uint64_t n);

}  // namespace tdp::bench

#endif  // TDP_BENCHMARKS_GUEST_H_
