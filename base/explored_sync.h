// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// base/sync.h for builds with TDP_EXPLORE alone: the same names, each of whose operations asks a
// scheduler. Without a scheduler they are what they are elsewhere, for one thread.

#ifndef TDP_BASE_EXPLORED_SYNC_H_
#define TDP_BASE_EXPLORED_SYNC_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/base/thread_annotations.h"
#include "tdp/base/check.h"

namespace tdp {

class Mutex;

namespace explore {

// Says what a thread is about to do.
enum class Step : uint8_t { kLoad, kStore, kUpdate, kLock, kUnlock, kScan, kPause };
inline constexpr int kStepKinds = 7;

// Decides at every shared access which thread goes on, and what a load may see. Values are the
// bytes of the object, zero-extended. The thread that acts calls it.
class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // The thread is about to take `step`. Returns when it may.
  virtual void Reach(Step step, const void* where) = 0;

  // An atomic object comes to be at `where`. What was stored there before is forgotten.
  virtual void OnNew(const void* where) = 0;
  // The thread loads, and `newest` is the newest value there. Returns the value that it sees.
  virtual uint64_t OnLoad(const void* where, uint64_t newest, std::memory_order order) = 0;
  // The thread's compare-exchange met `newest` and changed nothing. It sees no older value.
  virtual void OnFailedExchange(const void* where, uint64_t newest, std::memory_order order) = 0;
  virtual void OnStore(const void* where, uint64_t before, uint64_t after,
                       std::memory_order order) = 0;
  virtual void OnUpdate(const void* where, uint64_t before, uint64_t after,
                        std::memory_order order) = 0;

  // The thread cannot go on before another has changed something: it spins or yields.
  virtual void Pause() = 0;
  // The thread waits for `mutex`. Returns when somebody has left it.
  virtual void Wait(const Mutex& mutex) = 0;
  virtual void OnLock(const Mutex& mutex) = 0;
  virtual void OnUnlock(const Mutex& mutex) = 0;
};

// Null where the program runs without a scheduler.
inline constinit Scheduler* scheduler = nullptr;

// Does atomic operations on an object that lies elsewhere.
template <typename T>
class Place {
 public:
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);

  explicit Place(T* where) : where_(where) {}

  T Load(std::memory_order order) const {
    Reach(Step::kLoad);
    return Seen(*where_, order);
  }
  void Store(T value, std::memory_order order) const {
    Reach(Step::kStore);
    const T before = *where_;
    *where_ = value;
    if (scheduler != nullptr) scheduler->OnStore(where_, Bits(before), Bits(value), order);
  }
  template <typename Change>
  T Update(Change change, std::memory_order order) const {
    Reach(Step::kUpdate);
    const T before = *where_;
    Replace(before, change(before), order);
    return before;
  }
  bool CompareExchange(T& expected, T value, std::memory_order order,
                       std::memory_order failure) const {
    Reach(Step::kUpdate);
    const T before = *where_;
    if (Bits(before) == Bits(expected)) {
      Replace(before, value, order);
      return true;
    }
    if (scheduler != nullptr) scheduler->OnFailedExchange(where_, Bits(before), failure);
    expected = before;
    return false;
  }

 private:
  static uint64_t Bits(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
  }
  static T Value(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }
  void Reach(Step step) const {
    if (scheduler != nullptr) scheduler->Reach(step, where_);
  }
  T Seen(T newest, std::memory_order order) const {
    if (scheduler == nullptr) return newest;
    return Value(scheduler->OnLoad(where_, Bits(newest), order));
  }
  void Replace(T before, T after, std::memory_order order) const {
    *where_ = after;
    if (scheduler != nullptr) scheduler->OnUpdate(where_, Bits(before), Bits(after), order);
  }

  T* where_;
};

// Returns the order that is given where std::atomic takes one order for success and failure.
constexpr std::memory_order OfFailure(std::memory_order order) {
  switch (order) {
    case std::memory_order_release:
      return std::memory_order_relaxed;
    case std::memory_order_acq_rel:
      return std::memory_order_acquire;
    default:
      return order;
  }
}

// The members that std::atomic and std::atomic_ref share. `Self` has `place()`.
template <typename Self, typename T>
class AtomicOperations {
 public:
  using Order = std::memory_order;
  static constexpr Order kSeqCst = std::memory_order_seq_cst;

