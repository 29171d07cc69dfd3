// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What compilers call for the loads and stores of a subject: gcc and clang with -fsanitize=thread,
// clang with -fsanitize-coverage=func,trace-stores. These take the place of the sanitizers'
// runtimes, so that a store to a table is seen before it happens, with the instruction that makes
// it. The judge itself is compiled without either option.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tdp/judge/session.h"

// Bazel's own sanitizer builds bring runtimes with the same names.
#if !defined(__SANITIZE_THREAD__) && !defined(TDP_JUDGE_NO_HOOKS)

namespace tdp::judge {
namespace {

// Where the functions under way were called.
constexpr size_t kMaxCalls = 256;
uint64_t g_calls[kMaxCalls];
size_t g_call_depth = 0;

inline void OnStore(const volatile void* p, const void* caller) {
  Session* session = Session::current();
  if (session == nullptr) return;
  const uint64_t call =
      g_call_depth == 0 || g_call_depth > kMaxCalls ? 0 : g_calls[g_call_depth - 1];
  session->BeforeStore(p, reinterpret_cast<uint64_t>(caller) - 1, call == 0 ? 0 : call - 1);
}

// Every word that a store of `size` bytes touches.
inline void OnStores(const void* p, size_t size, const void* caller) {
  const auto* byte = static_cast<const char*>(p);
  for (size_t i = 0; i < size; i += 8) OnStore(byte + i, caller);
}

}  // namespace
}  // namespace tdp::judge

#define TDPJ_CALLER __builtin_return_address(0)

extern "C" {

void __tsan_init(void) {}
void __tsan_func_entry(void* call) {
  using tdp::judge::g_call_depth;
  if (g_call_depth < tdp::judge::kMaxCalls) {
    tdp::judge::g_calls[g_call_depth] = reinterpret_cast<uint64_t>(call);
  }
  ++g_call_depth;
}
void __tsan_func_exit(void) {
  if (tdp::judge::g_call_depth != 0) --tdp::judge::g_call_depth;
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void*, size_t) {}
void __tsan_write_range(void* p, size_t size) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

// What libraries in C++ tell a race detector of their locks.
void __tsan_acquire(void*) {}
void __tsan_release(void*) {}
void __tsan_mutex_create(void*, unsigned) {}
void __tsan_mutex_destroy(void*, unsigned) {}
void __tsan_mutex_pre_lock(void*, unsigned) {}
void __tsan_mutex_post_lock(void*, unsigned, int) {}
int __tsan_mutex_pre_unlock(void*, unsigned) { return 0; }
void __tsan_mutex_post_unlock(void*, unsigned) {}
void __tsan_mutex_pre_signal(void*, unsigned) {}
void __tsan_mutex_post_signal(void*, unsigned) {}
void __tsan_mutex_pre_divert(void*, unsigned) {}
void __tsan_mutex_post_divert(void*, unsigned) {}

void* __tsan_memcpy(void* to, const void* from, size_t size) {
  tdp::judge::OnStores(to, size, TDPJ_CALLER);
  return std::memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, size_t size) {
  tdp::judge::OnStores(to, size, TDPJ_CALLER);
  return std::memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) {
  tdp::judge::OnStores(to, size, TDPJ_CALLER);
  return std::memset(to, value, size);
}

#define TDPJ_PLAIN(size)                                                                          \
  void __tsan_read##size(void*) {}                                                                \
  void __tsan_unaligned_read##size(void*) {}                                                      \
  void __tsan_volatile_read##size(void*) {}                                                       \
  void __tsan_unaligned_volatile_read##size(void*) {}                                             \
  void __tsan_write##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }                \
  void __tsan_unaligned_write##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }      \
  void __tsan_volatile_write##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }       \
  void __tsan_unaligned_volatile_write##size(void* p) {                                           \
    tdp::judge::OnStores(p, size, TDPJ_CALLER);                                                   \
  }                                                                                               \
  void __tsan_read_write##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }           \
  void __tsan_unaligned_read_write##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); } \
  void __sanitizer_cov_load##size(void*) {}                                                       \
  void __sanitizer_cov_store##size(void* p) { tdp::judge::OnStores(p, size, TDPJ_CALLER); }
TDPJ_PLAIN(1)
TDPJ_PLAIN(2)
TDPJ_PLAIN(4)
TDPJ_PLAIN(8)
TDPJ_PLAIN(16)

#define TDPJ_FETCH(bits, type, name)                                       \
  type __tsan_atomic##bits##_fetch_##name(volatile type* p, type v, int) { \
    tdp::judge::OnStore(p, TDPJ_CALLER);                                   \
    return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST);                  \
  }
#define TDPJ_EXCHANGE(bits, type, kind)                                                            \
  int __tsan_atomic##bits##_compare_exchange_##kind(volatile type* p, type* e, type v, int, int) { \
    tdp::judge::OnStore(p, TDPJ_CALLER);                                                           \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }
#define TDPJ_ATOMIC(bits, type)                                                                 \
  type __tsan_atomic##bits##_load(const volatile type* p, int) {                                \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                \
  }                                                                                             \
  void __tsan_atomic##bits##_store(volatile type* p, type v, int) {                             \
    tdp::judge::OnStore(p, TDPJ_CALLER);                                                        \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                             \
  type __tsan_atomic##bits##_exchange(volatile type* p, type v, int) {                          \
    tdp::judge::OnStore(p, TDPJ_CALLER);                                                        \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                         \
  }                                                                                             \
  TDPJ_FETCH(bits, type, add)                                                                   \
  TDPJ_FETCH(bits, type, sub)                                                                   \
  TDPJ_FETCH(bits, type, and)                                                                   \
  TDPJ_FETCH(bits, type, or)                                                                    \
  TDPJ_FETCH(bits, type, xor)                                                                   \
  TDPJ_FETCH(bits, type, nand)                                                                  \
  TDPJ_EXCHANGE(bits, type, strong)                                                             \
  TDPJ_EXCHANGE(bits, type, weak)                                                               \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type e, type v, int, int) { \
    tdp::judge::OnStore(p, TDPJ_CALLER);                                                        \
    __atomic_compare_exchange_n(p, &e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);           \
    return e;                                                                                   \
  }
TDPJ_ATOMIC(8, uint8_t)
TDPJ_ATOMIC(16, uint16_t)
TDPJ_ATOMIC(32, uint32_t)
TDPJ_ATOMIC(64, uint64_t)

}  // extern "C"

#endif  // no runtime of a sanitizer
