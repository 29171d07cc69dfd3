// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The lock of the tables: a distributed readers-writer lock. docs/locking.md has its timeline.

#ifndef TDP_MMU_SYNC_MMU_LOCK_H_
#define TDP_MMU_SYNC_MMU_LOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "tdp/base/check.h"
#include "tdp/base/spin_lock.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/sync/section_checks.h"

namespace tdp {

// Readers (faults, walks, harvests) each write only a cache line of their own; the writer (a
// structural operation) waits for all of them, and they never block inside. It looks at those that
// are listed: a reader lists itself as it enters, and is struck off when it has not been inside for
// some writers in a row. So readers that do nothing cost writers nothing.
class ABSL_LOCKABLE MmuLock {
 public:
  class Reader;

  // Writers' sections are timed by `clock`, if there is one.
  explicit MmuLock(uint64_t (*clock)() = nullptr) : clock_(clock) {}
  // By then every reader is gone.
  ~MmuLock();

  MmuLock(const MmuLock&) = delete;
  MmuLock& operator=(const MmuLock&) = delete;

  // Waits for other writers, then for the readers inside. Not reentrant.
  void WriterLock() ABSL_EXCLUSIVE_LOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    writers_mutex_.Lock();
    writer_.store(1, std::memory_order_seq_cst);
    if (ABSL_PREDICT_FALSE(clock_ != nullptr)) entered_at_ = clock_();
    if (readers_ != nullptr) WaitForReaders();
    NoteWriter(1);
  }
  void WriterUnlock() ABSL_UNLOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    NoteWriter(-1);
    if (ABSL_PREDICT_FALSE(clock_ != nullptr)) AddTime();
    writer_.store(0, std::memory_order_release);
    writers_mutex_.Unlock();
  }

  // Returns whether a writer is inside, or waits for the readers to leave. For checks.
  bool has_writer() const { return writer_.load(std::memory_order_relaxed) != 0; }

  // Returns what writers have spent inside, by the clock.
  uint64_t writer_ns() const { return writer_ns_.load(std::memory_order_relaxed); }

 private:
  void List(Reader* reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writers_mutex_);
  void Strike(Reader* reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writers_mutex_);
  void WaitForReaders() ABSL_EXCLUSIVE_LOCKS_REQUIRED(writers_mutex_);
  void WaitFor(Reader* reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(writers_mutex_);
  void AddTime() ABSL_EXCLUSIVE_LOCKS_REQUIRED(writers_mutex_);

  // Readers only load it, so it stays shared in their caches until a writer comes.
  alignas(64) Atomic<uint32_t> writer_{0};
  // Held by the writer, and by whoever lists a reader or strikes it off.
  alignas(64) Mutex writers_mutex_;
  Reader* readers_ ABSL_GUARDED_BY(writers_mutex_) = nullptr;
  uint64_t (*const clock_)();
  uint64_t entered_at_ = 0;
  Atomic<uint64_t> writer_ns_{0};
};

// One thread's (or one vCPU's) side of the lock. Not thread-safe: one thread at a time uses it.
// Entering costs one locked store.
class alignas(64) MmuLock::Reader {
 public:
  explicit Reader(MmuLock& lock) : lock_(lock) {}
  ~Reader();

  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // Enters; waits while a writer is inside. Sections do not nest.
  void Enter() ABSL_SHARED_LOCK_FUNCTION(lock_) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const uint32_t before = state_.exchange(kInside, std::memory_order_seq_cst);
    if (ABSL_PREDICT_FALSE(!MayStay(before))) EnterSlow();
    NoteReader(1);
  }
  // Enters if that takes no wait. Else it returns false at once, and the reader stays outside.
  bool TryEnter() ABSL_SHARED_TRYLOCK_FUNCTION(true, lock_) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const uint32_t before = state_.exchange(kInside, std::memory_order_seq_cst);
    const bool stays = MayStay(before);
    NoteReader(stays ? 1 : 0);
    if (ABSL_PREDICT_TRUE(stays)) return true;
    state_.store(before == kUnlisted ? kUnlisted : kOutside, std::memory_order_release);
    return false;
  }
  void Leave() ABSL_UNLOCK_FUNCTION(lock_) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    NoteReader(-1);
    state_.store(kOutside, std::memory_order_release);
  }
  bool is_inside() const { return state_.load(std::memory_order_relaxed) == kInside; }

 private:
  friend class MmuLock;

  // Says where the reader is, and if outside, what writers have seen of it: nothing yet, that it
  // rests there, or so often that it is listed no more.
  enum State : uint32_t { kOutside, kInside, kResting, kUnlisted };

  bool MayStay(uint32_t before) const {
    return before != kUnlisted && lock_.writer_.load(std::memory_order_seq_cst) == 0;
  }
  void EnterSlow();

  Atomic<uint32_t> state_{kUnlisted};
  MmuLock& lock_;
  bool was_listed_ = false;  // at any time; the reader's own
  // These are guarded by the writers' mutex.
  bool is_listed_ = false;
  int rests_ = 0;  // how many writers in a row have found it resting
  Reader* previous_ = nullptr;
  Reader* next_ = nullptr;
};

class ABSL_SCOPED_LOCKABLE MmuReadSection {
 public:
  explicit MmuReadSection(MmuLock::Reader& reader) : reader_(reader) { reader_.Enter(); }
  ~MmuReadSection() { reader_.Leave(); }
  MmuReadSection(const MmuReadSection&) = delete;
  MmuReadSection& operator=(const MmuReadSection&) = delete;

 private:
  MmuLock::Reader& reader_;
};

class ABSL_SCOPED_LOCKABLE MmuWriteSection {
 public:
  explicit MmuWriteSection(MmuLock& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock) : lock_(lock) {
    lock_.WriterLock();
  }
  ~MmuWriteSection() ABSL_UNLOCK_FUNCTION() { lock_.WriterUnlock(); }
  MmuWriteSection(const MmuWriteSection&) = delete;
  MmuWriteSection& operator=(const MmuWriteSection&) = delete;

 private:
  MmuLock& lock_;
};

// A function that needs a section, or a lock, of its caller asserts it by these, or by those of
// section_checks.h. Builds with checks abort where it is missing; others ask nothing.
inline void AssertReading(const MmuLock::Reader& r) { TDP_DCHECK(!kAsksSections || r.is_inside()); }
inline void AssertWriting(const MmuLock& lock) { TDP_DCHECK(!kAsksSections || lock.has_writer()); }
// Asserts `lock`, which readers take inside their sections, or a writer's section.
inline void AssertHolds(const SpinLock& lock, const MmuLock& mmu_lock) {
  TDP_DCHECK(!kAsksSections || lock.is_held() || mmu_lock.has_writer());
}

}  // namespace tdp

#endif  // TDP_MMU_SYNC_MMU_LOCK_H_
