// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/paging_kind.h"

namespace tdp {

PagingKind PagingKindOf(const VmOptions& options) {
  if (options.paging == Paging::kShadow) return PagingKind::kShadow;
  if (options.nested) return PagingKind::kNested;
  return options.reverse_map ? PagingKind::kReverseMapped : PagingKind::kDirect;
}

}  // namespace tdp
