// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Compilers call these for the loads and stores of a subject: gcc and clang with -fsanitize=thread,
// clang with -fsanitize-coverage=func,trace-stores. They take the place of the sanitizers'
// runtimes, so that a store to a table is seen before it happens, with the instruction that makes
// it. The judge itself is compiled without either option.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tdp/judge/session.h"
#include "tdp/judge/tsan_calls.h"

// Bazel's own sanitizer builds bring runtimes with the same names.
#if !defined(__SANITIZE_THREAD__) && !defined(TDP_JUDGE_NO_HOOKS)

namespace tdp::judge {
namespace {

// These hold where the functions under way were called.
constexpr size_t kMaxCalls = 256;
uint64_t g_calls[kMaxCalls];
size_t g_call_depth = 0;

inline void OnStore(const volatile void* p, size_t size, const void* caller) {
  Session* session = Session::current();
  if (session == nullptr) return;
  const uint64_t call =
      g_call_depth == 0 || g_call_depth > kMaxCalls ? 0 : g_calls[g_call_depth - 1];
  session->BeforeStore(p, size, reinterpret_cast<uint64_t>(caller) - 1, call == 0 ? 0 : call - 1);
}

}  // namespace
}  // namespace tdp::judge

#define TDPJ_CALLER __builtin_return_address(0)

extern "C" {

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
void __tsan_write_range(void* p, size_t size) { tdp::judge::OnStore(p, size, TDPJ_CALLER); }

void* __tsan_memcpy(void* to, const void* from, size_t size) {
  tdp::judge::OnStore(to, size, TDPJ_CALLER);
  return std::memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, size_t size) {
  tdp::judge::OnStore(to, size, TDPJ_CALLER);
  return std::memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) {
  tdp::judge::OnStore(to, size, TDPJ_CALLER);
  return std::memset(to, value, size);
}

#define TDPJ_ON_LOAD(p, size) static_cast<void>(p)
#define TDPJ_ON_STORE(p, size) tdp::judge::OnStore(p, size, TDPJ_CALLER)
TDP_TSAN_LOADS_AND_STORES(TDPJ_ON_LOAD, TDPJ_ON_STORE)
TDP_TSAN_FENCES_AND_LOCKS

#define TDPJ_COVERAGE(size)                 \
  void __sanitizer_cov_load##size(void*) {} \
  void __sanitizer_cov_store##size(void* p) { TDPJ_ON_STORE(p, size); }
TDPJ_COVERAGE(1)
TDPJ_COVERAGE(2)
TDPJ_COVERAGE(4)
TDPJ_COVERAGE(8)
TDPJ_COVERAGE(16)

}  // extern "C"

#endif  // no runtime of a sanitizer
