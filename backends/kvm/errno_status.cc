// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/kvm/errno_status.h"

#include <cerrno>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp {
namespace {

struct KnownErrno {
  int error;
  const char* name;
  absl::StatusCode code;
};

constexpr KnownErrno kKnown[] = {
    {EINVAL, "EINVAL", absl::StatusCode::kInvalidArgument},
    {EEXIST, "EEXIST", absl::StatusCode::kAlreadyExists},
    {ENOENT, "ENOENT", absl::StatusCode::kNotFound},
    {ENOMEM, "ENOMEM", absl::StatusCode::kResourceExhausted},
    {ENXIO, "ENXIO", absl::StatusCode::kFailedPrecondition},
    {E2BIG, "E2BIG", absl::StatusCode::kOutOfRange},
    {EPERM, "EPERM", absl::StatusCode::kPermissionDenied},
    {EACCES, "EACCES", absl::StatusCode::kPermissionDenied},
    {EINTR, "EINTR", absl::StatusCode::kUnavailable},
    {EAGAIN, "EAGAIN", absl::StatusCode::kUnavailable},
    {EBUSY, "EBUSY", absl::StatusCode::kUnavailable},
    {ENODEV, "ENODEV", absl::StatusCode::kUnavailable},
    {EFAULT, "EFAULT", absl::StatusCode::kInternal},
    {EIO, "EIO", absl::StatusCode::kInternal},
};

const KnownErrno* Find(int error) {
  for (const KnownErrno& known : kKnown) {
    if (known.error == error) return &known;
  }
  return nullptr;
}

}  // namespace

std::string ErrnoName(int error) {
  const KnownErrno* const known = Find(error);
  return known == nullptr ? absl::StrCat("errno ", error) : known->name;
}

absl::Status ErrnoStatus(int error, std::string_view what) {
  const KnownErrno* const known = Find(error);
  const absl::StatusCode code = known == nullptr ? absl::StatusCode::kInternal : known->code;
  return absl::Status(code, absl::StrFormat("%s: %s", ErrnoName(error), what));
}

}  // namespace tdp
