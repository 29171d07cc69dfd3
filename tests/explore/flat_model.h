// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The model knows what guests may reach while operations are under way. It is a flat account of
// slots, host pages, attributes and rights, in which what an operation takes away counts until the
// operation has returned, and what it brings from its beginning. It also has the dirty pages that
// no log has shown yet.

#ifndef TDP_TESTS_EXPLORE_FLAT_MODEL_H_
#define TDP_TESTS_EXPLORE_FLAT_MODEL_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/format/memory_type.h"
#include "tests/explore/explored_host.h"

namespace tdp::explore {

// Returns the number by which the model knows slot `slot` of an address space, as KVM's calls do.
constexpr uint32_t SlotIn(AddressSpaceId space, uint32_t slot) {
  return static_cast<uint32_t>(space) << 16 | slot;
}

// Describes a slot as it is, was, or is about to be.
struct SlotVersion {
  uint32_t id = 0;  // of every address space one more: `SlotIn`
  AddressSpaceId space = 0;
  Gfn base;
  uint64_t pages = 0;
  uint64_t pages_behind = 0;         // of the slot, too: nobody comes there
  HostPageNumber first = 0;          // of its memory
  HostPageNumber first_private = 0;  // of its private memory, where `has_private`
  bool has_private = false;
  bool writable = true;
  bool logs = false;
  bool names_frames = false;  // of its memory, as they were when it was made
  bool established = true;    // the operation that brought it has returned

  bool Holds(AddressSpaceId of, Gfn gfn) const {
    return space == of && gfn >= base && gfn < base + PageCount(pages);
  }
  uint64_t IndexOf(Gfn gfn) const { return (gfn - base).raw(); }
};

// Describes an access, or a translation that would let it through.
struct Reach {
  AddressSpaceId space = 0;
  ViewId view = kBaseView;
  Gfn gfn;
  Hfn frame;
  Access rights;  // what it does
  MemoryType type = MemoryType::kWriteBack;
  uint64_t since = 0;  // the CPU has nothing that the guest's own tables said before this only
};

class FlatModel {
 public:
  explicit FlatModel(const ExploredHost& host) : host_(host) {}

  // --- Slots. `Begin…` before the operation, `End…` after it, with what `Begin…` gave.
  // Makes a version possible; all others of its id stay so until `SettleSlot`.
  void OfferSlot(const SlotVersion& version);
  // Leaves of the versions of this id `version` alone, or none.
  void SettleSlot(uint32_t id, const SlotVersion* version);
  const SlotVersion* FindSlot(uint32_t id) const;
  // Excuses the loss of the slot's next dirty page: it is about to be deleted or to stop logging.
  void ForgetDirty(uint32_t id);
  // Returns whether no slot has changed since, nor is changing now.
  bool HaveSlotsStoodSince(uint64_t since) const {
    return slots_changed_at_ < since && !AreSlotsChanging();
  }
  // Calls `visit(slot)` for every version that may be there at that frame.
  template <typename Visit>
  void ForEachSlotAt(AddressSpaceId space, Gfn gfn, Visit visit) const {
    for (const SlotVersion& slot : slots_) {
      if (slot.Holds(space, gfn)) visit(slot);
    }
  }
  // Returns whether anything lets a guest write that host page.
  bool MayBeWritten(HostPageNumber page) const;
  // Says that a slot is being deleted, and its log shown: a device's mark beside that may come too
  // late.
  void SetDeleting(bool deleting) { deleting_ = deleting; }

  // --- The view with rules of every kind. Host pages that it shows at frames [kFirstShown,
  // kFirstShown + kShownFrames), from a first on, or those of the slots
  static constexpr ViewId kRuled = 1;
  static constexpr uint64_t kFirstShown = 1;
  static constexpr uint64_t kShownFrames = 3;
  void OfferShown(std::optional<HostPageNumber> first) {
    shown_changed_at_ = ++clock_;
    shown_.push_back(first);
  }
  void SettleShown(std::optional<HostPageNumber> first) {
    shown_changed_at_ = ++clock_;
    shown_ = {first};
  }
  // Return whether at some moment since the view may have shown other pages than the slots, or the
  // slots' own.
  bool MayHaveShown(uint64_t since) const;
  bool MayHaveHidden(uint64_t since) const;

  // --- What the guest's own tables say of the linear (or L2's) frame `kRemapped`; of every other
  // they say the frame of that number
  static constexpr Gfn kRemapped{600};
  // Says that a vCPU is about to write the entry; `SettleMapping`, that it has, or could not.
  void OfferMapping(Gfn to, bool writable);
  void SettleMapping(bool done);
  // Forgets what the tables said only before `time`: no CPU has anything of it any more.
  void ForgetMappingsBefore(uint64_t time) { mapping_floor_ = std::max(mapping_floor_, time); }
  // Returns whether the tables may have said that frame at some moment since.
  bool MayHaveMapped(Gfn to, uint64_t since) const;

