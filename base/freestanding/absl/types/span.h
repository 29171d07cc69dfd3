// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_TYPES_SPAN_H_
#define TDP_BASE_FREESTANDING_ABSL_TYPES_SPAN_H_

#include <cstddef>
#include <initializer_list>
#include <span>
#include <type_traits>

namespace absl {
inline namespace tdp_stand_in {

// std::span, which a list in braces converts to as well. Such a list lives to the end of the
// expression.
template <typename T>
class Span : public std::span<T> {
 public:
  using std::span<T>::span;
  constexpr Span(std::span<T> other) : std::span<T>(other) {}
  template <typename U = T>
  requires std::is_const_v<U>
  constexpr Span(std::initializer_list<std::remove_const_t<U>> list)
      : std::span<T>(list.begin(), list.size()) {}

  static constexpr size_t npos = ~size_t{0};
  constexpr Span subspan(size_t first, size_t count = npos) const {
    const size_t rest = this->size() - first;
    return std::span<T>::subspan(first, count < rest ? count : rest);
  }
  constexpr void remove_prefix(size_t count) { *this = subspan(count); }
};

template <typename Container>
constexpr auto MakeSpan(Container& container) {
  using T = std::remove_pointer_t<decltype(container.data())>;
  return Span<T>(container.data(), container.size());
}
template <typename T>
constexpr Span<T> MakeSpan(T* data, size_t size) {
  return Span<T>(data, size);
}
template <typename Container>
constexpr auto MakeConstSpan(const Container& container) {
  using T = const std::remove_pointer_t<decltype(container.data())>;
  return Span<T>(container.data(), container.size());
}
template <typename T>
constexpr Span<const T> MakeConstSpan(const T* data, size_t size) {
  return Span<const T>(data, size);
}

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_TYPES_SPAN_H_
