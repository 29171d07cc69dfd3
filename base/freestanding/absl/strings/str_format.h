// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding". It knows the
// conversions that this library uses: d, u, x, s, c, p and %, with '#', '0', '-' and a width.

#ifndef TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_FORMAT_H_
#define TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace absl {
inline namespace tdp_stand_in {
namespace internal {

// One argument, whatever its type.
struct FormatArg {
  bool is_text = false;
  bool is_negative = false;
  uint64_t number = 0;  // its size where it is negative; a pointer's address
  uint64_t bits = 0;    // of a number, in its own width
  std::string_view text;
};

template <typename T>
FormatArg MakeFormatArg(const T& value) {
  FormatArg arg;
  if constexpr (std::is_integral_v<T>) {
    arg.is_negative = value < T{0};
    arg.number = static_cast<uint64_t>(value);
    if (arg.is_negative) arg.number = 0 - arg.number;
    using Bits = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
    arg.bits = static_cast<std::make_unsigned_t<Bits>>(value);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    arg.is_text = true;
    arg.text = value;
  } else {
    static_assert(std::is_pointer_v<T>, "no conversion for this type");
    arg.number = arg.bits = reinterpret_cast<uint64_t>(value);
  }
  return arg;
}

// Appends `format` with its conversions replaced; one without an argument stands for itself.
inline void Format(std::string& out, std::string_view format, const FormatArg* args, size_t count) {
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out.push_back(format[i]);
      continue;
    }
    bool prefix = false, zeros = false, left = false;
    size_t width = 0;
    char kind = 0;
    while (kind == 0 && ++i < format.size()) {
      const char c = format[i];
      if (c == '#')
        prefix = true;
      else if (c == '-')
        left = true;
      else if (c == '0' && width == 0)
        zeros = true;
      else if (c >= '0' && c <= '9')
        width = 10 * width + static_cast<size_t>(c - '0');
      else if (c != 'l' && c != 'z' && c != 'h')
        kind = c;
    }
    if (kind == '%' || kind == 0 || count == 0) {
      out.push_back(kind == 0 ? '%' : kind);
      continue;
    }
    const FormatArg& arg = *args++;
    --count;
    std::string piece;
    if (arg.is_text) {
      piece = arg.text;
    } else if (kind == 'c') {
      piece.push_back(static_cast<char>(arg.number));
    } else if (kind == 'x' || kind == 'p') {
      if (kind == 'p' || (prefix && arg.bits != 0)) out += "0x";
      AppendNumber(piece, arg.bits, 16, zeros ? static_cast<int>(width < 20 ? width : 20) : 1);
    } else {
      if (arg.is_negative) piece = "-";
      AppendNumber(piece, arg.number, 10, zeros ? static_cast<int>(width < 20 ? width : 20) : 1);
    }
    const size_t blanks = piece.size() < width ? width - piece.size() : 0;
    if (!left) out.append(blanks, ' ');
    out += piece;
    if (left) out.append(blanks, ' ');
  }
}

}  // namespace internal

template <typename...>
using FormatSpec = std::string_view;  // nothing is checked before it is used

template <typename... Args>
std::string StrFormat(std::string_view format, const Args&... args) {
  const internal::FormatArg list[] = {internal::MakeFormatArg(args)..., {}};
  std::string out;
  internal::Format(out, format, list, sizeof...(args));
  return out;
}

template <typename... Args>
void StrAppendFormat(std::string* out, std::string_view format, const Args&... args) {
  const internal::FormatArg list[] = {internal::MakeFormatArg(args)..., {}};
  internal::Format(*out, format, list, sizeof...(args));
}

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_STRINGS_STR_FORMAT_H_
