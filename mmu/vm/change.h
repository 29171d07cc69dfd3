// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One change of a batch (`Vm::Apply`).

#ifndef TDP_MMU_VM_CHANGE_H_
#define TDP_MMU_VM_CHANGE_H_

#include <cstdint>
#include <optional>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/guest_memory_types.h"

namespace tdp {

// Says what one call of `Vm` would do by itself. The function of that call's name makes it, with
// its arguments.
class Change {
 public:
  enum class Kind : uint8_t {
    kRegion,
    kViewRights,
    kViewMemoryType,
    kViewFrames,
    kAttributes,
    kZap,
  };

  // Stands for `Vm::SetMemoryRegion`.
  static Change Region(const MemoryRegion& region) {
    Change change(Kind::kRegion, region.address_space);
    change.region_ = region;
    return change;
  }
  // Stands for `Vm::SetViewRights`.
  static Change ViewRights(ViewId view, Gfn first, PageCount count, Access rights,
                           AddressSpaceId space = 0) {
    Change change(Kind::kViewRights, space, first, count);
    change.view_ = view;
    change.rights_ = rights;
    return change;
  }
  // Stands for `Vm::SetViewMemoryType`.
  static Change MemoryType(ViewId view, Gfn first, PageCount count,
                           std::optional<ViewMemoryType> type, AddressSpaceId space = 0) {
    Change change(Kind::kViewMemoryType, space, first, count);
    change.view_ = view;
    change.type_ = type;
    return change;
  }
  // Stands for `Vm::SetViewFrames`.
  static Change ViewFrames(ViewId view, Gfn first, PageCount count, std::optional<Hfn> frames,
                           AddressSpaceId space = 0) {
    Change change(Kind::kViewFrames, space, first, count);
    change.view_ = view;
    change.frames_ = frames;
    return change;
  }
  // Stands for `Vm::SetMemoryAttributes`.
  static Change Attributes(Gpa gpa, ByteCount size, uint64_t attributes) {
    Change change(Kind::kAttributes, 0);
    change.gpa_ = gpa;
    change.size_ = size;
    change.attributes_ = attributes;
    return change;
  }
  // Stands for `Vm::ZapRange`.
  static Change Zap(Gfn first, PageCount count, AddressSpaceId space = 0) {
    return Change(Kind::kZap, space, first, count);
  }

  Kind kind() const { return kind_; }
  AddressSpaceId address_space() const { return space_; }
  // The following return arguments as they were given, those that the kind has.
  const MemoryRegion& region() const { return region_; }
  ViewId view() const { return view_; }
  Gfn first() const { return first_; }
  PageCount count() const { return count_; }
  Access rights() const { return rights_; }
  std::optional<ViewMemoryType> memory_type() const { return type_; }
  std::optional<Hfn> frames() const { return frames_; }
  Gpa gpa() const { return gpa_; }
  ByteCount size() const { return size_; }
  uint64_t attributes() const { return attributes_; }

 private:
  Change(Kind kind, AddressSpaceId space, Gfn first = {}, PageCount count = {})
      : kind_(kind), space_(space), first_(first), count_(count) {}

  Kind kind_;
  AddressSpaceId space_;
  ViewId view_ = kBaseView;
  Gfn first_;
  PageCount count_;
  Access rights_;
  std::optional<ViewMemoryType> type_;
  std::optional<Hfn> frames_;
  Gpa gpa_;
  ByteCount size_ = 0;
  uint64_t attributes_ = 0;
  MemoryRegion region_;
};

}  // namespace tdp

#endif  // TDP_MMU_VM_CHANGE_H_
