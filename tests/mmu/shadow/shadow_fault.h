// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The fixture here runs one shadowed guest beside the same guest on EPT.

#ifndef TDP_TESTS_MMU_SHADOW_SHADOW_FAULT_H_
#define TDP_TESTS_MMU_SHADOW_SHADOW_FAULT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_machine.h"
#include "tests/world/dirty_logs.h"

namespace tdp::shadow_test {

inline constexpr uint64_t kAll = 0x67;  // present, writable, user, A, D
inline constexpr auto kLoad = sim::AccessKind::kLoad;
inline constexpr auto kStore = sim::AccessKind::kStore;
inline constexpr auto kFetch = sim::AccessKind::kFetch;
inline constexpr auto kMemory = Seen::What::kMemory;

// This guest has 4-level paging with its tables in frames 1 to 4, the leaves in frame 4; gva
// 0x10000 and on map the frames of the same numbers, gva 0x4000 the table of leaves itself.
class ShadowFault : public testing::Test {
 protected:
  void Start(const MachineOptions& options = {}, PagingMode mode = PagingMode::k4Level) {
    machine_ = std::make_unique<Machine>(options);
    for (uint64_t table = 1; table < 4; ++table) Table(table, 0, (table + 1) << kPageShift | kAll);
    for (uint64_t i = 1; i < 64; ++i) Table(4, i, i << kPageShift | kAll);
    guest_ = GuestIn(mode);
    guest_.cr3 = mode == PagingMode::k4Level ? 0x1000 : 0x3000;
    if (mode == PagingMode::kPae) machine_->Poke<uint64_t>(Gpa(0x5000), 0x3001);
    if (mode == PagingMode::kPae) guest_.cr3 = 0x5000;
    machine_->Load(guest_);
  }
  void TearDown() override { EXPECT_EQ(machine_->vm().CheckInvariants(), absl::OkStatus()); }

  // Writes an entry and tells nobody.
  void Table(uint64_t frame, uint64_t index, uint64_t entry) {
    machine_->Poke<uint64_t>(Gpa((frame << kPageShift) + index * 8), entry);
  }
  uint64_t EntryAt(uint64_t frame, uint64_t index) {
    return machine_->Peek<uint64_t>(Gpa((frame << kPageShift) + index * 8));
  }
  void Emulate(uint64_t frame, uint64_t index, uint64_t entry) {
    ASSERT_TRUE(machine_->shadow()
                    .EmulateWrite(Gpa((frame << kPageShift) + index * 8), 8,
                                  [entry](std::byte* place) { std::memcpy(place, &entry, 8); })
                    .ok());
  }
  Seen Access(uint64_t gva, sim::AccessKind kind = kLoad, bool user = false, bool ac = false) {
    return machine_->Access({Gva(gva), kind, user, ac});
  }
  void ExpectSame(uint64_t gva, sim::AccessKind kind = kLoad, bool user = false, bool ac = false) {
    const Seen seen = Access(gva, kind, user, ac);
    EXPECT_EQ(seen, machine_->Reference({Gva(gva), kind, user, ac}))
        << absl::StrCat(absl::Hex(gva));
  }
  uint64_t Faults() const { return machine_->faults(); }
  ShadowStats Stats() { return machine_->vm().Stats().shadow; }
  std::set<uint64_t> TakeDirty() { return TakenPages(machine_->vm()); }

  std::unique_ptr<Machine> machine_;
  GuestCpu guest_;
};

}  // namespace tdp::shadow_test

#endif  // TDP_TESTS_MMU_SHADOW_SHADOW_FAULT_H_
