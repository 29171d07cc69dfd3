// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Defines what gcc and clang call for each load and store of code that is compiled with
// -fsanitize=thread, and what C++ headers tell a race detector of their locks: functions to stand
// in an `extern "C"` block of whoever takes the place of that sanitizer's runtime. Atomic accesses
// are made here, in the strongest order.

#ifndef TDP_JUDGE_TSAN_CALLS_H_
#define TDP_JUDGE_TSAN_CALLS_H_

#include <cstddef>
#include <cstdint>

// Defines the functions that tell of one load or store. `ON_LOAD(p, size)` and `ON_STORE(p, size)`
// stand in the function that was called, before it makes an access; a store is told of for what is
// both.
#define TDP_TSAN_LOADS_AND_STORES(ON_LOAD, ON_STORE) \
  TDP_TSAN_PLAIN(1, ON_LOAD, ON_STORE)               \
  TDP_TSAN_PLAIN(2, ON_LOAD, ON_STORE)               \
  TDP_TSAN_PLAIN(4, ON_LOAD, ON_STORE)               \
  TDP_TSAN_PLAIN(8, ON_LOAD, ON_STORE)               \
  TDP_TSAN_PLAIN(16, ON_LOAD, ON_STORE)              \
  TDP_TSAN_ATOMIC(8, uint8_t, ON_LOAD, ON_STORE)     \
  TDP_TSAN_ATOMIC(16, uint16_t, ON_LOAD, ON_STORE)   \
  TDP_TSAN_ATOMIC(32, uint32_t, ON_LOAD, ON_STORE)   \
  TDP_TSAN_ATOMIC(64, uint64_t, ON_LOAD, ON_STORE)

#define TDP_TSAN_PLAIN(size, ON_LOAD, ON_STORE)                              \
  void __tsan_read##size(void* p) { ON_LOAD(p, size); }                      \
  void __tsan_unaligned_read##size(void* p) { ON_LOAD(p, size); }            \
  void __tsan_volatile_read##size(void* p) { ON_LOAD(p, size); }             \
  void __tsan_unaligned_volatile_read##size(void* p) { ON_LOAD(p, size); }   \
  void __tsan_write##size(void* p) { ON_STORE(p, size); }                    \
  void __tsan_unaligned_write##size(void* p) { ON_STORE(p, size); }          \
  void __tsan_volatile_write##size(void* p) { ON_STORE(p, size); }           \
  void __tsan_unaligned_volatile_write##size(void* p) { ON_STORE(p, size); } \
  void __tsan_read_write##size(void* p) { ON_STORE(p, size); }               \
  void __tsan_unaligned_read_write##size(void* p) { ON_STORE(p, size); }

#define TDP_TSAN_ATOMIC(bits, type, ON_LOAD, ON_STORE)                                          \
  type __tsan_atomic##bits##_load(const volatile type* p, int) {                                \
    ON_LOAD(p, sizeof(type));                                                                   \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                \
  }                                                                                             \
  void __tsan_atomic##bits##_store(volatile type* p, type v, int) {                             \
    ON_STORE(p, sizeof(type));                                                                  \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                             \
  type __tsan_atomic##bits##_exchange(volatile type* p, type v, int) {                          \
    ON_STORE(p, sizeof(type));                                                                  \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                         \
  }                                                                                             \
  TDP_TSAN_FETCH(bits, type, add, ON_STORE)                                                     \
  TDP_TSAN_FETCH(bits, type, sub, ON_STORE)                                                     \
  TDP_TSAN_FETCH(bits, type, and, ON_STORE)                                                     \
  TDP_TSAN_FETCH(bits, type, or, ON_STORE)                                                      \
  TDP_TSAN_FETCH(bits, type, xor, ON_STORE)                                                     \
  TDP_TSAN_FETCH(bits, type, nand, ON_STORE)                                                    \
  TDP_TSAN_EXCHANGE(bits, type, strong, ON_STORE)                                               \
  TDP_TSAN_EXCHANGE(bits, type, weak, ON_STORE)                                                 \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type e, type v, int, int) { \
    ON_STORE(p, sizeof(type));                                                                  \
    __atomic_compare_exchange_n(p, &e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);           \
    return e;                                                                                   \
  }

#define TDP_TSAN_FETCH(bits, type, name, ON_STORE)                         \
  type __tsan_atomic##bits##_fetch_##name(volatile type* p, type v, int) { \
    ON_STORE(p, sizeof(type));                                             \
    return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST);                  \
  }

#define TDP_TSAN_EXCHANGE(bits, type, kind, ON_STORE)                                              \
  int __tsan_atomic##bits##_compare_exchange_##kind(volatile type* p, type* e, type v, int, int) { \
    ON_STORE(p, sizeof(type));                                                                     \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }

// Defines those in which nothing is loaded or stored: fences, which are made, and what is said of
// locks, which nobody listens to.
#define TDP_TSAN_FENCES_AND_LOCKS                                                   \
  void __tsan_init(void) {}                                                         \
  void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); } \
  void __tsan_atomic_signal_fence(int) {}                                           \
  void __tsan_acquire(void*) {}                                                     \
  void __tsan_release(void*) {}                                                     \
  void __tsan_mutex_create(void*, unsigned) {}                                      \
  void __tsan_mutex_destroy(void*, unsigned) {}                                     \
  void __tsan_mutex_pre_lock(void*, unsigned) {}                                    \
  void __tsan_mutex_post_lock(void*, unsigned, int) {}                              \
  int __tsan_mutex_pre_unlock(void*, unsigned) { return 0; }                        \
  void __tsan_mutex_post_unlock(void*, unsigned) {}                                 \
  void __tsan_mutex_pre_signal(void*, unsigned) {}                                  \
  void __tsan_mutex_post_signal(void*, unsigned) {}                                 \
  void __tsan_mutex_pre_divert(void*, unsigned) {}                                  \
  void __tsan_mutex_post_divert(void*, unsigned) {}

#endif  // TDP_JUDGE_TSAN_CALLS_H_