  // --- Rights that views give frames [0, kViewFrames), and attributes of
  // [kFirstPrivate, kFirstPrivate + kPrivateFrames)
  static constexpr size_t kViews = 8;  // the base one of them, which denies nothing
  static constexpr uint64_t kViewFrames = 8;
  static constexpr uint64_t kFirstPrivate = 4;
  static constexpr uint64_t kPrivateFrames = 4;
  void OfferViewRights(ViewId view, Access rights) {
    if (view_rights_[view].empty()) view_rights_[view].push_back(Access::All());
    view_rights_[view].push_back(rights);
  }
  void SettleViewRights(ViewId view, Access rights) { view_rights_[view] = {rights}; }
  void OfferPrivate(bool is_private) { private_.push_back(is_private); }
  void SettlePrivate(bool is_private) { private_ = {is_private}; }
  void OfferType(MemoryType type) { types_.push_back(type); }
  void SettleType(MemoryType type) { types_ = {type}; }

  // Returns why nobody may do this now; empty if somebody may.
  std::string Forbids(const Reach& reach) const;

  // --- Dirty pages
  // Notes that a guest in that address space has written `frame`, at this moment.
  void Wrote(AddressSpaceId space, Hfn frame) { WrotePage(space, host_.OwnerOf(frame)); }
  // Begins a device's write, of which the device tells; `EndDeviceWrite` comes after that, with
  // what this returned.
  uint64_t BeginDeviceWrite() { return ++clock_; }
  void EndDeviceWrite(HostPageNumber page, uint64_t begun, AddressSpaceId space = 0);
  // Begins a take and returns its mark.
  uint64_t BeginTake() { return ++clock_; }
  // Notes that the page is shown, and will be read; or is read at once.
  void Showed(HostPageNumber page, AddressSpaceId space = 0) {
    PageOf(space, page).shown_at = ++clock_;
  }
  void Took(uint32_t slot, uint64_t index);
  // Returns what a take that began at `mark` should have shown; empty if it has.
  std::string MissedBy(uint64_t mark, uint32_t slot) const;
  // Notes that the page is read now, so nobody has to show it any more.
  void ReadPage(HostPageNumber page, AddressSpaceId space = 0) {
    PageOf(space, page).dirty_since = 0;
  }
  // Returns a page that was written and that no take has shown; `ExploredHost::kPages` for none.
  HostPageNumber FirstDirty() const;

  uint64_t Now() { return ++clock_; }

 private:
  // Keeps what the logs of an address space have to say of a host page.
  struct Page {
    uint64_t dirty_since = 0;  // 0: clean
    uint64_t shown_at = 0;     // the last time
  };

  Page& PageOf(AddressSpaceId space, HostPageNumber page) { return pages_[space][page]; }
  const Page& PageOf(AddressSpaceId space, HostPageNumber page) const {
    return pages_[space][page];
  }
  // Returns whether a slot of the address space logs the page by now.
  bool Logs(AddressSpaceId space, HostPageNumber page) const;
  void WrotePage(AddressSpaceId space, HostPageNumber page);
  bool MayShow(Gfn gfn, HostPageNumber page, bool of_slot) const;
  bool AreSlotsChanging() const;
  std::string ForbidsFrame(const Reach& reach) const;

  struct Mapping {
    Gfn to;
    bool writable;
    uint64_t until;  // `kStill` while the entry may say so
  };
  static constexpr uint64_t kStill = ~uint64_t{0};

  const ExploredHost& host_;
  uint64_t clock_ = 0;
  bool deleting_ = false;
  std::vector<SlotVersion> slots_;
  std::array<std::vector<Access>, kViews> view_rights_;  // none: all of them
  std::vector<bool> private_ = {false};
  std::vector<std::optional<HostPageNumber>> shown_ = {std::nullopt};
  std::vector<MemoryType> types_ = {MemoryType::kWriteBack};
  std::array<std::array<Page, ExploredHost::kPages>, 2> pages_{};
  uint64_t slots_changed_at_ = 0;
  uint64_t shown_changed_at_ = 0;
  std::vector<uint32_t> leaving_;  // slots that are about to be deleted or to stop logging
  std::vector<Mapping> mappings_ = {{kRemapped, true, kStill}};
  uint64_t mapping_floor_ = 0;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_FLAT_MODEL_H_
