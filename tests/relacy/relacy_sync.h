// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is base/sync.h once more, with Relacy's atomics and mutexes: included first, it lets a test
// compile a source of the core so that every memory order in it is modelled, not only those that
// the CPU has. Relacy (Debian's relacy-dev) runs a test's threads as fibers, and shows each load
// every value that the C++ memory model allows.
//
// Everything stands in a namespace of its own, since the same names without Relacy are linked too.

#ifndef TDP_TESTS_RELACY_RELACY_SYNC_H_
#define TDP_TESTS_RELACY_RELACY_SYNC_H_

// The sources under test include other libraries, all of which come before Relacy's macros.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <streambuf>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

#define tdp tdp_under_relacy  // NOLINT(readability-identifier-naming)

#include <relacy/relacy.hpp>

#undef assert
#undef calloc
#undef delete
#undef errno
#undef free
#undef malloc
#undef memory_order_acq_rel
#undef memory_order_acquire
#undef memory_order_consume
#undef memory_order_relaxed
#undef memory_order_release
#undef memory_order_seq_cst
#undef new
#undef realloc

// Relacy replaces the allocation functions, so that it finds leaks; these two would go past it.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new[](size);
}

// This header stands in for these two.
#define TDP_BASE_SPIN_H_
#define TDP_BASE_SYNC_H_

namespace tdp {

// Says what the model does with the orders that the sources ask for. Anything but kNone must make a
// test of the sources fail: it shows that the test would notice.
enum class Weakening {
  kNone,
  kSeqCstToAcqRel,    // no store is ordered before a later load
  kReleaseToRelaxed,  // stores publish nothing
  kAcquireToRelaxed,  // loads see nothing but their own value
};
inline Weakening weakening = Weakening::kNone;

namespace relacy {

enum class Kind { kLoad, kStore, kUpdate };

inline rl::memory_order OrderOf(std::memory_order order, Kind kind) {
  if (weakening == Weakening::kSeqCstToAcqRel && order == std::memory_order_seq_cst) {
    order = kind == Kind::kLoad    ? std::memory_order_acquire
            : kind == Kind::kStore ? std::memory_order_release
                                   : std::memory_order_acq_rel;
  }
  if (weakening == Weakening::kReleaseToRelaxed && order != std::memory_order_acquire) {
    if (kind == Kind::kStore) return rl::mo_relaxed;
    if (kind == Kind::kUpdate) return rl::mo_acquire;
  }
  if (weakening == Weakening::kAcquireToRelaxed && order != std::memory_order_release) {
    if (kind == Kind::kLoad) return rl::mo_relaxed;
    if (kind == Kind::kUpdate) return rl::mo_release;
  }
  switch (order) {
    case std::memory_order_relaxed:
      return rl::mo_relaxed;
    case std::memory_order_acquire:
    case std::memory_order_consume:
      return rl::mo_acquire;
    case std::memory_order_release:
      return rl::mo_release;
    case std::memory_order_acq_rel:
      return rl::mo_acq_rel;
    default:
      return rl::mo_seq_cst;
  }
}

}  // namespace relacy

// A test may define this to true: atomics then come to be at their first use, and the many words of
// a dirty log that no thread touches cost nothing.
#ifndef TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE
#define TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE false
#endif

// Is Relacy's atomic with the face of std::atomic.
template <typename T>
class Atomic {
 public:
  using Kind = relacy::Kind;
  static constexpr std::memory_order kSeqCst = std::memory_order_seq_cst;

