// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Locks Abseil's mutex by names that every release has. Abseil gave it those of std::mutex in 2025
// and deprecated the older ones, and the pointer that `absl::MutexLock` took. As templates, these
// compile with a release from either side of that, and warn with none.

#ifndef TDP_BASE_ABSL_MUTEX_H_
#define TDP_BASE_ABSL_MUTEX_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tdp {
namespace internal {

template <typename AbslMutex>
void Lock(AbslMutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if constexpr (requires { mutex.lock(); }) {
    mutex.lock();
  } else {
    mutex.Lock();
  }
}
template <typename AbslMutex>
void Unlock(AbslMutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if constexpr (requires { mutex.unlock(); }) {
    mutex.unlock();
  } else {
    mutex.Unlock();
  }
}
template <typename AbslMutex>
void LockShared(AbslMutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if constexpr (requires { mutex.lock_shared(); }) {
    mutex.lock_shared();
  } else {
    mutex.ReaderLock();
  }
}
template <typename AbslMutex>
void UnlockShared(AbslMutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if constexpr (requires { mutex.unlock_shared(); }) {
    mutex.unlock_shared();
  } else {
    mutex.ReaderUnlock();
  }
}

}  // namespace internal

// Holds an absl::Mutex, as absl::MutexLock does. For what is not the engine's: that has `MutexLock`
// of base/sync.h, which a scheduler of tests can see.
class ABSL_SCOPED_LOCKABLE AbslMutexLock {
 public:
  explicit AbslMutexLock(absl::Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    internal::Lock(mutex_);
  }
  ~AbslMutexLock() ABSL_UNLOCK_FUNCTION() { internal::Unlock(mutex_); }
  AbslMutexLock(const AbslMutexLock&) = delete;
  AbslMutexLock& operator=(const AbslMutexLock&) = delete;

 private:
  absl::Mutex& mutex_;
};

}  // namespace tdp

#endif  // TDP_BASE_ABSL_MUTEX_H_
