// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This small guest kernel has a few programs: it makes and destroys address spaces, forks them with
// copy-on-write, maps, unmaps and protects pages, turns large pages into small ones and back, and
// answers page faults. Operations tell it what to do, one by one.

#ifndef TDP_TESTS_KERNEL_GUEST_KERNEL_H_
#define TDP_TESTS_KERNEL_GUEST_KERNEL_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "tests/kernel/frame_pool.h"
#include "tests/kernel/guest_layout.h"
#include "tests/kernel/guest_tables.h"
#include "tests/kernel/kernel_op.h"
#include "tests/kernel/referee.h"
#include "tests/kernel/shootdown.h"

namespace tdp::kernel {

// Says what a program saw of one access, after the kernel had its say.
struct Visible {
  size_t op = 0;
  bool killed = false;  // by a fault that the kernel has no answer to
  uint32_t error_code = 0;
  uint64_t value = 0;

  friend bool operator==(const Visible&, const Visible&) = default;
};

class GuestKernel {
 public:
  // Builds its tables and starts every CPU in address space 0.
  GuestKernel(Referee& referee, const KernelFeatures& features);

  // Makes the operation. Numbers out of range are brought into range; what makes no sense now is
  // left undone.
  void Apply(const KernelOp& op);

  const std::vector<Visible>& visible() const { return visible_; }
  uint64_t copies() const { return copies_; }  // made on write
  uint64_t flips() const { return flips_; }

 private:
  struct Space {
    bool is_live = false;
    uint64_t root = 0;
  };

  // --- boot (guest_boot.cc) ---
  uint64_t BootTable();
  // Returns the place of the entry of `level` on the way to `gva`.
  uint64_t BootEntry(uint64_t gva, int level);
  void BootStore(uint64_t entry, uint64_t value);
  void BuildDirectMap();
  void BuildKernelRegion();
  sim::Registers FirstRegisters() const;

  // --- address spaces (guest_spaces.cc) ---
  bool Create(int space);
  void Destroy(int space);
  void Fork(int from, int to);
  void ForkRegion(int from, int to, int region);
  void ForkEntry(int from, int to, int page, const TableWalk& walk);
  void ClearRegion(int space, int region);
  void FreeTables(int space, int region);
  bool IsEmpty(uint64_t table, int level);
  void FlushAll(unsigned how);
  bool IsLive(int space) const { return spaces_[static_cast<size_t>(space)].is_live; }
  uint64_t RootOf(int space) const { return spaces_[static_cast<size_t>(space)].root; }

  // --- mappings (guest_mappings.cc) ---
  void Map(int space, int page, uint16_t how, std::optional<uint64_t> shared_frame);
  void Share(int space, int page, int with, uint16_t how);
  void Unmap(int space, int page, bool and_table);
  void Protect(int space, int page, uint16_t how);
  void ProtectTable(int space, int page, uint16_t how);
  void ClearUse(int space, int page);
  void Poison(int space, int page);
  void Flip(int space, int page);
  void Split(int space, int region, const TableWalk& large);
  void Collapse(int space, int region, const TableWalk& table);
  void DropEmptyTable(int space, int region);
  void FlushRegion(int space, int region);

  TableWalk Find(int space, int page);
  std::optional<uint64_t> EntryFor(int space, uint64_t gva, int level);
  void Replace(int space, int page, const TableWalk& at, uint64_t value);
  void Flush(int space, int page);
  // Gives the frame back, unless there was a foul: then nothing that was read means anything.
  void Unref(uint64_t gpa) {
    if (referee_.ok()) pool_.Unref(gpa);
  }
  uint64_t LeafBits(int page, uint16_t how) const;
  std::optional<uint64_t> NewDataFrame();
  void FillPage(uint64_t gpa);
  void CopyPage(uint64_t from, uint64_t to);

  // --- programs (guest_kernel.cc) ---
  void ChangeMapping(const KernelOp& op, int space, int page);
  void Access(const KernelOp& op);
  bool AnswerFault(int cpu, int page, const MachineAccess& access);
  bool CopyOnWrite(int space, int page, const TableWalk& walk);
  void ChangeRegisters(int cpu, uint16_t how);

  Referee& referee_;
  const PagingShape shape_;
  const GuestLayout layout_;
  const KernelFeatures features_;
  FramePool pool_;
  GuestTables tables_;
  Shootdown shootdown_;
  std::array<Space, kSpaces> spaces_;
  uint64_t next_boot_table_ = 0x1000;
  std::map<uint64_t, uint64_t> boot_entries_;  // of the kernel's own tables, as they were built
  // Every address space has these entries in its topmost table: offset in the table, value.
  std::map<uint64_t, uint64_t> kernel_roots_;
  uint64_t next_value_ = 0x1000001;
  size_t ops_ = 0;
  std::vector<Visible> visible_;
  uint64_t copies_ = 0;
  uint64_t flips_ = 0;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_GUEST_KERNEL_H_
