// SPDX-License-Identifier: Apache-2.0

#include "tdp/mmu/flush_clock.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "tdp/base/check.h"
#include "tdp/base/spin.h"
#include "tdp/base/sync.h"

namespace tdp {

PendingFlush::PendingFlush(PendingFlush&& other) noexcept
    : clock_(std::exchange(other.clock_, nullptr)), generation_(other.generation_) {}

PendingFlush& PendingFlush::operator=(PendingFlush&& other) noexcept {
  TDP_CHECK(!is_owed());
  clock_ = std::exchange(other.clock_, nullptr);
  generation_ = other.generation_;
  return *this;
}

PendingFlush::~PendingFlush() {
  if (ABSL_PREDICT_FALSE(is_owed())) {
    internal::CheckFailed(__FILE__, __LINE__, "a PendingFlush was dropped without Settle()");
  }
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

FlushClock::Member::Member(FlushClock& clock, VcpuId id) : clock_(clock), id_(id) {
  MutexLock lock(clock_.mutex_);
  clock_.members_.push_back(this);
}

FlushClock::Member::~Member() {
  TDP_CHECK(!is_in_guest());
  MutexLock lock(clock_.mutex_);
  std::erase(clock_.members_, this);
}

FlushClock::Member::Owed FlushClock::Member::EnterGuest() {
  TDP_CHECK(!is_in_guest());
  uint64_t generation = clock_.generation_.load(std::memory_order_seq_cst);
  for (;;) {
    word_.exchange(generation << 1 | kInGuest, std::memory_order_seq_cst);
    const uint64_t now = clock_.generation_.load(std::memory_order_seq_cst);
    if (ABSL_PREDICT_TRUE(now == generation)) break;
    generation = now;
  }
  const uint64_t before = std::exchange(flushed_, generation);
  if (before == generation) return Owed::kNothing;
  const bool all = before < clock_.all_roots_generation_.load(std::memory_order_acquire);
  return all ? Owed::kAllRoots : Owed::kRoot;
}

FlushClock::~FlushClock() {
  TDP_CHECK(members_.empty());
  Reclaim();
}

PendingFlush FlushClock::Advance() {
  return PendingFlush(this, generation_.fetch_add(1, std::memory_order_seq_cst) + 1);
}

PendingFlush FlushClock::AdvanceAllRoots() {
  // The mark is set before the generation moves to it: a vCPU that sees the generation sees the
  // mark.
  uint64_t generation = generation_.load(std::memory_order_relaxed);
  do {
    all_roots_generation_.store(generation + 1, std::memory_order_release);
  } while (
      !generation_.compare_exchange_weak(generation, generation + 1, std::memory_order_seq_cst));
  return PendingFlush(this, generation + 1);
}

void FlushClock::Retire(TableList&& subtrees, const PendingFlush& flush) {
  if (subtrees.empty()) return;
  TDP_CHECK(flush.is_owed());
  for (TablePage* table = subtrees.head(); table != nullptr; table = table->next) {
    table->retired_at = flush.generation_;
  }
  MutexLock lock(retired_mutex_);
  retired_.Splice(std::move(subtrees));
  any_retired_.store(true, std::memory_order_relaxed);
}

void FlushClock::Settle(uint64_t generation) {
  WaitForVcpus(generation);
  Reclaim();
}

void FlushClock::WaitForVcpus(uint64_t generation) {
  MutexLock lock(mutex_);
  absl::InlinedVector<VcpuId, 16> behind;
  for (const Member* member : members_) {
    if (member->IsBehind(generation)) behind.push_back(member->id_);
  }
  if (behind.empty()) return;
  backend_.Kick(behind);
  for (const Member* member : members_) {
    SpinUntil([&] { return !member->IsBehind(generation); });
  }
}

uint64_t FlushClock::PassedByAll() const {
  uint64_t passed = ~uint64_t{0};
  for (const Member* member : members_) {
    const uint64_t word = member->word_.load(std::memory_order_seq_cst);
    if ((word & Member::kInGuest) != 0) passed = std::min(passed, word >> 1);
  }
  return passed;
}

void FlushClock::Reclaim() {
  // Most flushes retire no table. A thread that retired some sees its own store.
  if (!any_retired_.load(std::memory_order_relaxed)) return;
  ReaderMutexLock reclaiming(reclaim_mutex_);
  TableList free = TakePassed();
  if (!free.empty()) reclaimer_.Reclaim(std::move(free));
}

TableList FlushClock::TakePassed() {
  TableList free;
  MutexLock lock(mutex_);
  MutexLock retired_lock(retired_mutex_);
  if (retired_.empty()) return free;
  const uint64_t passed = PassedByAll();
  TableList all = std::exchange(retired_, TableList());
  while (TablePage* table = all.Pop()) {
    (table->retired_at <= passed ? free : retired_).Push(table);
  }
  any_retired_.store(!retired_.empty(), std::memory_order_relaxed);
  return free;
}

void FlushClock::WaitForReclaims() { MutexLock none_reclaims(reclaim_mutex_); }

}  // namespace tdp
