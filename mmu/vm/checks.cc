// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm/checks.h"

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/option_pairs.h"

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

absl::Status CheckAttributes(const Engine& engine, Gpa gpa, ByteCount size, uint64_t attributes) {
  if (!engine.options().private_memory) {
    return absl::FailedPreconditionError("VmOptions.private_memory is off");
  }
  if ((attributes & ~kMemoryAttributePrivate) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("attributes 0x%x: only private (8) is known", attributes));
  }
  const bool aligned = gpa.is_page_aligned() && size % kPageSize == 0;
  if (!aligned || size == 0 || gpa >= engine.guest_end() || size > engine.guest_end() - gpa) {
    return absl::InvalidArgumentError(
        absl::StrFormat("gpa 0x%x, size 0x%x: must be whole pages, not none, below 0x%x", gpa.raw(),
                        size, engine.guest_end().raw()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Access> CheckRights(Engine& engine, Access rights) {
  const Capabilities& offered = engine.backend().capabilities();
  if (rights.can_write() && !rights.can_read()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rights %s: no page can be written and not read", ToString(rights)));
  }
  if (!UsesExecuteByMode(engine.options(), offered)) {
    if (rights.can_user_execute() && !rights.can_execute()) {
      return absl::FailedPreconditionError(
          absl::StrFormat("rights %s: VmOptions.execute_by_mode is off", ToString(rights)));
    }
    if (rights.can_execute()) rights = rights | Access::UserExecute();
  }
  if (!rights.can_read() && !rights.is_empty() && !offered.ept.execute_only()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "rights %s: the backend does not offer execute-only pages", ToString(rights)));
  }
  return rights;
}

absl::StatusOr<MemoryRegion> WithRights(Engine& engine, const MemoryRegion& asked) {
  MemoryRegion region = asked;
  if ((region.flags & kSlotHostFrames) == 0 || region.size == 0) return region;
  TDP_ASSIGN_OR_RETURN(region.rights, CheckRights(engine, region.rights));
  if (region.rights != Access::All()) {
    TDP_RETURN_IF_ERROR(CheckCall(engine.options(), Feature::kSlotRights));
  }
  return region;
}

}  // namespace tdp
