// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm/checks.h"

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {

absl::Status CheckSpace(const Engine& engine, AddressSpaceId space) {
  if (space < engine.address_spaces()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("address space %u: the VM has %u", space, engine.address_spaces()));
}

absl::StatusOr<FrameRange> CheckFrames(Engine& engine, Gfn first, PageCount count,
                                       AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(engine, space));
  return FramesOf(engine, first, count, space);
}

absl::Status CheckHostRange(Hva start, ByteCount size) {
  if (IsHostRange(start, size)) return absl::OkStatus();
  if (!start.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("start 0x%x is not page aligned", start.raw()));
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "size 0x%x from start 0x%x: must be whole pages, not none, and not wrap", size, start.raw()));
}

absl::StatusOr<View*> FindView(Engine& engine, ViewId id, AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(engine, space));
  View* view = engine.views(space).Find(id);
  if (view != nullptr && view->is_open()) return view;
  return absl::NotFoundError(
      absl::StrFormat("view %u: address space %u has no such view", id, space));
}

}  // namespace tdp
