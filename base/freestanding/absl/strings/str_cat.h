// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_CAT_H_
#define TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_CAT_H_

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace absl {
inline namespace tdp_stand_in {

// An integer to be written in hexadecimal, without "0x".
struct Hex {
  template <std::integral T>
  explicit Hex(T number) : value(static_cast<std::make_unsigned_t<T>>(number)) {}
  uint64_t value;
};

namespace internal {

// Appends `value` in `base` 10 or 16, with at least `digits` digits.
inline void AppendNumber(std::string& out, uint64_t value, unsigned base, int digits = 1) {
  char text[24];
  int at = 24;
  for (; value != 0 || 24 - at < digits; value /= base)
    text[--at] = "0123456789abcdef"[value % base];
  out.append(text + at, static_cast<size_t>(24 - at));
}

inline void Append(std::string& out, std::string_view text) { out.append(text); }
inline void Append(std::string& out, Hex hex) { AppendNumber(out, hex.value, 16); }
template <std::integral T>
void Append(std::string& out, T value) {
  const bool negative = value < T{0};
  if (negative) out.push_back('-');
  const auto wide = static_cast<uint64_t>(value);
  AppendNumber(out, negative ? 0 - wide : wide, 10);
}

}  // namespace internal

template <typename... Args>
void StrAppend(std::string* out, const Args&... args) {
  (internal::Append(*out, args), ...);
}

template <typename... Args>
std::string StrCat(const Args&... args) {
  std::string out;
  (internal::Append(out, args), ...);
  return out;
}

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_CAT_H_
