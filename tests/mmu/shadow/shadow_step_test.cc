// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A CPU sets flags in a leaf here between any two instructions of an operation on it.

#include <atomic>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"
#include "tests/mmu/single_step.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

// Remembers where the last entry was stored.
class LastStore : public EntryStoreHook {
 public:
  LastStore() { SetEntryStoreHook(this); }
  ~LastStore() override { SetEntryStoreHook(nullptr); }
  void OnStore(const uint64_t* where, EptEntry, EptEntry) override {
    where_ = const_cast<uint64_t*>(where);
  }
  uint64_t* where() const { return where_; }

 private:
  uint64_t* where_ = nullptr;
};

// This guest has no paging, and one leaf, which may be written.
class ShadowSteps : public SimTest {
 protected:
  void SetUp() override {
    Start({.paging = Paging::kShadow});
    ASSERT_TRUE(world_->SetRam(MiB(2)).ok());
  }
  absl::Status SetRam(uint32_t flags) { return world_->SetRam(MiB(2), -1, flags); }
  bool IsWritable() {
    const auto found = vcpu().shadow()->impl().Look(Gva(0x10000));
    return found.entry.kind(found.level) == EntryKind::kLeaf && found.entry.is_writable();
  }
};

// Aging has cleared A, and the CPU sets it again while the log is switched on.
TEST_F(ShadowSteps, WGoesThoughTheCpuSetsFlagsAllTheTime) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    ASSERT_TRUE(SetRam(0).ok());
    uint64_t* entry = nullptr;
    {
      const LastStore last;
      vm().ZapRange(Gfn(0x10), PageCount(1))->Settle();
      ASSERT_EQ(vcpu().shadow()->HandlePageFault(Gva(0x10000), guest::kFaultWrite).outcome,
                PagingOutcome::kFixed);
      entry = last.where();
    }
    ASSERT_TRUE(IsWritable());
    std::minstd_rand random(static_cast<unsigned>(seed));
    absl::Status status;
    const uint64_t steps =
        SingleStep::Run([&] { status = SetRam(kSlotLogDirtyPages); },
                        [&](uint64_t) {
                          // A is flipped every second time, so that some instructions find another
                          // value than was read.
                          if (random() % 2 == 0)
                            std::atomic_ref<uint64_t>(*entry).fetch_xor(guest::kAccessed);
                          return true;
                        });
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_GT(steps, 1000u);
    ASSERT_FALSE(IsWritable()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tdp
