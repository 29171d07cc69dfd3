// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_
#define TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_

#ifdef TDP_FREESTANDING
#include "tdp/base/platform.h"
#else
#include <atomic>
#endif

namespace absl {
inline namespace tdp_stand_in {
namespace internal {

// A mutex with a condition.
#ifdef TDP_FREESTANDING
class Monitor {
 public:
  Monitor() { tdp_platform_mutex_init(&mutex_); }
  ~Monitor() { tdp_platform_mutex_destroy(&mutex_); }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  void Lock() { tdp_platform_mutex_lock(&mutex_); }
  void Unlock() { tdp_platform_mutex_unlock(&mutex_); }
  void Wait() { tdp_platform_mutex_wait(&mutex_); }
  void Wake() { tdp_platform_mutex_wake(&mutex_); }

 private:
  TdpPlatformMutex mutex_{};
};
#else
// The judge has no threads that wait for each other for long: whoever waits spins.
class Monitor {
 public:
  void Lock() {
    while (locked_.exchange(true, std::memory_order_acquire)) Pause();
  }
  void Unlock() { locked_.store(false, std::memory_order_release); }
  void Wait() {
    Unlock();
    Pause();
    Lock();
  }
  void Wake() {}

 private:
  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::atomic<bool> locked_{false};
};
#endif

}  // namespace internal

// A readers-writer lock that prefers writers: readers who come while one waits let it pass.
class Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() {
    monitor_.Lock();
    ++writers_waiting_;
    while (holders_ != 0) monitor_.Wait();
    --writers_waiting_;
    holders_ = kWriter;
    monitor_.Unlock();
  }
  bool TryLock() {
    monitor_.Lock();
    const bool is_free = holders_ == 0;
    if (is_free) holders_ = kWriter;
    monitor_.Unlock();
    return is_free;
  }
  void Unlock() { Release(kWriter); }
  void ReaderLock() {
    monitor_.Lock();
    while (holders_ == kWriter || writers_waiting_ != 0) monitor_.Wait();
    ++holders_;
    monitor_.Unlock();
  }
  void ReaderUnlock() { Release(1); }
  void AssertHeld() const {}

 private:
  static constexpr int kWriter = -1;

  void Release(int share) {
    monitor_.Lock();
    holders_ -= share;
    if (holders_ == 0) monitor_.Wake();
    monitor_.Unlock();
  }

  internal::Monitor monitor_;
  int holders_ = 0;  // readers, or `kWriter`
  int writers_waiting_ = 0;
};

class MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_
