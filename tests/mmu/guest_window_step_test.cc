// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A slot changes here after every other instruction of a fetch.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/check.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tests/mmu/single_step.h"

namespace tdp {
namespace {

constexpr Gpa kGpa{0x123000};

// Has one slot, which can be made anew over other memory as a `Vm` does it.
class Slots {
 public:
  Slots() : set_(SlotLimits()) { Create(Old()); }

  const SlotSet& set() const { return set_; }
  const ChangeSequence& sequence() const { return sequence_; }
  static constexpr Hva Old() { return Hva(uint64_t{1} << 40); }
  static constexpr Hva New() { return Hva(uint64_t{1} << 41); }

  void Replace() {
    SlotUpdate update = *set_.Prepare({.size = 0});
    set_.PublishInvalid(update);
    sequence_.Move();
    retired_.push_back(set_.Publish(std::move(update)));
    sequence_.Move();
    Create(New());
  }

 private:
  void Create(Hva hva) {
    retired_.push_back(set_.Publish(*set_.Prepare({.size = MiB(4), .hva = hva})));
    sequence_.Move();
  }

  SlotSet set_;
  ChangeSequence sequence_;
  std::vector<std::unique_ptr<SlotState>> retired_;
};

// Frames follow from addresses, so that a pointer tells the slot.
TEST(GuestWindowSteps, APageOfASlotThatWasReplacedDuringTheFetchIsNotServed) {
  MinimalBackend backend;
  MmuLock lock;
  const MmuWriteSection section(lock);  // nobody else is there
  const auto is_of = [&backend](const std::byte* place, Hva hva) {
    const Hva wanted = hva + kGpa.raw();
    const auto page = backend.Resolve(wanted, Access::Read());
    return reinterpret_cast<uintptr_t>(place) ==
           page->hfn.address().raw() + backend.capabilities().direct_map_offset;
  };
  uint64_t replaced = 0;
  for (uint64_t step = 1;; step += 2) {
    Slots slots;
    GuestWindow window(backend, slots.set(), slots.sequence());
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    ASSERT_EQ(window.Reach(kGpa, false, why), nullptr);
    bool acted = false;
    absl::Status status;
    SingleStep::Run([&] { status = window.Fetch(why); },
                    [&](uint64_t i) {
                      if (i < step) return true;
                      slots.Replace();
                      acted = true;
                      return false;
                    });
    ASSERT_TRUE(status.ok()) << status;
    if (!acted) break;
    ++replaced;
    const std::byte* place = window.Reach(kGpa, false, why);
    ASSERT_TRUE(place == nullptr || is_of(place, Slots::New())) << "after instruction " << step;
    ASSERT_TRUE(window.Fetch(why).ok());
    place = window.Reach(kGpa, false, why);
    ASSERT_TRUE(place != nullptr && is_of(place, Slots::New())) << "after instruction " << step;
  }
  EXPECT_GT(replaced, 25u);
}

}  // namespace
}  // namespace tdp
