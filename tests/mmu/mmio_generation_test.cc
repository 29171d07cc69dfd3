// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// MMIO entries keep a part of the slots' generation; these tests ask what happens when that part
// has gone around.

#include <cstdint>
#include <memory>

#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Gpa kHole{MiB(64)};
constexpr Hva kHost{GiB(64)};
constexpr auto kRead = ExitQualification::Make(Access::Read(), Access::None(), false, false);

struct Setting {
  const char* name;
  VmOptions options;
  AddressSpaceId space;
};

class MmioGeneration : public HostTest, public testing::WithParamInterface<Setting> {
 protected:
  MmioGeneration() : space_(GetParam().space) {
    Start(GetParam().options);
    EXPECT_EQ(vcpu_->SetAddressSpace(space_), absl::OkStatus());
  }

  void SetSlot(uint32_t id, Gpa gpa, ByteCount size, uint32_t flags = 0) {
    ASSERT_EQ(vm_->SetMemoryRegion({.slot = id,
                                    .address_space = space_,
                                    .flags = flags,
                                    .gpa = gpa,
                                    .size = size,
                                    .hva = kHost + gpa.raw()}),
              absl::OkStatus());
  }
  // Returns the entry for the hole.
  EptEntry Entry() {
    const Eptp eptp = vm_->eptp(space_);
    uint64_t table = eptp.root().raw();
    for (Level level = eptp.root_level();; level = level.below()) {
      const EptEntry entry(*(reinterpret_cast<uint64_t*>(table) + level.IndexOf(Gfn::Of(kHole))));
      if (level == kLevel4K || entry.kind(level) != EntryKind::kTable) return entry;
      table = entry.address().raw();
    }
  }
  // Changes a slot elsewhere, in one direction of its life and back.
  void ChangeSlots(uint64_t times) {
    for (uint64_t i = 0; i < times; ++i) SetSlot(1, Gpa(0), there_++ % 2 == 0 ? kPageSize : 0);
  }
  // Returns after how many changes the bits that an entry keeps are what they were.
  uint64_t Period() const {
    const auto steps = static_cast<uint64_t>(GetParam().options.address_spaces);
    return (uint64_t{1} << ept::kMmioGenerationBits) / steps;
  }

  const AddressSpaceId space_;
  uint64_t there_ = 0;
};

TEST_P(MmioGeneration, MemoryIsNotAnsweredAsMmioOnceItHasGoneAround) {
  ASSERT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kMmio);
  const EptEntry remembered = Entry();
  ASSERT_TRUE(remembered.is_mmio());
  SetSlot(0, kHole, MiB(1));
  ChangeSlots(Period() - 1);
  // An entry made now would be the remembered one, bit by bit: that one must be gone.
  EXPECT_FALSE(Entry().is_mmio());
  const FaultResult result = vcpu_->HandleEptMisconfiguration(kHole);
  EXPECT_NE(result.outcome, FaultOutcome::kMmio) << "a CPU may come late with it";
  EXPECT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  // Entries that are remembered from here on count as ever.
  SetSlot(0, Gpa(0), 0);
  ASSERT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kMmio);
  EXPECT_EQ(vcpu_->HandleEptMisconfiguration(kHole).outcome, FaultOutcome::kMmio);
}

// Here the slot's own change is the one that goes around.
TEST_P(MmioGeneration, WhicheverChangeGoesAround) {
  ASSERT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kMmio);
  const uint64_t low = Entry().mmio_generation();
  const auto steps = static_cast<uint64_t>(GetParam().options.address_spaces);
  ChangeSlots(Period() - low / steps - 1);
  SetSlot(0, kHole, MiB(1));  // to generation 0
  EXPECT_FALSE(Entry().is_mmio());
  ChangeSlots(low / steps);
  EXPECT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kFixed);
}

// It takes so many changes that these tests run with one setting only.
class MmioGenerationByKind : public MmioGeneration {};

TEST_P(MmioGenerationByKind, AFlagAMoveADeletionAndABatchGoAroundToo) {
  constexpr int kKinds = 4;
  SetSlot(0, Gpa(MiB(16)), MiB(1));
  for (int kind = 0; kind < kKinds; ++kind) {
    ASSERT_EQ(vcpu_->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kMmio);
    const auto steps = static_cast<uint64_t>(GetParam().options.address_spaces);
    ChangeSlots(Period() - Entry().mmio_generation() / steps - 1);
    if (kind == 0) SetSlot(0, Gpa(MiB(16)), MiB(1), kSlotLogDirtyPages);
    if (kind == 1) {
      ASSERT_EQ(vm_->SetMemoryRegion({.slot = 0,
                                      .address_space = space_,
                                      .flags = kSlotLogDirtyPages,
                                      .gpa = Gpa(MiB(24)),
                                      .size = MiB(1),
                                      .hva = kHost + MiB(16)}),
                absl::OkStatus());
    }
    if (kind == 2) SetSlot(0, Gpa(0), 0);
    if (kind == 3) {
      ASSERT_EQ(vm_->Apply({Change::Region({.slot = 0,
                                            .address_space = space_,
                                            .gpa = Gpa(MiB(16)),
                                            .size = MiB(1),
                                            .hva = kHost})}),
                absl::OkStatus());
    }
    EXPECT_FALSE(Entry().is_mmio()) << "kind " << kind;
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, MmioGenerationByKind,
                         testing::Values(Setting{"OfTwoSpaces", {.address_spaces = 2}, 1}),
                         [](const auto& param) { return param.param.name; });
INSTANTIATE_TEST_SUITE_P(Settings, MmioGeneration,
                         testing::Values(Setting{"OneSpace", {}, 0},
                                         Setting{"FirstOfTwoSpaces", {.address_spaces = 2}, 0},
                                         Setting{"SecondOfTwoSpaces", {.address_spaces = 2}, 1},
                                         Setting{"ReverseMap", {.reverse_map = true}, 0}),
                         [](const auto& param) { return param.param.name; });

TEST(MmioGenerationInViews, EveryViewForgets) {
  TestHost host;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {});
  const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
  ASSERT_EQ(vcpu->SetView(*vm->CreateView()), absl::OkStatus());
  ASSERT_EQ(vcpu->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kMmio);
  const auto set = [&](uint32_t id, Gpa gpa, ByteCount size) {
    ASSERT_EQ(vm->SetMemoryRegion({.slot = id, .gpa = gpa, .size = size, .hva = kHost + gpa.raw()}),
              absl::OkStatus());
  };
  set(0, kHole, MiB(1));
  for (uint64_t i = 1; i < uint64_t{1} << ept::kMmioGenerationBits; ++i) {
    set(1, Gpa(0), i % 2 == 0 ? 0 : kPageSize);
  }
  EXPECT_NE(vcpu->HandleEptMisconfiguration(kHole).outcome, FaultOutcome::kMmio);
  EXPECT_EQ(vcpu->HandleEptViolation(kHole, kRead).outcome, FaultOutcome::kFixed);
}

}  // namespace
}  // namespace tdp
