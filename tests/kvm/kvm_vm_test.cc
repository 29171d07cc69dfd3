// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine on the software CPU runs beside the kernel's KVM: the same calls, the same accesses,
// the same answers. The tests are skipped, with the reason, where /dev/kvm cannot be used.

#include "tdp/backends/kvm/kvm_vm.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/memslot/guest_memory.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/tests/kvm/real_mode_guest.h"
#include "tests/oracles/slot_machine.h"

namespace tdp {
namespace {

using oracles::AccessAnswer;
using oracles::SlotMachine;

constexpr ByteCount kBackingSize = MiB(16);
constexpr uint32_t kCodeSlot = 100;

// Is memory for the kernel's guest. Each page begins with its offset.
class Backing {
 public:
  Backing() {
    place_ = static_cast<char*>(
        ::mmap(nullptr, kBackingSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TDP_CHECK(place_ != MAP_FAILED);
    for (uint64_t at = 0; at < kBackingSize; at += kPageSize) {
      std::memcpy(place_ + at, &at, sizeof(at));
    }
  }
  ~Backing() { ::munmap(place_, kBackingSize); }
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  Hva base() const { return Hva(reinterpret_cast<uintptr_t>(place_)); }

 private:
  char* place_;
};

class KvmBesideTheEngine : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<KvmVm>> kvm = KvmVm::Create();
    if (absl::IsUnavailable(kvm.status())) GTEST_SKIP() << kvm.status();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    kvm_ = *std::move(kvm);
    absl::StatusOr<std::unique_ptr<RealModeGuest>> guest = RealModeGuest::Create(*kvm_, kCodeSlot);
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = *std::move(guest);
    MemoryRegion code;
    code.slot = kCodeSlot;
    code.gpa = RealModeGuest::kCodePage;
    code.size = kPageSize;
    code.hva = SlotMachine::kHostBase + GiB(1);
    ASSERT_TRUE(machine_.vm().SetMemoryRegion(code).ok());
    for (uint64_t at = 0; at < kBackingSize; at += kPageSize) {
      ASSERT_TRUE(machine_.Poke(SlotMachine::kHostBase + at, at).ok());
    }
  }

  // Sets the region in both; `hva_offset` is one into the backing of each side.
  void Set(MemoryRegion region, uint64_t hva_offset) {
    region.hva = backing_.base() + hva_offset;
    const absl::Status kvm = kvm_->SetMemoryRegion(region);
    region.hva = SlotMachine::kHostBase + hva_offset;
    const absl::Status engine = machine_.vm().SetMemoryRegion(region);
    ASSERT_EQ(kvm.code(), engine.code())
        << absl::StrFormat("set %d flags %x gpa %x size %x hva +%x\n", region.slot, region.flags,
                           region.gpa.raw(), region.size, hva_offset)
        << kvm << "\n"
        << engine;
  }

  using Pages = std::set<uint64_t>;
  static absl::StatusOr<Pages> Log(GuestMemory& memory, uint32_t slot) {
    Pages pages;
    const absl::Status status = memory.GetDirtyLog(slot, [&](uint64_t base, uint64_t mask) {
      for (; mask != 0; mask &= mask - 1) pages.insert(base + std::countr_zero(mask));
    });
    if (!status.ok()) return status;
    return pages;
  }
  void CompareLogs(uint32_t slot) {
    const absl::StatusOr<Pages> kvm = Log(*kvm_, slot);
    const absl::StatusOr<Pages> engine = Log(machine_.vm(), slot);
    ASSERT_EQ(kvm.status().code(), engine.status().code()) << kvm.status() << engine.status();
    if (!kvm.ok()) return;
    ASSERT_EQ(*kvm, *engine) << "slot " << slot;
    dirty_pages_ += kvm->size();
  }

  void Clear(uint32_t slot, const DirtyLogRange& range, const std::vector<uint64_t>& bits) {
    const absl::Status kvm = kvm_->ClearDirtyLog(slot, range, bits);
    const absl::Status engine = machine_.vm().ClearDirtyLog(slot, range, bits);
    ASSERT_EQ(kvm.code(), engine.code()) << "clear " << slot << " " << range.first_page << " "
                                         << range.num_pages << " " << kvm << engine;
  }

  void Write(Gpa gpa) {
    const absl::StatusOr<RealModeGuest::Answer> kvm = guest_->Write(gpa);
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    const absl::StatusOr<AccessAnswer> engine =
        machine_.Access(gpa.raw(), sim::AccessKind::kStore, 1);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_EQ(kvm->mmio, engine->kind == AccessAnswer::Kind::kMmio) << "write " << gpa;
    writes_to_memory_ += kvm->mmio ? 0 : 1;
  }

  void Read(Gpa gpa) {
    const absl::StatusOr<RealModeGuest::Answer> kvm = guest_->Read(gpa);
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    const absl::StatusOr<AccessAnswer> engine =
        machine_.Access(gpa.raw(), sim::AccessKind::kLoad, 8);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_EQ(kvm->mmio, engine->kind == AccessAnswer::Kind::kMmio) << "read " << gpa;
    if (kvm->mmio) return;
    uint64_t value;
    std::memcpy(&value, engine->place, sizeof(value));
    ASSERT_EQ(kvm->value, value) << "read " << gpa;
  }

