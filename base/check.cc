// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/base/check.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tdp::internal {

void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what.c_str());
  std::abort();
}

}  // namespace tdp::internal
