// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/flat_model.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"

namespace tdp::explore {

void FlatModel::OfferSlot(const SlotVersion& version) {
  slots_changed_at_ = ++clock_;
  slots_.push_back(version);
  slots_.back().established = false;
}

void FlatModel::SettleSlot(uint32_t id, const SlotVersion* version) {
  slots_changed_at_ = ++clock_;
  std::erase_if(slots_, [id](const SlotVersion& slot) { return slot.id == id; });
  std::erase(leaving_, id);
  if (version != nullptr) {
    slots_.push_back(*version);
    slots_.back().established = true;
  }
}

const SlotVersion* FlatModel::FindSlot(uint32_t id) const {
  for (const SlotVersion& slot : slots_) {
    if (slot.id == id && slot.established) return &slot;
  }
  return nullptr;
}

bool FlatModel::AreSlotsChanging() const {
  return deleting_ || !leaving_.empty() ||
         std::any_of(slots_.begin(), slots_.end(),
                     [](const SlotVersion& slot) { return !slot.established; });
}

bool FlatModel::MayBeWritten(HostPageNumber page) const {
  const bool by_slot = std::any_of(slots_.begin(), slots_.end(), [page](const SlotVersion& slot) {
    return slot.writable && page >= slot.first && page < slot.first + slot.pages;
  });
  return by_slot || std::any_of(shown_.begin(), shown_.end(), [page](const auto& first) {
           return first && page >= *first && page < *first + kShownFrames;
         });
}

bool FlatModel::MayHaveShown(uint64_t since) const {
  return shown_changed_at_ >= since || shown_.size() > 1 || shown_.front().has_value();
}

bool FlatModel::MayHaveHidden(uint64_t since) const {
  return shown_changed_at_ >= since || shown_.size() > 1 || !shown_.front().has_value();
}

void FlatModel::OfferMapping(Gfn to, bool writable) {
  ++clock_;
  mappings_.push_back({to, writable, kStill});
}

void FlatModel::SettleMapping(bool done) {
  if (!done) return mappings_.pop_back();
  ++clock_;
  for (size_t i = 0; i + 1 < mappings_.size(); ++i) {
    mappings_[i].until = std::min(mappings_[i].until, clock_);
  }
}

bool FlatModel::MayHaveMapped(Gfn to, uint64_t since) const {
  return std::any_of(mappings_.begin(), mappings_.end(), [=](const Mapping& mapping) {
    return mapping.to == to && mapping.until >= since;
  });
}

void FlatModel::ForgetDirty(uint32_t id) {
  slots_changed_at_ = ++clock_;
  leaving_.push_back(id);
  for (SlotVersion& slot : slots_) {
    if (slot.id != id) continue;
    slot.logs = false;
    for (HostPageNumber i = 0; i < slot.pages; ++i) {
      ReadPage(slot.first + i, slot.space);
      if (slot.has_private) ReadPage(slot.first_private + i, slot.space);
    }
  }
}

// Returns whether the view may have the page there, if the slot has it there or not.
bool FlatModel::MayShow(Gfn gfn, HostPageNumber page, bool of_slot) const {
  const uint64_t index = gfn.raw() - kFirstShown;
  if (gfn < Gfn(kFirstShown) || index >= kShownFrames) return of_slot;
  return std::any_of(shown_.begin(), shown_.end(), [&](std::optional<HostPageNumber> first) {
    return first ? *first + index == page : of_slot;
  });
}

std::string FlatModel::Forbids(const Reach& reach) const {
  if (reach.gfn != kRemapped) return ForbidsFrame(reach);
  std::string why = "what the guest's tables say no more";
  for (const Mapping& mapping : mappings_) {
    if (mapping.until < std::max(reach.since, mapping_floor_)) continue;
    if (reach.rights.can_write() && !mapping.writable) continue;
    Reach mapped = reach;
    mapped.gfn = mapping.to;
    why = ForbidsFrame(mapped);
    if (why.empty()) return why;
  }
  return why;
}

std::string FlatModel::ForbidsFrame(const Reach& reach) const {
  const HostPageNumber page = host_.OwnerOf(reach.frame);
  const std::string what = absl::StrFormat("gfn %#x as hfn %#x (%s)", reach.gfn.raw(),
                                           reach.frame.raw(), ToString(reach.rights));
  if (page == ExploredHost::kPages) return what + ": no memory of any slot";
  if (host_.IsRevoked(reach.frame)) return what + ": the host has taken this page back";
  bool found = false;
  bool writable = false;
  const bool in_private_range =
      reach.gfn.raw() >= kFirstPrivate && reach.gfn.raw() < kFirstPrivate + kPrivateFrames;
  for (const SlotVersion& slot : slots_) {
    if (!slot.Holds(reach.space, reach.gfn)) continue;
    const uint64_t index = slot.IndexOf(reach.gfn);
    bool here = false;
    if (!in_private_range) {
      here = slot.first + index == page;
    } else {
      for (const bool is_private : private_) {
        here |= (is_private ? slot.first_private : slot.first) + index == page;
      }
    }
    if (reach.view == kRuled) here = MayShow(reach.gfn, page, here);
    found |= here;
    writable |= here && slot.writable;
  }
  if (!found) return what + ": no slot has this page there";
  if (reach.rights.can_write() && !writable) return what + ": the slot is read-only";
  if (reach.gfn.raw() < kViewFrames) {
    const std::vector<Access>& possible = view_rights_[reach.view];
    const bool allowed =
        possible.empty() || std::any_of(possible.begin(), possible.end(),
                                        [&](Access rights) { return rights.Covers(reach.rights); });
    if (!allowed) return what + ": the view denies it";
  }
  if (std::find(types_.begin(), types_.end(), reach.type) == types_.end()) {
    return what + ": of a memory type that is no more";
  }
  return "";
}

bool FlatModel::Logs(AddressSpaceId space, HostPageNumber page) const {
  return std::any_of(slots_.begin(), slots_.end(), [=](const SlotVersion& slot) {
    return slot.space == space && slot.logs && slot.established &&
           ((page >= slot.first && page < slot.first + slot.pages) ||
            (slot.has_private && page >= slot.first_private &&
             page < slot.first_private + slot.pages));
  });
}

// A take beside it may have shown the page already, and a slot that changed meanwhile may not have
// logged, or not have been there.
void FlatModel::EndDeviceWrite(HostPageNumber page, uint64_t begun, AddressSpaceId space) {
  if (PageOf(space, page).shown_at >= begun || !HaveSlotsStoodSince(begun)) return;
  WrotePage(space, page);
}

void FlatModel::WrotePage(AddressSpaceId space, HostPageNumber page) {
  if (page == ExploredHost::kPages || !Logs(space, page)) return;
  uint64_t& since = PageOf(space, page).dirty_since;
  if (since == 0) since = ++clock_;
}

void FlatModel::Took(uint32_t slot, uint64_t index) {
  for (const SlotVersion& version : slots_) {
    if (version.id != slot || index >= version.pages) continue;
    const auto page = static_cast<HostPageNumber>(index);
    Showed(version.first + page, version.space);
    ReadPage(version.first + page, version.space);
    if (version.has_private) ReadPage(version.first_private + page, version.space);
    return;
  }
}

std::string FlatModel::MissedBy(uint64_t mark, uint32_t slot) const {
  for (const SlotVersion& version : slots_) {
    if (version.id != slot || !version.logs || !version.established) continue;
    for (HostPageNumber i = 0; i < version.pages; ++i) {
      const Page& page = PageOf(version.space, version.first + i);
      const uint64_t since = page.dirty_since;
      if (since == 0 || since >= mark || page.shown_at > mark) continue;
      return absl::StrFormat(
          "page %u of slot %u was written before its log was taken, and was not shown", i, slot);
    }
  }
  return "";
}

HostPageNumber FlatModel::FirstDirty() const {
  for (const auto& pages : pages_) {
    const auto dirty = std::find_if(pages.begin(), pages.end(),
                                    [](const Page& page) { return page.dirty_since != 0; });
    if (dirty != pages.end()) return static_cast<HostPageNumber>(dirty - pages.begin());
  }
  return ExploredHost::kPages;
}

}  // namespace tdp::explore
