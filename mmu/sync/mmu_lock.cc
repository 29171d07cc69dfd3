// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/sync/mmu_lock.h"

#include <atomic>
#include <cstdint>
#include <utility>

#include "tdp/base/check.h"
#include "tdp/base/spin.h"
#include "tdp/base/sync.h"

namespace tdp {

MmuLock::~MmuLock() {
  MutexLock lock(writers_mutex_);
  TDP_CHECK(readers_ == nullptr);
}

void MmuLock::WaitForReaders() {
  Reader* next = nullptr;
  for (Reader* reader = readers_; reader != nullptr; reader = next) {
    next = reader->next_;  // `WaitFor` may strike it off
    WaitFor(reader);
  }
}

// Returns when the reader is outside. One that many writers in a row have found there is struck
// off: its next way in leads through the mutex that is held here.
void MmuLock::WaitFor(Reader* reader) {
  constexpr int kMostRests = 16;
  for (;;) {
    uint32_t state = Reader::kInside;
    SpinUntil([&] {
      state = reader->state_.load(std::memory_order_seq_cst);
      return state != Reader::kInside;
    });
    const bool rests = state == Reader::kResting;
    reader->rests_ = rests ? reader->rests_ + 1 : 0;
    if (rests && reader->rests_ < kMostRests) return;
    const uint32_t seen = rests ? Reader::kUnlisted : Reader::kResting;
    if (!reader->state_.compare_exchange_strong(state, seen, std::memory_order_seq_cst)) continue;
    if (rests) Strike(reader);
    return;
  }
}

void MmuLock::AddTime() { writer_ns_.fetch_add(clock_() - entered_at_, std::memory_order_relaxed); }

// Waits behind the writers' mutex instead of spinning on the flag: a waiting reader sleeps, and
// several writers in a row are met once each. A reader that is not listed is so before it tries
// again, and no writer is inside then: the next one sees it.
void MmuLock::Reader::EnterSlow() {
  uint32_t before;
  do {
    state_.store(kOutside, std::memory_order_release);
    {
      MutexLock lock(lock_.writers_mutex_);
      lock_.List(this);
    }
    was_listed_ = true;
    before = state_.exchange(kInside, std::memory_order_seq_cst);
  } while (!MayStay(before));
}

MmuLock::Reader::~Reader() {
  TDP_CHECK(!is_inside());
  if (!was_listed_) return;
  MutexLock lock(lock_.writers_mutex_);
  lock_.Strike(this);
}

void MmuLock::List(Reader* reader) {
  if (std::exchange(reader->is_listed_, true)) return;
  reader->next_ = readers_;
  if (readers_ != nullptr) readers_->previous_ = reader;
  readers_ = reader;
}

void MmuLock::Strike(Reader* reader) {
  if (!std::exchange(reader->is_listed_, false)) return;
  if (reader->previous_ != nullptr) reader->previous_->next_ = reader->next_;
  if (reader->next_ != nullptr) reader->next_->previous_ = reader->previous_;
  if (readers_ == reader) readers_ = reader->next_;
  reader->previous_ = reader->next_ = nullptr;
}

}  // namespace tdp