  Atomic() : Atomic(T()) {}
  Atomic(T value) {  // NOLINT(google-explicit-constructor): as std::atomic
    if (!TDP_RELACY_MAKES_ATOMICS_AT_FIRST_USE) Real();
    if (value != T()) store(value, std::memory_order_relaxed);
  }
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(std::memory_order order = kSeqCst) const {
    return Real().load(relacy::OrderOf(order, Kind::kLoad), RL_INFO);
  }
  void store(T value, std::memory_order order = kSeqCst) {
    Real().store(value, relacy::OrderOf(order, Kind::kStore), RL_INFO);
  }
  T exchange(T value, std::memory_order order = kSeqCst) {
    return Real().exchange(value, relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  T fetch_add(T value, std::memory_order order = kSeqCst) {
    return Real().fetch_add(value, relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  T fetch_sub(T value, std::memory_order order = kSeqCst) {
    return Real().fetch_sub(value, relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  T fetch_and(T value, std::memory_order order = kSeqCst) {
    return Real().fetch_and(value, relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  T fetch_or(T value, std::memory_order order = kSeqCst) {
    return Real().fetch_or(value, relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  bool compare_exchange_strong(T& expected, T value, std::memory_order order = kSeqCst,
                               std::memory_order /*failure*/ = kSeqCst) {
    return Real().compare_exchange(rl::bool_t<false>(), expected, value,
                                   relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }
  bool compare_exchange_weak(T& expected, T value, std::memory_order order = kSeqCst,
                             std::memory_order /*failure*/ = kSeqCst) {
    return Real().compare_exchange(rl::bool_t<true>(), expected, value,
                                   relacy::OrderOf(order, Kind::kUpdate), RL_INFO);
  }

 private:
  // Every thread sees the first value, whoever's store that was.
  using Modelled = rl::generic_atomic<T, true>;

  Modelled& Real() const {
    if (real_ == nullptr) real_ = std::make_unique<Modelled>();
    return *real_;
  }

  mutable std::unique_ptr<Modelled> real_;
};

// Entries of tables are no subject of these tests.
template <typename T>
using AtomicRef = std::atomic_ref<T>;
inline void SharedScan(const void*) {}

inline void Yield() { rl::yield(1, RL_INFO); }

// Looks again and again, with another thread in between.
template <typename Done>
void SpinUntil(Done done) {
  while (!done()) Yield();
}

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() { mutex_.init(true, false, false, false, RL_INFO); }
  ~Mutex() { mutex_.deinit(RL_INFO); }
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock_exclusive(RL_INFO); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock_exclusive(RL_INFO); }
  void LockShared() ABSL_SHARED_LOCK_FUNCTION() { mutex_.lock_shared(RL_INFO); }
  void UnlockShared() ABSL_UNLOCK_FUNCTION() { mutex_.unlock_shared(RL_INFO); }

 private:
  struct Tag;
  rl::generic_mutex<Tag> mutex_;
};

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

namespace relacy {

// Is memory that no atomic protects by itself: two accesses that no order stands between are a
// race, and fail the test.
class Plain {
 public:
  void Write() { value_(RL_INFO).store(1); }
  void Read() const { (void)value_(RL_INFO).load(); }

 private:
  mutable rl::var<int> value_;
};

// Keeps a report in memory of its own, which was there before: Relacy allocates for whoever is
// inside of it and takes all of that back.
class ReportBuffer : public std::streambuf {
 public:
  ReportBuffer() { setp(text_.data(), text_.data() + text_.size()); }
  std::string text() const { return std::string(pbase(), pptr()); }

 private:
  std::array<char, 1 << 16> text_;
};

// Runs `Scenario` under `iterations` random interleavings. Returns what went wrong, with the steps
// that led there; empty if nothing did.
template <typename Scenario>
std::string Failure(int iterations, Weakening weaker = Weakening::kNone) {
  const auto buffer = std::make_unique<ReportBuffer>();
  std::ostream report(buffer.get());
  rl::test_params params;
  params.iteration_count = static_cast<rl::iteration_t>(iterations);
  params.output_stream = &report;
  params.progress_stream = &report;
  params.search_type = rl::sched_random;
  params.execution_depth_limit = 4000;
  weakening = weaker;
  rl::simulate<Scenario>(params);
  weakening = Weakening::kNone;
  if (params.test_result == rl::test_result_success) return "";
  return rl::test_result_str(params.test_result) + ("\n" + buffer->text());
}

}  // namespace relacy
}  // namespace tdp

#endif  // TDP_TESTS_RELACY_RELACY_SYNC_H_
