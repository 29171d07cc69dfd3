// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/model/starved_machine.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <utility>

#include "tdp/base/check.h"
#include "tdp/mmu/format/table_page.h"

namespace tdp::model {

StarvedMachine::StarvedMachine(const VmOptions& options, bool with_vcpu) {
  std::memset(reinterpret_cast<void*>(ram().raw()), 0, 64 * kPageSize);
  host.order = 9;
  host.offered.eptp_switching = true;
  host.offered.ve = true;
  host.offered.pml = true;
  Start(options, with_vcpu);
}

StarvedMachine::~StarvedMachine() {
  vcpu.reset();
  hoarders_.clear();
  vm.reset();
  EXPECT_EQ(host.freed_blocks, host.given_blocks);
}

// The memory is this process's own, so that frames are there: the guest's large pages, and the
// memory that other slots name.
Hva StarvedMachine::ram() {
  static const uintptr_t start = [] {
    void* const reserved = mmap(nullptr, kStarvedSize + MiB(2), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TDP_CHECK(reserved != MAP_FAILED);
    return (reinterpret_cast<uintptr_t>(reserved) + MiB(2) - 1) & ~uintptr_t{MiB(2) - 1};
  }();
  return Hva(start);
}

absl::Status StarvedMachine::SetSlot(uint32_t slot, uint32_t flags, Gpa gpa, ByteCount size) {
  return vm->SetMemoryRegion(
      {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = ram() + slot * GiB(1)});
}

void StarvedMachine::Fill() {
  EXPECT_TRUE(SetRam().ok());
  for (uint64_t page = 0; page < kStarvedPages / 2; page += 512) EXPECT_TRUE(Fault(page).ok());
  host.order = 0;
  for (uint64_t page = kStarvedPages / 2; page < kStarvedPages; page += 300) {
    EXPECT_TRUE(Fault(page).ok());
  }
}

// There are three tables above those of the first 2 MiB, in frames 1 to 4.
void StarvedMachine::WriteTables(uint64_t bits) {
  const auto entry = [](uint64_t table, uint64_t index) {
    return reinterpret_cast<uint64_t*>(ram().raw() + table * kPageSize) + index;
  };
  for (uint64_t table = 1; table < 4; ++table) {
    *entry(table, 0) = (table + 1) << kPageShift | (bits & 0x67);
  }
  for (uint64_t i = 1; i < 64; ++i) *entry(4, i) = i << kPageShift | bits;
}

size_t StarvedMachine::FreeTables() const {
  const VmStats stats = vm->Stats();
  const size_t blocks = stats.table_bytes_reserved / kTableBlockBytes;
  return blocks * kTablesPerBlock - stats.tables_in_use;
}

void StarvedMachine::TakeFreeTables() {
  if (vcpu != nullptr) vcpu = *vm->CreateVcpu();
  const int blocks = host.blocks.exchange(0);
  for (size_t free = FreeTables(), before = free + 1; free < before;) {
    auto hoarder = vm->CreateVcpu();
    if (!hoarder.ok()) break;
    if (vm->options().paging != Paging::kShadow) {
      // Nobody has been at this address, so the fault there fills the vCPU's stock.
      const Gpa hole = Gpa(TiB(1)) + GiB(1) * hoarders_.size();
      (void)(*hoarder)->HandleEptViolation(hole, kReadFault);
    }
    hoarders_.push_back(*std::move(hoarder));
    before = std::exchange(free, FreeTables());
  }
  while (vm->CreateView().ok()) {
  }
  host.blocks = blocks;
  host.refused_blocks = 0;
}

}  // namespace tdp::model
