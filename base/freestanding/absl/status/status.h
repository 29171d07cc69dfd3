// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/building.md, "Without Abseil".

#ifndef TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_
#define TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_

#include <string>
#include <string_view>
#include <utility>

namespace absl {
inline namespace tdp_stand_in {

// With Abseil's numbers.
enum class StatusCode : int {
  kOk = 0,
  kUnknown = 2,
  kInvalidArgument = 3,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string_view message)
      : code_(code), message_(code == StatusCode::kOk ? std::string_view() : message) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  std::string_view message() const { return message_; }
  void IgnoreError() const {}
  std::string ToString() const { return ok() ? "OK" : message_; }

  friend bool operator==(const Status&, const Status&) = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }

#define TDP_STAND_IN_ERROR(Name)                        \
  inline Status Name##Error(std::string_view message) { \
    return Status(StatusCode::k##Name, message);        \
  }                                                     \
  inline bool Is##Name(const Status& status) { return status.code() == StatusCode::k##Name; }
TDP_STAND_IN_ERROR(Unknown)
TDP_STAND_IN_ERROR(InvalidArgument)
TDP_STAND_IN_ERROR(NotFound)
TDP_STAND_IN_ERROR(AlreadyExists)
TDP_STAND_IN_ERROR(PermissionDenied)
TDP_STAND_IN_ERROR(ResourceExhausted)
TDP_STAND_IN_ERROR(FailedPrecondition)
TDP_STAND_IN_ERROR(Aborted)
TDP_STAND_IN_ERROR(OutOfRange)
TDP_STAND_IN_ERROR(Unimplemented)
TDP_STAND_IN_ERROR(Internal)
TDP_STAND_IN_ERROR(Unavailable)
#undef TDP_STAND_IN_ERROR

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_
