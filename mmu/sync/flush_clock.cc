// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/sync/flush_clock.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "tdp/base/check.h"
#include "tdp/base/spin.h"
#include "tdp/base/sync.h"

namespace tdp {

PendingFlush& PendingFlush::operator=(PendingFlush&& other) noexcept {
  TDP_CHECK(!is_owed());
  clock_ = std::exchange(other.clock_, nullptr);
  generation_ = other.generation_;
  return *this;
}

void PendingFlush::Dropped() {
  internal::CheckFailed(__FILE__, __LINE__, "a PendingFlush was dropped without Settle()");
}

void PendingFlush::Merge(PendingFlush&& other) {
  if (!other.is_owed()) return;
  TDP_CHECK(!is_owed() || clock_ == other.clock_);
  generation_ = is_owed() ? std::max(generation_, other.generation_) : other.generation_;
  clock_ = std::exchange(other.clock_, nullptr);
}

void PendingFlush::Settle() {
  if (FlushClock* clock = std::exchange(clock_, nullptr)) clock->Settle(generation_);
}

FlushClock::Member::Member(FlushClock& clock, VcpuId id)
    : clock_(clock), place_(clock.TakePlace(id)) {}

FlushClock::Member::~Member() {
  TDP_CHECK(!is_in_guest());
  MutexLock lock(clock_.mutex_);
  place_->is_taken = false;
}

FlushClock::Member::Owed FlushClock::Member::EnterGuest() {
  TDP_CHECK(!is_in_guest());
  is_in_guest_.store(true, std::memory_order_relaxed);
  uint64_t generation = clock_.generation_.load(std::memory_order_seq_cst);
  for (;;) {
    const uint64_t before = place_->entered.exchange(generation, std::memory_order_seq_cst);
    if (ABSL_PREDICT_FALSE(before == kUnlisted)) clock_.List(*place_);
    const uint64_t now = clock_.generation_.load(std::memory_order_seq_cst);
    if (ABSL_PREDICT_TRUE(now == generation)) break;
    generation = now;
  }
  const uint64_t before = std::exchange(flushed_, generation);
  if (before == generation) return Owed::kNothing;
  const bool all = before < clock_.all_roots_generation_.load(std::memory_order_acquire);
  return all ? Owed::kAllRoots : Owed::kRoot;
}

FlushClock::Place* FlushClock::TakePlace(VcpuId id) {
  MutexLock lock(mutex_);
  Place* place = places_;
  while (place != nullptr && place->is_taken) place = place->next;
  if (place == nullptr) {
    place = new Place;
    place->next = std::exchange(places_, place);
  }
  place->is_taken = true;
  place->id.store(id, std::memory_order_relaxed);
  return place;
}

// Lists a place for settlers. A settler that moved the generation before it reads the head sees
// every vCPU that read an older generation as it entered: its place was listed before.
void FlushClock::List(Place& place) {
  MutexLock lock(mutex_);
  if (std::exchange(place.is_listed, true)) return;
  place.rests = 0;
  place.next_listed = listed_.load(std::memory_order_relaxed);
  listed_.store(&place, std::memory_order_seq_cst);
}

// Notes what is seen of a place, and returns true if it is to be struck off. The vCPU finds that
// out as it enters, and comes to the mutex that is held here.
bool FlushClock::RestsForGood(Place& place) {
  constexpr int kMostRests = 16;
  uint64_t seen = place.entered.load(std::memory_order_relaxed);
  if (seen == kOutside) {
    place.rests = 0;
    place.entered.compare_exchange_strong(seen, kResting, std::memory_order_seq_cst);
    return false;
  }
  return seen == kResting && ++place.rests >= kMostRests &&
         place.entered.compare_exchange_strong(seen, kUnlisted, std::memory_order_seq_cst);
}

FlushClock::~FlushClock() {
  Reclaim();
  MutexLock lock(mutex_);
  Place* place = places_;
  while (place != nullptr) {
    TDP_CHECK(!place->is_taken);
    delete std::exchange(place, place->next);
  }
}

PendingFlush FlushClock::AdvanceAllRoots() {
  // The mark is set before the generation moves to it: a vCPU that sees the generation sees the
  // mark.
  uint64_t generation = generation_.load(std::memory_order_relaxed);
  do {
    Raise(all_roots_generation_, generation + 1);
  } while (
      !generation_.compare_exchange_weak(generation, generation + 1, std::memory_order_seq_cst));
  return PendingFlush(this, generation + 1);
}

PendingFlush FlushClock::Outstanding() {
  // A narrowing under way has no generation yet. One that is moved to now is its own, too.
  if (ABSL_PREDICT_FALSE(narrowings_.load(std::memory_order_acquire) != 0)) return Advance();
  const uint64_t now = generation();
  return IsSettled(now) ? PendingFlush() : PendingFlush(this, now);
}

void FlushClock::RetireSome(TableList&& subtrees, const PendingFlush& flush) {
  TDP_CHECK(flush.is_owed());
  for (TablePage* table = subtrees.head(); table != nullptr; table = table->next) {
    table->retired_at = flush.generation_;
  }
  MutexLock lock(retired_mutex_);
  retired_.Splice(std::move(subtrees));
  any_retired_.store(true, std::memory_order_relaxed);
}

// Once passed, a generation stays so: a vCPU that enters later enters with it or a later one.
void FlushClock::Settle(uint64_t generation) {
  if (!IsSettled(generation)) {
    if (PassedByAll() < generation) KickAndWait(generation);
    Raise(settled_, generation);
  }
  Reclaim();
}

void FlushClock::KickAndWait(uint64_t generation) {
  absl::InlinedVector<const Place*, 16> behind;
  absl::InlinedVector<VcpuId, 16> ids;
  {
    MutexLock lock(mutex_);
    for (const Place* place = listed_.load(std::memory_order_relaxed); place != nullptr;
         place = place->next_listed) {
      if (!place->IsBehind(generation)) continue;
      behind.push_back(place);
      ids.push_back(place->id.load(std::memory_order_relaxed));
    }
  }
  if (behind.empty()) return;
  backend_.Kick(ids);
  for (const Place* place : behind) {
    SpinUntil([&] { return !place->IsBehind(generation); });
  }
}

uint64_t FlushClock::PassedByListed() {
  uint64_t passed = kOutside;
  MutexLock lock(mutex_);
  Place* before = nullptr;
  Place* next = nullptr;
  for (Place* place = listed_.load(std::memory_order_relaxed); place != nullptr; place = next) {
    next = place->next_listed;
    passed = std::min(passed, place->entered.load(std::memory_order_seq_cst));
    if (ABSL_PREDICT_TRUE(!RestsForGood(*place))) {
      before = place;
      continue;
    }
    place->is_listed = false;
    if (before != nullptr) {
      before->next_listed = next;
    } else {
      listed_.store(next, std::memory_order_relaxed);
    }
  }
  return passed;
}

void FlushClock::ReclaimPassed() {
  ReaderMutexLock reclaiming(reclaim_mutex_);
  TableList free = TakePassed();
  if (!free.empty()) reclaimer_.Reclaim(std::move(free));
}

TableList FlushClock::TakePassed() {
  TableList free;
  MutexLock lock(retired_mutex_);
  if (retired_.empty()) return free;
  const uint64_t passed = PassedByAll();
  TableList all = std::exchange(retired_, TableList());
  while (TablePage* table = all.Pop()) {
    (table->retired_at <= passed ? free : retired_).Push(table);
  }
  any_retired_.store(!retired_.empty(), std::memory_order_relaxed);
  return free;
}

void FlushClock::WaitForReclaims() {
  // A flush counts as settled a moment before its thread reclaims: who owes nothing comes between.
  Reclaim();
  MutexLock none_reclaims(reclaim_mutex_);
}

}  // namespace tdp
