// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/guest_cpu.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::explore {

// Holds an entry as the CPU understands it.
struct GuestCpu::Entry {
  bool present = false;
  bool misconfigured = false;
  bool leaf = false;
  Access rights;
  Hpa address;
  uint64_t accessed = 0;  // the flag's bit, 0 if there is none
  uint64_t dirty = 0;
  MemoryType type = MemoryType::kWriteBack;
};

namespace {

// These are bits of an entry of ordinary paging.
constexpr uint64_t kPresent = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kAccessedFlag = 1 << 5;
constexpr uint64_t kDirtyFlag = 1 << 6;
constexpr uint64_t kPageSizeFlag = 1 << 7;
constexpr uint64_t kNoExecute = uint64_t{1} << 63;

uint64_t PrefixOf(Gfn gfn, int level) { return gfn.raw() >> (9 * level); }

}  // namespace

GuestCpu::Entry GuestCpu::Decode(uint64_t raw, int level, Access above) const {
  Entry entry;
  entry.address = Hpa(raw & ept::kAddressMask);
  entry.leaf = level == 1 || (level <= 3 && (raw & kPageSizeFlag) != 0);
  if (context_.format == TableFormat::kLinear) {
    entry.present = (raw & kPresent) != 0;
    entry.rights = Access::Read();
    if ((raw & kWritable) != 0) entry.rights = entry.rights | Access::Write();
    if ((raw & kNoExecute) == 0) entry.rights = entry.rights | Access::Execute();
    entry.accessed = kAccessedFlag;
    entry.dirty = kDirtyFlag;
  } else {
    entry.present = (raw & ept::kRightsMask) != 0;
    entry.misconfigured =
        (raw & ept::kWrite) != 0 && (raw & ept::kRead) == 0;  // W without R, as of MMIO entries
    entry.rights = Access::FromRaw(static_cast<uint8_t>(raw & ept::kRightsMask));
    if (context_.accessed_dirty) {
      entry.accessed = ept::kAccessed;
      entry.dirty = ept::kDirty;
    }
    if (entry.leaf) {
      entry.type = static_cast<MemoryType>((raw & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift);
    }
  }
  if (entry.leaf)
    entry.address = Hpa(entry.address.raw() & ~((uint64_t{1} << (3 + 9 * level)) - 1));
  entry.rights = entry.rights & above;
  return entry;
}

void GuestCpu::Enter(const CpuContext& context) {
  context_ = context;
  in_guest_ = true;
}

void GuestCpu::FlushRoot(Hpa root) {
  std::erase_if(translations_, [root](const auto& kept) { return kept.context.root == root; });
  std::erase_if(links_, [root](const Link& link) { return link.root == root; });
}

void GuestCpu::FlushAll() {
  translations_.clear();
  links_.clear();
}

void GuestCpu::FlushLinear() {
  std::erase_if(translations_,
                [](const auto& kept) { return kept.context.format == TableFormat::kLinear; });
  if (context_.format == TableFormat::kLinear) links_.clear();
}

Eptp GuestCpu::Listed(ViewId index) const {
  return Eptp(const_cast<volatile uint64_t*>(host_.EntriesAt(context_.eptp_list))[index]);
}

bool GuestCpu::SwitchView(ViewId index) {
  if (host_.fibers().running()) {
    host_.fibers().Reach(Step::kLoad, host_.EntriesAt(context_.eptp_list) + index);
  }
  const Eptp eptp = Listed(index);
  if (eptp.raw() == 0) return false;
  context_.root = eptp.root();
  context_.levels = eptp.levels();
  context_.accessed_dirty = eptp.accessed_dirty();
  context_.view = index;
  return true;
}

template <typename Visit>
void GuestCpu::ForEachInReach(Visit visit) const {
  if (!in_guest_) return;
  const bool switches = context_.eptp_list != Hpa(0);
  for (const Translation& kept : translations_) {
    if (kept.context.root == context_.root) {
      visit(kept, context_.view);
      continue;
    }
    for (ViewId i = 0; switches && i < kListed; ++i) {
      if (Listed(i).raw() != 0 && Listed(i).root() == kept.context.root) visit(kept, i);
    }
  }
}

const GuestCpu::Translation* GuestCpu::Find(Gfn gfn) const {
  for (const Translation& kept : translations_) {
    if (kept.Holds(context_.root, gfn)) return &kept;
  }
  return nullptr;
}

const GuestCpu::Link* GuestCpu::FindLink(Gfn gfn, int level) const {
  for (const Link& link : links_) {
    if (link.root == context_.root && link.level == level && link.prefix == PrefixOf(gfn, level)) {
      return &link;
    }
  }
  return nullptr;
}

CpuEvent GuestCpu::Touch(Gfn gfn, Access kind, bool from_links, GuestStore* store) {
  host_.fibers().Reach();
  if (kicked_) return CpuEvent::kKick;
  if (const Translation* kept = Find(gfn);
      kept != nullptr && kept->rights.Covers(kind) && (!kind.can_write() || kept->dirty)) {
    return Use(*kept, gfn, kind, store);
  }
  return Walk(gfn, kind, from_links, store);
}

CpuEvent GuestCpu::Walk(Gfn gfn, Access kind, bool from_links, GuestStore* store) {
  int level = context_.levels;
  Hpa table = context_.root;
  Access rights = Access::All();
  for (int below = 1; from_links && below < context_.levels; ++below) {
    if (const Link* link = FindLink(gfn, below)) {
      level = below;
      table = link->table;
      rights = link->rights;
      break;
    }
  }
  for (;;) {
    uint64_t* const place = host_.EntriesAt(table) + (gfn.raw() >> (9 * (level - 1)) & 511);
    if (host_.fibers().running()) host_.fibers().Reach(Step::kLoad, place);
    const uint64_t raw = *const_cast<volatile uint64_t*>(place);
    const Entry entry = Decode(raw, level, rights);
    found_ = rights = entry.rights;
    if (!entry.present) {
      found_ = Access::None();
      return CpuEvent::kViolation;
    }
    if (entry.misconfigured) return CpuEvent::kMisconfiguration;
    if (!entry.leaf) {
      if (!SetFlags(place, raw, entry.accessed)) continue;
      --level;
      table = entry.address;
      if (FindLink(gfn, level) == nullptr) {
        links_.push_back({context_.root, level, PrefixOf(gfn, level), table, rights});
      }
      continue;
    }
    if (!rights.Covers(kind)) return CpuEvent::kViolation;
    const bool dirties = kind.can_write() && (raw & entry.dirty) != entry.dirty;
    if (dirties && context_.logs_pages && log_.size() == kLogEntries) return CpuEvent::kLogFull;
    if (!SetFlags(place, raw, entry.accessed | (kind.can_write() ? entry.dirty : 0))) continue;
    if (dirties && context_.logs_pages) log_.push_back(gfn.address());
    const uint64_t pages = uint64_t{1} << (9 * (level - 1));
    const Translation made = {
        .context = context_,
        .first = Gfn(gfn.raw() & ~(pages - 1)),
        .pages = pages,
        .frame = Hfn::Of(entry.address),
        .rights = rights,
        .dirty = kind.can_write() || (raw & entry.dirty) == entry.dirty,
        .type = entry.type,
        .since = model_.Now(),
    };
    Keep(made);
    return Use(made, gfn, kind, store);
  }
}

// Returns false where the entry has changed since it was read.
bool GuestCpu::SetFlags(uint64_t* place, uint64_t raw, uint64_t flags) {
  if ((raw & flags) == flags) return true;
  return AtomicRef<uint64_t>(*place).compare_exchange_strong(raw, raw | flags);
}

void GuestCpu::Keep(const Translation& translation) {
  std::erase_if(translations_, [&](const Translation& kept) {
    return kept.context.root == translation.context.root && kept.first == translation.first &&
           kept.pages == translation.pages;
  });
  translations_.push_back(translation);
}

std::string GuestCpu::Forbids(const Translation& translation, ViewId view, Gfn gfn) const {
  Access rights = translation.rights;
  if (!translation.dirty) rights = rights.Without(Access::Write());
  return model_.Forbids({.space = translation.context.space,
                         .view = view,
                         .gfn = gfn,
                         .frame = translation.FrameOf(gfn),
                         .rights = rights,
                         .type = translation.type,
                         .since = mappings_since_});
}

// A store takes its step first: what is looked at and noted here holds as it is made.
CpuEvent GuestCpu::Use(const Translation& translation, Gfn gfn, Access kind, GuestStore* store) {
  const Hfn frame = translation.FrameOf(gfn);
  if (store != nullptr) {
    host_.fibers().Reach(Step::kStore, host_.EntriesAt(frame.address()) + store->index);
  }
  const std::string why = model_.Forbids({.space = translation.context.space,
                                          .view = context_.view,
                                          .gfn = gfn,
                                          .frame = frame,
                                          .rights = kind,
                                          .type = translation.type,
                                          .since = mappings_since_});
  if (!why.empty()) host_.fibers().Fail(absl::StrCat("a guest used ", why));
  if (kind.can_write()) model_.Wrote(context_.space, frame);
  if (store != nullptr && host_.OwnerOf(frame) == store->page) Store(frame, *store);
  return CpuEvent::kNone;
}

void GuestCpu::Store(Hfn frame, GuestStore& store) {
  uint64_t* const place = host_.EntriesAt(frame.address()) + store.index;
  const uint64_t before = *place;
  *place = store.value;
  host_.fibers().OnStore(place, before, store.value, std::memory_order_release);
  store.done = true;
}

std::string GuestCpu::CheckReach() const {
  std::string why;
  ForEachInReach([&](const Translation& kept, ViewId view) {
    // A large page needs only a few looks: at its first frames, which tests touch.
    const uint64_t look = std::min<uint64_t>(kept.pages, 8);
    for (uint64_t i = 0; why.empty() && i < look; ++i) {
      why = Forbids(kept, view, kept.first + PageCount(i));
    }
  });
  return why;
}

std::string GuestCpu::CheckForgotten(AddressSpaceId space, Gfn first, uint64_t pages,
                                     uint64_t since) const {
  std::string why;
  ForEachInReach([&](const Translation& kept, ViewId /*view*/) {
    if (kept.context.space != space) return;
    const bool inside =
        kept.first < first + PageCount(pages) && first < kept.first + PageCount(kept.pages);
    if (inside && kept.since < since) {
      why = absl::StrCat("gfn ", kept.first.raw(), " was zapped, and a CPU still has it");
    }
  });
  return why;
}

void GuestCpu::WriteSilently() {
  ForEachInReach([&](const Translation& kept, ViewId /*view*/) {
    if (!kept.dirty || !kept.rights.can_write()) return;
    for (uint64_t i = 0; i < std::min<uint64_t>(kept.pages, 8); ++i) {
      model_.Wrote(kept.context.space, kept.FrameOf(kept.first + PageCount(i)));
    }
  });
}

}  // namespace tdp::explore
