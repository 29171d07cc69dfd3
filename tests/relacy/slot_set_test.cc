// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run memslot/slot_set.* and slot_reader.* under every order that the C++ memory model
// allows.

#if !__has_include(<relacy/relacy.hpp>)
#include "tdp/tests/relacy/without_relacy.inc"
#else

// A slab of tree nodes has thousands of words.
#define TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE true
#include "tdp/tests/relacy/relacy_sync.h"
//
#include "tdp/base/check.cc"
#include "tdp/memslot/dirty_log.cc"
#include "tdp/memslot/interval_node.cc"
#include "tdp/memslot/interval_tree.cc"
#include "tdp/memslot/large_page_permits.cc"
#include "tdp/memslot/slot_limits.cc"
#include "tdp/memslot/slot_reader.cc"
#include "tdp/memslot/slot_set.cc"

namespace tdp {
namespace {

constexpr int kIterations = 10'000;
constexpr Gfn kLow{0x10};
constexpr Gfn kHigh{0x80};
constexpr Hva kHva{0x100000000000};
constexpr PageCount kPages{4};

// The slot 0 moves between two places, and a reader looks for both.
class Slots {
 public:
  Slots() : set_(SlotLimits{}), reader_(set_) {
    Apply(kLow);
    // The slot goes there and back once, so that what a change frees is filled again by the next.
    Apply(kHigh);
    Apply(kLow);
  }

  absl::StatusOr<SlotUpdate> Prepare(Gfn base) {
    return set_.Prepare({.slot = 0, .gpa = base.address(), .size = kPages.bytes(), .hva = kHva});
  }
  void Apply(Gfn base) {
    absl::StatusOr<SlotUpdate> update = Prepare(base);
    RL_ASSERT(update.ok());
    if (update->takes_away()) set_.PublishInvalid(*update);
    (void)set_.Publish(*std::move(update));
  }
  SlotSet& set() { return set_; }
  SlotReader& reader() { return reader_; }

  // Returns what the reader says of the slot at `base`; it is that slot and no other.
  const MemorySlot* Find(Gfn base) {
    const MemorySlot* slot = reader_.Find(0, base);
    RL_ASSERT(slot == nullptr ||
              (slot->base == base && slot->pages == kPages && slot->hva == kHva));
    return slot;
  }
  int PartsOverTheHostPage() {
    int parts = 0;
    reader_.ForEachInHostRange(HostRange(kHva, kPageSize),
                               [&](const MemorySlot&, Gfn, PageCount) { ++parts; });
    return parts;
  }

 private:
  SlotSet set_;
  SlotReader reader_;
};

// After a change is published the reader answers by it, whatever it found meanwhile.
template <bool kOnlyInvalid>
struct ReadBesideAChange : rl::test_suite<ReadBesideAChange<kOnlyInvalid>, 2> {
  // The change is made ready before: it has hundreds of steps, of which readers see none.
  void before() {
    slots.emplace();
    update.emplace(*slots->Prepare(kHigh));
  }
  void after() {
    if (kOnlyInvalid) {
      RL_ASSERT(slots->Find(kLow) != nullptr && slots->Find(kLow)->invalid);
      update->Abandon();
    } else {
      RL_ASSERT(slots->Find(kLow) == nullptr && slots->Find(kHigh) != nullptr);
    }
    update.reset();
    slots.reset();
  }
  void thread(unsigned index) {
    if (index == 1) {
      for (int i = 0; i < 2; ++i) {
        (void)slots->Find(kLow);
        if (!kOnlyInvalid) (void)slots->Find(kHigh);
      }
      return;
    }
    slots->set().PublishInvalid(*update);
    if (!kOnlyInvalid) (void)slots->set().Publish(*std::move(update));
  }

  std::optional<Slots> slots;
  std::optional<SlotUpdate> update;
};

// A slot that stands during the whole call is found, through any number of changes of another.
struct FindBesideChanges : rl::test_suite<FindBesideChanges, 2> {
  static constexpr Gfn kOther{0x1000};
  void before() {
    slots.emplace();
    RL_ASSERT(ChangeOther(kPages).ok());
    RL_ASSERT(ChangeOther(PageCount(0)).ok());
  }
  void after() { slots.reset(); }
  absl::Status ChangeOther(PageCount pages) {
    absl::StatusOr<SlotUpdate> update = slots->set().Prepare(
        {.slot = 1, .gpa = kOther.address(), .size = pages.bytes(), .hva = kHva + GiB(1)});
    if (!update.ok()) return update.status();
    if (update->takes_away()) slots->set().PublishInvalid(*update);
    (void)slots->set().Publish(*std::move(update));
    return absl::OkStatus();
  }
  void thread(unsigned index) {
    if (index == 0) {
      RL_ASSERT(ChangeOther(kPages).ok());
      RL_ASSERT(ChangeOther(PageCount(0)).ok());
      return;
    }
    // The reader looks often, since one look takes a fraction of the steps of a change.
    for (int i = 0; i < 8; ++i) {
      RL_ASSERT(slots->Find(kLow) != nullptr);
      RL_ASSERT(slots->PartsOverTheHostPage() == 1);
    }
  }

  std::optional<Slots> slots;
};

TEST(SlotOrders, AReaderKeepsNoSlotThatHasMoved) {
  EXPECT_EQ("", relacy::Failure<ReadBesideAChange<false> >(kIterations));
}

TEST(SlotOrders, AReaderKeepsNoSlotThatIsGoing) {
  EXPECT_EQ("", relacy::Failure<ReadBesideAChange<true> >(kIterations));
}

TEST(SlotOrders, ASlotThatStandsIsFoundBesideChangesOfAnother) {
  EXPECT_EQ("", relacy::Failure<FindBesideChanges>(kIterations));
}

TEST(SlotOrders, WithoutReleaseAReaderFindsNodesThatAreNotFilled) {
  EXPECT_NE("", relacy::Failure<FindBesideChanges>(kIterations, Weakening::kReleaseToRelaxed));
}

}  // namespace
}  // namespace tdp

#endif  // __has_include(<relacy/relacy.hpp>)
