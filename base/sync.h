// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The seam between the engine and whatever runs its threads: atomics, mutexes and waits. The core
// uses these names and neither <atomic>'s nor Abseil's own.
//
// In every hosted build that ships they are std::atomic and absl::Mutex and cost nothing more; in a
// freestanding one, the mutex and the yield of base/platform.h. Under
// `--config=explore`, which defines TDP_EXPLORE, each shared access asks a scheduler first, so that
// tests/explore can choose who goes on (docs/testing.md).

#ifndef TDP_BASE_SYNC_H_
#define TDP_BASE_SYNC_H_

#include <atomic>

#include "absl/base/thread_annotations.h"

#ifdef TDP_EXPLORE
#include "tdp/base/explored_sync.h"
#else
#include "absl/synchronization/mutex.h"
#include "tdp/base/absl_mutex.h"
#ifdef TDP_FREESTANDING
#include "tdp/base/platform.h"
#else
#include <thread>
#endif
#endif

namespace tdp {

#ifndef TDP_EXPLORE

template <typename T>
using Atomic = std::atomic<T>;
template <typename T>
using AtomicRef = std::atomic_ref<T>;

// Tells the scheduler of a read of memory that other threads change, where the read is not an
// `AtomicRef`'s: vector loads.
inline void SharedScan(const void*) {}

// Gives the CPU away, where another thread has to act before this one can go on.
#ifdef TDP_FREESTANDING
inline void Yield() { tdp_platform_yield(); }
#else
inline void Yield() { std::this_thread::yield(); }
#endif

namespace internal {

// Waits a moment between two looks at what another thread is about to change.
inline void SpinPause(int round) {
  constexpr int kSpins = 64;  // about a microsecond
  if (round >= kSpins) return Yield();
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace internal

// A readers-writer mutex that blocks. Not reentrant.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { internal::Lock(mutex_); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { internal::Unlock(mutex_); }
  void LockShared() ABSL_SHARED_LOCK_FUNCTION() { internal::LockShared(mutex_); }
  void UnlockShared() ABSL_UNLOCK_FUNCTION() { internal::UnlockShared(mutex_); }

 private:
  absl::Mutex mutex_;
};

#endif  // TDP_EXPLORE

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class ABSL_SCOPED_LOCKABLE ReaderMutexLock {
 public:
  explicit ReaderMutexLock(Mutex& mutex) ABSL_SHARED_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.LockShared();
  }
  ~ReaderMutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.UnlockShared(); }
  ReaderMutexLock(const ReaderMutexLock&) = delete;
  ReaderMutexLock& operator=(const ReaderMutexLock&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace tdp

#endif  // TDP_BASE_SYNC_H_
