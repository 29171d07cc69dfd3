// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Turns what the kernel answers into a status.

#ifndef TDP_BACKENDS_KVM_ERRNO_STATUS_H_
#define TDP_BACKENDS_KVM_ERRNO_STATUS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tdp {

// Returns "EINVAL", or "errno 123" for one that KVM does not use.
std::string ErrnoName(int error);

// Returns InvalidArgument for EINVAL, AlreadyExists for EEXIST, NotFound for ENOENT,
// ResourceExhausted for ENOMEM, FailedPrecondition for ENXIO, OutOfRange for E2BIG,
// PermissionDenied for EPERM and EACCES, Unavailable for EINTR, EAGAIN, EBUSY and ENODEV, else
// Internal. The message is "EINVAL: <what>".
absl::Status ErrnoStatus(int error, std::string_view what);

}  // namespace tdp

#endif  // TDP_BACKENDS_KVM_ERRNO_STATUS_H_
