// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/base/check.h"

#include <string>

#include "absl/strings/str_cat.h"

#ifdef TDP_FREESTANDING
#include "tdp/base/platform.h"
#else
#include <cstdio>
#include <cstdlib>
#endif

namespace tdp::internal {

void CheckFailed(const char* file, int line, const char* what) {
  const std::string text = absl::StrCat(file, ":", line, ": check failed: ", what);
#ifdef TDP_FREESTANDING
  tdp_platform_panic(text.c_str());
#else
  std::fprintf(stderr, "%s\n", text.c_str());
  std::abort();
#endif
}

void CheckFailed(const char* file, int line, const std::string& what) {
  CheckFailed(file, line, what.c_str());
}

}  // namespace tdp::internal
