// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/building.md, "Without Abseil". There is nobody
// to give the CPU to, so whoever waits spins.

#ifndef TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_
#define TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_

#include <atomic>

namespace absl {
inline namespace tdp_stand_in {

// A readers-writer lock. Readers that keep coming can hold a writer off.
class Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() {
    for (int free = 0; !state_.compare_exchange_weak(free, kWriter, std::memory_order_acquire);
         free = 0) {
      Pause();
    }
  }
  void Unlock() { state_.store(0, std::memory_order_release); }
  bool TryLock() {
    int free = 0;
    return state_.compare_exchange_strong(free, kWriter, std::memory_order_acquire);
  }
  void ReaderLock() {
    for (;;) {
      int readers = state_.load(std::memory_order_relaxed);
      if (readers != kWriter &&
          state_.compare_exchange_weak(readers, readers + 1, std::memory_order_acquire)) {
        return;
      }
      Pause();
    }
  }
  void ReaderUnlock() { state_.fetch_sub(1, std::memory_order_release); }
  void AssertHeld() const {}

 private:
  static constexpr int kWriter = -1;
  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::atomic<int> state_{0};
};

class MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_SYNCHRONIZATION_MUTEX_H_
