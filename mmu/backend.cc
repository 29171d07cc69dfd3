// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/backend.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace tdp {
namespace {

// Returns how many pages there are from `page` to the end of the piece of host memory around it.
// Its frames are aligned; the addresses at which the host has it need not be.
PageCount PagesFrom(const HostPage& page) {
  return page.piece() - (page.hfn - page.hfn.AlignDown(page.piece()));
}

bool Continues(const HostRun& run, const HostPage& page) {
  return page.hfn == run.page.hfn + run.pages && page.order == run.page.order &&
         page.writable == run.page.writable && page.memory_type == run.page.memory_type;
}

}  // namespace

absl::StatusOr<size_t> internal::ResolveByPage(Backend& backend, Hva hva, PageCount pages,
                                               Access access, absl::Span<HostRun> runs) {
  size_t filled = 0;
  for (PageCount done; done < pages;) {
    const Hva at = hva + done.bytes();
    const absl::StatusOr<HostPage> page = backend.Resolve(at, access);
    if (!page.ok()) {
      if (filled == 0) return page.status();
      break;
    }
    const PageCount here = std::min(PagesFrom(*page), pages - done);
    if (filled > 0 && Continues(runs[filled - 1], *page)) {
      runs[filled - 1].pages += here;
    } else if (filled < runs.size()) {
      runs[filled++] = {*page, here};
    } else {
      break;
    }
    done += here;
  }
  return filled;
}

}  // namespace tdp
