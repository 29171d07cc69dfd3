// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A lock for sections of a few dozen instructions that no thread blocks in.

#ifndef TDP_BASE_SPIN_LOCK_H_
#define TDP_BASE_SPIN_LOCK_H_

#include <atomic>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "tdp/base/spin.h"
#include "tdp/base/sync.h"

namespace tdp {

class ABSL_LOCKABLE SpinLock {
 public:
  SpinLock() = default;
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    while (ABSL_PREDICT_FALSE(held_.exchange(true, std::memory_order_acquire))) {
      SpinUntil([this] { return !held_.load(std::memory_order_relaxed); });
    }
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() { held_.store(false, std::memory_order_release); }

  // Returns whether a thread holds it. Only checks ask, since the answer may be old at once.
  bool is_held() const { return held_.load(std::memory_order_relaxed); }

 private:
  Atomic<bool> held_{false};
};

class ABSL_SCOPED_LOCKABLE SpinLockHolder {
 public:
  explicit SpinLockHolder(SpinLock& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock) : lock_(lock) {
    lock_.Lock();
  }
  ~SpinLockHolder() ABSL_UNLOCK_FUNCTION() { lock_.Unlock(); }
  SpinLockHolder(const SpinLockHolder&) = delete;
  SpinLockHolder& operator=(const SpinLockHolder&) = delete;

 private:
  SpinLock& lock_;
};

}  // namespace tdp

#endif  // TDP_BASE_SPIN_LOCK_H_
