// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest kernel's loader makes the kernel's own tables, and the registers it starts with.

#include "tdp/base/check.h"
#include "tests/kernel/guest_kernel.h"

namespace tdp::kernel {
namespace {

constexpr uint64_t kBootEnd = 0x40000;
constexpr uint64_t kTables = 72;
constexpr uint64_t kData = 128;
constexpr uint64_t kBlocks = uint64_t{16} << 20;
constexpr uint64_t kTableBits = kPresent | kWritable | kUser;

}  // namespace

GuestKernel::GuestKernel(Referee& referee, const KernelFeatures& features)
    : referee_(referee),
      shape_(referee.shape()),
      layout_(shape_),
      features_(features),
      pool_(kBootEnd, kTables, kData, kBlocks, kGuestBytes),
      tables_(referee, pool_),
      shootdown_(referee, features) {
  for (uint64_t i = 0; i < kTables; ++i) referee.SetTable(kBootEnd + i * 4096, true);
  spaces_[0] = {true, BootTable()};
  BuildDirectMap();
  BuildKernelRegion();
  for (const auto& [at, value] : boot_entries_) {
    if (at >> 12 == spaces_[0].root >> 12) kernel_roots_[at & 0xfff] = value;
  }
  for (int cpu = 0; cpu < referee.cpus(); ++cpu) referee.Start(cpu, FirstRegisters());
}

uint64_t GuestKernel::BootTable() {
  const uint64_t table = next_boot_table_;
  next_boot_table_ += 4096;
  TDP_CHECK_LT(table, kBootEnd);
  referee_.SetTable(table, true);
  return table;
}

void GuestKernel::BootStore(uint64_t entry, uint64_t value) {
  boot_entries_[entry] = value;
  referee_.Poke(entry, value);
}

uint64_t GuestKernel::BootEntry(uint64_t gva, int level) {
  uint64_t table = spaces_[0].root;
  for (int at_level = shape_.is_pae() ? 3 : shape_.levels;; --at_level) {
    const bool is_pdpte = shape_.is_pae() && at_level == 3;
    const uint64_t at =
        is_pdpte ? table + (gva >> 30 & 3) * 8 : shape_.EntryAt(table, gva, at_level);
    if (at_level == level) return at;
    if (boot_entries_[at] == 0) BootStore(at, BootTable() | (is_pdpte ? kPresent : kTableBits));
    table = boot_entries_[at] & kFrame;
  }
}

void GuestKernel::BuildDirectMap() {
  const int level = features_.large_direct_map ? 2 : 1;
  const uint64_t bits =
      kPresent | kWritable | (level == 2 ? kLarge : 0) | (features_.global_pages ? kGlobal : 0);
  for (uint64_t gpa = 0; gpa < kGuestBytes; gpa += shape_.PageBytes(level)) {
    BootStore(BootEntry(layout_.DirectMapOf(gpa), level), gpa | bits);
  }
}

// Makes a table for the region's leaves, so that nothing above them ever changes.
void GuestKernel::BuildKernelRegion() {
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    tables_.set_scratch_entry(cpu, BootEntry(layout_.ScratchOf(cpu), 1));
  }
}

sim::Registers GuestKernel::FirstRegisters() const {
  sim::Registers registers;
  registers.cr0 = sim::kCr0Pe | sim::kCr0Pg | sim::kCr0Wp;
  registers.cr4 = shape_.mode == sim::PagingMode::k32Bit ? sim::kCr4Pse : sim::kCr4Pae;
  if (shape_.levels == 5) registers.cr4 |= sim::kCr4La57;
  if (features_.global_pages) registers.cr4 |= sim::kCr4Pge;
  if (features_.pcids) registers.cr4 |= sim::kCr4Pcide;
  if (shape_.has_no_execute()) registers.efer |= sim::kEferNxe;
  if (shape_.is_64bit()) registers.efer |= sim::kEferLme | sim::kEferLma;
  registers.cr3 = spaces_[0].root | (features_.pcids ? 1 : 0);
  return registers;
}

}  // namespace tdp::kernel