  T load(Order order = kSeqCst) const { return place().Load(order); }
  void store(T value, Order order = kSeqCst) const { place().Store(value, order); }
  T exchange(T value, Order order = kSeqCst) const {
    return place().Update([value](T) { return value; }, order);
  }
  bool compare_exchange_strong(T& expected, T value, Order order, Order failure) const {
    return place().CompareExchange(expected, value, order, failure);
  }
  bool compare_exchange_strong(T& expected, T value, Order order = kSeqCst) const {
    return compare_exchange_strong(expected, value, order, OfFailure(order));
  }
  bool compare_exchange_weak(T& expected, T value, Order order, Order failure) const {
    return compare_exchange_strong(expected, value, order, failure);
  }
  bool compare_exchange_weak(T& expected, T value, Order order = kSeqCst) const {
    return compare_exchange_strong(expected, value, order);
  }
  T fetch_add(T by, Order order = kSeqCst) const {
    return place().Update([by](T value) { return static_cast<T>(value + by); }, order);
  }
  T fetch_sub(T by, Order order = kSeqCst) const {
    return place().Update([by](T value) { return static_cast<T>(value - by); }, order);
  }
  T fetch_and(T by, Order order = kSeqCst) const {
    return place().Update([by](T value) { return static_cast<T>(value & by); }, order);
  }
  T fetch_or(T by, Order order = kSeqCst) const {
    return place().Update([by](T value) { return static_cast<T>(value | by); }, order);
  }
  T operator++() const { return static_cast<T>(fetch_add(1) + 1); }
  T operator++(int) const { return fetch_add(1); }
  T operator--() const { return static_cast<T>(fetch_sub(1) - 1); }
  T operator--(int) const { return fetch_sub(1); }
  T operator+=(T by) const { return static_cast<T>(fetch_add(by) + by); }
  T operator-=(T by) const { return static_cast<T>(fetch_sub(by) - by); }
  operator T() const { return load(); }

 private:
  Place<T> place() const { return static_cast<const Self*>(this)->place(); }
};

}  // namespace explore

template <typename T>
class Atomic : public explore::AtomicOperations<Atomic<T>, T> {
 public:
  constexpr Atomic() noexcept : Atomic(T()) {}
  constexpr Atomic(T value) noexcept : value_(value) {
    if (!std::is_constant_evaluated() && explore::scheduler != nullptr) {
      explore::scheduler->OnNew(&value_);
    }
  }
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;
  T operator=(T value) {
    this->store(value);
    return value;
  }

 private:
  friend class explore::AtomicOperations<Atomic<T>, T>;
  explore::Place<T> place() const { return explore::Place<T>(&value_); }

  alignas(sizeof(T)) mutable T value_;
};

template <typename T>
class AtomicRef : public explore::AtomicOperations<AtomicRef<T>, T> {
 public:
  explicit AtomicRef(T& value) : where_(&value) {}

 private:
  friend class explore::AtomicOperations<AtomicRef<T>, T>;
  explore::Place<T> place() const { return explore::Place<T>(where_); }

  T* where_;
};

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { Acquire(kHeld); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { Release(kHeld); }
  void LockShared() ABSL_SHARED_LOCK_FUNCTION() { Acquire(1); }
  void UnlockShared() ABSL_UNLOCK_FUNCTION() { Release(1); }

 private:
  static constexpr int kHeld = -1;

  void Acquire(int by) {
    using explore::scheduler;
    if (scheduler != nullptr) scheduler->Reach(explore::Step::kLock, this);
    while (by == kHeld ? holders_ != 0 : holders_ < 0) {
      TDP_CHECK(scheduler != nullptr);
      scheduler->Wait(*this);
    }
    holders_ += by;
    if (scheduler != nullptr) scheduler->OnLock(*this);
  }
  void Release(int by) {
    using explore::scheduler;
    if (scheduler != nullptr) scheduler->Reach(explore::Step::kUnlock, this);
    TDP_CHECK(by == kHeld ? holders_ == kHeld : holders_ > 0);
    holders_ -= by;
    if (scheduler != nullptr) scheduler->OnUnlock(*this);
  }

  int holders_ = 0;  // readers; kHeld for a writer
};

inline void SharedScan(const void* where) {
  if (explore::scheduler != nullptr) explore::scheduler->Reach(explore::Step::kScan, where);
}

inline void Yield() {
  TDP_CHECK(explore::scheduler != nullptr);
  explore::scheduler->Pause();
}

namespace internal {
inline void SpinPause(int /*round*/) { Yield(); }
}  // namespace internal

}  // namespace tdp

#endif  // TDP_BASE_EXPLORED_SYNC_H_