  void SetManual(uint64_t flags) {
    ASSERT_EQ(kvm_->SetManualDirtyLogProtect(flags).code(),
              machine_.vm().SetManualDirtyLogProtect(flags).code())
        << flags;
  }

  Backing backing_;
  std::unique_ptr<KvmVm> kvm_;
  std::unique_ptr<RealModeGuest> guest_;
  SlotMachine machine_;
  // These count what was compared.
  uint64_t writes_to_memory_ = 0;
  uint64_t dirty_pages_ = 0;
};

TEST_F(KvmBesideTheEngine, ErrorsCarryTheErrnoAndTheField) {
  MemoryRegion region;
  region.slot = 1;
  region.size = 0x1001;
  region.hva = backing_.base();
  absl::Status status = kvm_->SetMemoryRegion(region);
  EXPECT_TRUE(absl::StrContains(status.message(), "EINVAL: size = 0x1001")) << status;
  region.size = 0x1000;
  region.gpa = RealModeGuest::kCodePage;
  status = kvm_->SetMemoryRegion(region);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(absl::StrContains(status.message(), "EEXIST: gpa = 0xf00000")) << status;
  status = kvm_->GetDirtyLog(7, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(absl::StrContains(status.message(), "ENOENT: slot = 7")) << status;
}

// Random operations are a mixture of everything: most requests repeat a slot with one thing
// changed, since those are the ones that are not refused.
TEST_F(KvmBesideTheEngine, AnswersRandomOperationsAlike) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<MemoryRegion> regions(8);
    std::vector<uint64_t> offsets(8);
    const auto some_gpa = [&] { return Gpa(random() % 512 * kPageSize + random() % 3 * 0x800); };
    const auto one_in = [&](uint64_t n) { return random() % n == 0; };
    for (int i = 0; i < 4000; ++i) {
      const uint32_t slot = static_cast<uint32_t>(random() % 8);
      MemoryRegion& region = regions[slot];
      switch (random() % 10) {
        case 0:
          region.size = random() % 160 * kPageSize + (one_in(20) ? 1 : 0);
          offsets[slot] = random() % 2048 * kPageSize + (one_in(30) ? 0x10 : 0);
          [[fallthrough]];
        case 1:
          region.gpa = Gpa(random() % 512 * kPageSize + (one_in(30) ? 0x10 : 0));
          [[fallthrough]];
        case 2: {
          region.slot = one_in(40) ? 40000 : slot;
          region.flags = static_cast<uint32_t>(one_in(30) ? random() : random() % 4);
          MemoryRegion request = region;
          if (one_in(6)) request.size = 0;
          Set(request, offsets[slot]);
          break;
        }
        case 3:
          CompareLogs(one_in(20) ? 50000 : slot);
          break;
        case 4: {
          const uint64_t first = random() % 4 * 64 + (one_in(10) ? 3 : 0);
          const uint64_t count = random() % 4 * 64 + (one_in(3) ? random() % 64 : 0);
          Clear(slot, {first, count}, {random(), random(), random(), random()});
          break;
        }
        case 5:
          if (one_in(8)) SetManual(random() % 5);
          break;
        case 6:
          Read(some_gpa());
          break;
        default:
          Write(region.gpa.AlignDown(kPageSize) + random() % 80 * kPageSize + 0x10);
          break;
      }
      if (HasFatalFailure()) FAIL() << "seed " << seed << " operation " << i;
    }
    for (uint32_t slot = 0; slot < 8; ++slot) {
      MemoryRegion remove;
      remove.slot = slot;
      Set(remove, 0);
    }
    SetManual(0);
  }
  EXPECT_TRUE(machine_.vm().CheckInvariants().ok());
  EXPECT_GT(writes_to_memory_, 300u);
  EXPECT_GT(dirty_pages_, 300u);
}

TEST_F(KvmBesideTheEngine, WhatTheKernelHasNoWordForIsRefusedByNameAndChangesNothing) {
  const MemoryRegion plain = {
      .slot = 3, .gpa = Gpa(MiB(4)), .size = kPageSize, .hva = backing_.base()};
  MemoryRegion rights = plain;
  rights.rights = Access::Read();
  MemoryRegion type = plain;
  type.memory_type = MemoryType::kUncacheable;
  MemoryRegion frames = plain;
  frames.flags = kSlotHostFrames;
  frames.hva = Hva(0);
  for (const auto& [region, name] :
       {std::pair{rights, "rights"}, {type, "memory_type"}, {frames, "kSlotHostFrames"}}) {
    const absl::Status refused = kvm_->SetMemoryRegion(region);
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
    EXPECT_TRUE(absl::StrContains(refused.message(), name)) << refused;
    MemoryRegion gone = plain;
    gone.size = 0;
    EXPECT_FALSE(kvm_->SetMemoryRegion(gone).ok()) << "there is no such slot";
  }
  EXPECT_EQ(kvm_->SetMemoryRegion(plain), absl::OkStatus());
}

}  // namespace
}  // namespace tdp
