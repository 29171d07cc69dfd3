// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Early return on an `absl::Status` that is not OK.

#ifndef TDP_BASE_STATUS_MACROS_H_
#define TDP_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function if `expression` is not OK.
#define TDP_RETURN_IF_ERROR(expression)      \
  do {                                       \
    absl::Status tdp_status = (expression);  \
    if (!tdp_status.ok()) return tdp_status; \
  } while (false)

// `TDP_ASSIGN_OR_RETURN(auto x, F())`: x is F()'s value, or the enclosing function returns its
// status.
#define TDP_ASSIGN_OR_RETURN(declaration, expression) \
  TDP_ASSIGN_OR_RETURN_IMPL_(TDP_STATUS_CONCAT_(tdp_status_or_, __LINE__), declaration, expression)
#define TDP_ASSIGN_OR_RETURN_IMPL_(result, declaration, expression) \
  auto result = (expression);                                       \
  if (!result.ok()) return result.status();                         \
  declaration = *std::move(result)
#define TDP_STATUS_CONCAT_(a, b) TDP_STATUS_CONCAT_INNER_(a, b)
#define TDP_STATUS_CONCAT_INNER_(a, b) a##b

#endif  // TDP_BASE_STATUS_MACROS_H_
