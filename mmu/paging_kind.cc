// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/paging_kind.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tdp {

PagingKind PagingKindOf(const VmOptions& options) {
  if (options.paging == Paging::kShadow) return PagingKind::kShadow;
  if (options.nested) return PagingKind::kNested;
  return options.reverse_map ? PagingKind::kReverseMapped : PagingKind::kDirect;
}

absl::Status CheckKindIsBuilt(const VmOptions& options) {
  if (kHasShadow) return absl::OkStatus();
  const auto lacks = [](const char* option) {
    return absl::UnimplementedError(
        absl::StrCat("VmOptions.", option, ": this build has direct tables alone (TDP_NO_SHADOW)"));
  };
  switch (PagingKindOf(options)) {
    case PagingKind::kDirect:
      return absl::OkStatus();
    case PagingKind::kReverseMapped:
      return lacks("reverse_map is true");
    case PagingKind::kNested:
      return lacks("nested is true");
    case PagingKind::kShadow:
      return lacks("paging is kShadow");
  }
  return absl::OkStatus();
}

}  // namespace tdp
