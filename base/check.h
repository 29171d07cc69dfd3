// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two strengths of check. Both print the values compared.
//
// TDP_CHECK… is always on: for what would corrupt a guest or free live memory. TDP_DCHECK… is on in
// debug and sanitizer builds (NDEBUG not defined): for the rest, and on the fault path.

#ifndef TDP_BASE_CHECK_H_
#define TDP_BASE_CHECK_H_

#include <string>
#include <type_traits>

#include "absl/base/optimization.h"
#include "absl/strings/str_cat.h"

namespace tdp::internal {

// Prints "file:line: check failed: what" to stderr and aborts, or on a freestanding machine panics.
// The first form takes plain text, so that the function that checks has no string on its stack, and
// with it no guard.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what);
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& what);

// Returns a value as text: hexadecimal for integers (most are addresses and entries), `ToString` if
// there is one, a question mark for the rest.
template <typename T>
std::string CheckText(const T& value) {
  if constexpr (std::is_integral_v<T>) {
    return absl::StrCat("0x", absl::Hex(value));
  } else if constexpr (requires { ToString(value); }) {
    return ToString(value);
  } else {
    return "?";
  }
}

}  // namespace tdp::internal

#define TDP_CHECK(condition)                                        \
  do {                                                              \
    if (ABSL_PREDICT_FALSE(!(condition))) {                         \
      ::tdp::internal::CheckFailed(__FILE__, __LINE__, #condition); \
    }                                                               \
  } while (false)

#define TDP_CHECK_OP(op, a, b)                                                                \
  do {                                                                                        \
    const auto& tdp_check_a = (a);                                                            \
    const auto& tdp_check_b = (b);                                                            \
    if (ABSL_PREDICT_FALSE(!(tdp_check_a op tdp_check_b))) {                                  \
      ::tdp::internal::CheckFailed(                                                           \
          __FILE__, __LINE__,                                                                 \
          absl::StrCat(#a " " #op " " #b " (", ::tdp::internal::CheckText(tdp_check_a), ", ", \
                       ::tdp::internal::CheckText(tdp_check_b), ")"));                        \
    }                                                                                         \
  } while (false)

#define TDP_CHECK_EQ(a, b) TDP_CHECK_OP(==, a, b)
#define TDP_CHECK_LT(a, b) TDP_CHECK_OP(<, a, b)
#define TDP_CHECK_LE(a, b) TDP_CHECK_OP(<=, a, b)

#ifdef NDEBUG
#define TDP_DCHECK(condition)                \
  do {                                       \
    if (false) static_cast<void>(condition); \
  } while (false)
#define TDP_DCHECK_EQ(a, b) TDP_DCHECK((a) == (b))
#define TDP_DCHECK_LE(a, b) TDP_DCHECK((a) <= (b))
#else
#define TDP_DCHECK(condition) TDP_CHECK(condition)
#define TDP_DCHECK_EQ(a, b) TDP_CHECK_EQ(a, b)
#define TDP_DCHECK_LE(a, b) TDP_CHECK_LE(a, b)
#endif

#endif  // TDP_BASE_CHECK_H_
