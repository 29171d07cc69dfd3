// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_FUNCTIONAL_FUNCTION_REF_H_
#define TDP_BASE_FREESTANDING_ABSL_FUNCTIONAL_FUNCTION_REF_H_

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

namespace absl {
inline namespace tdp_stand_in {

template <typename Signature>
class FunctionRef;

// A callable of somebody else's, which must outlive this.
template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <typename Callable>
  requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef> &&
           std::is_invocable_r_v<Result, const Callable&, Args...>)
      FunctionRef(const Callable& callable)
      : object_(std::addressof(callable)), call_([](const void* object, Args... args) -> Result {
          return std::invoke(*static_cast<const Callable*>(object), std::forward<Args>(args)...);
        }) {}

  Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  const void* object_;
  Result (*call_)(const void* object, Args... args);
};

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_FUNCTIONAL_FUNCTION_REF_H_
