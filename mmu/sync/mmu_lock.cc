// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/sync/mmu_lock.h"

#include <atomic>

#include "tdp/base/check.h"
#include "tdp/base/spin.h"
#include "tdp/base/sync.h"

namespace tdp {

MmuLock::~MmuLock() {
  MutexLock lock(writers_mutex_);
  TDP_CHECK(readers_ == nullptr);
}

void MmuLock::WriterLock() {
  writers_mutex_.Lock();
  writer_.store(1, std::memory_order_seq_cst);
  if (clock_ != nullptr) entered_at_ = clock_();
  for (Reader* reader = readers_; reader != nullptr; reader = reader->next_) {
    SpinUntil([reader] { return reader->inside_.load(std::memory_order_seq_cst) == 0; });
  }
}

void MmuLock::WriterUnlock() {
  if (clock_ != nullptr) {
    writer_ns_.fetch_add(clock_() - entered_at_, std::memory_order_relaxed);
  }
  writer_.store(0, std::memory_order_release);
  writers_mutex_.Unlock();
}

// Waits behind the writers' mutex instead of spinning on the flag: a waiting reader sleeps, and
// several writers in a row are met once each.
void MmuLock::Reader::EnterSlow() {
  do {
    inside_.store(0, std::memory_order_release);
    lock_.writers_mutex_.Lock();
    lock_.writers_mutex_.Unlock();
    inside_.exchange(1, std::memory_order_seq_cst);
  } while (lock_.writer_.load(std::memory_order_seq_cst) != 0);
}

void MmuLock::Register(Reader* reader) {
  MutexLock lock(writers_mutex_);
  reader->next_ = readers_;
  if (readers_ != nullptr) readers_->previous_ = reader;
  readers_ = reader;
}

void MmuLock::Unregister(Reader* reader) {
  TDP_CHECK(!reader->is_inside());
  MutexLock lock(writers_mutex_);
  if (reader->previous_ != nullptr) reader->previous_->next_ = reader->next_;
  if (reader->next_ != nullptr) reader->next_->previous_ = reader->previous_;
  if (readers_ == reader) readers_ = reader->next_;
}

}  // namespace tdp
