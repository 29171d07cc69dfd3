// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/walked_tables.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tests/explore/world.h"

namespace tdp::explore {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};
constexpr uint64_t kLink = guest::kPresent | guest::kWrite | guest::kUser;
constexpr uint64_t kFlags = guest::kAccessed | guest::kDirty;

// The tables are in these frames, from the root down.
constexpr uint64_t kRoot = 96;
constexpr uint64_t kUpper = 97;
constexpr uint64_t kLower = 2;
constexpr uint64_t kLeavesInFirst = 3;
constexpr uint64_t kInSecond = 3;  // in slot 1
constexpr uint64_t kLeaf = 5;      // index
constexpr HostPageNumber kSmramAnew = World::kSmramPages + World::kSmallPages;

// Returns the frame that a leaf says, which tells the memory where it stands. A rewritten one says
// one more.
constexpr uint64_t FrameIn(HostPageNumber table) {
  switch (table) {
    case kLeavesInFirst:
      return 0x120;
    case World::kSecondPages + kInSecond:
      return 0x100;
    case World::kThirdPages + kInSecond:
      return 0x110;
    case World::kSmramPages + kInSecond:
      return 0x140;
    case kSmramAnew + kInSecond:
      return 0x150;
    default:
      return 0x130;
  }
}

const GuestPaging& Paging() {
  static const auto* paging =
      new GuestPaging(GuestControls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                    .cr4 = guest::kCr4PhysicalAddressExtension,
                                    .efer = guest::kEferLongModeActive});
  return *paging;
}

Gva AddressOf(WalkedTables::Page page) {
  const uint64_t table = page == WalkedTables::Page::kInSecondSlot ? 0 : 1;
  return Gva(table << 21 | kLeaf << kPageShift | 0x678);
}

}  // namespace

const std::array<WalkedTables::Word, WalkedTables::kWords> WalkedTables::kPlaces = {{
    {kRoot, 0},
    {kUpper, 0},
    {kLower, 0},
    {kLower, 1},
    {World::kShownPages + kLower - FlatModel::kFirstShown, 0},
    {World::kShownPages + kLower - FlatModel::kFirstShown, 1},
    {kLeavesInFirst, kLeaf},
    {World::kShownPages + kLeavesInFirst - FlatModel::kFirstShown, kLeaf},
    {World::kSecondPages + kInSecond, kLeaf},
    {World::kThirdPages + kInSecond, kLeaf},
    {World::kSmramPages + kInSecond, kLeaf},
    {kSmramAnew + kInSecond, kLeaf},
}};

WalkedTables::WalkedTables(World& world) : world_(world) {
  for (size_t word = 0; word < kWords; ++word) {
    const auto [page, index] = kPlaces[word];
    uint64_t frame = FrameIn(page);
    if (index != kLeaf) {
      frame = page == kRoot    ? kUpper
              : page == kUpper ? kLower
              : index == 0     ? world_.second().raw() + kInSecond
                               : kLeavesInFirst;
    }
    held_[word] = {{frame, kNever}};
    *PlaceOf(word) = frame << kPageShift | kLink;
  }
  // This notes what memory that is shut has: it must stay so from here on.
  (void)Check();
}

uint64_t* WalkedTables::PlaceOf(size_t word) const {
  return reinterpret_cast<uint64_t*>(world_.host().AtPage(kPlaces[word].page)) +
         kPlaces[word].index;
}

WalkedTables::Values WalkedTables::ReadAll() const {
  Values values;
  for (size_t word = 0; word < kWords; ++word) values[word] = *PlaceOf(word);
  return values;
}

size_t WalkedTables::LeafIn(HostPageNumber table) const {
  for (size_t word = 0; word < kWords; ++word) {
    if (kPlaces[word].page == table && kPlaces[word].index == kLeaf) return word;
  }
  return kWords;
}

bool WalkedTables::Holds(HostPageNumber table, uint64_t frame, uint64_t since) const {
  const size_t word = LeafIn(table);
  return word < kWords &&
         std::any_of(held_[word].begin(), held_[word].end(),
                     [=](const Held& held) { return held.frame == frame && held.until >= since; });
}

// --- Walks

void WalkedTables::Walk(Vcpu& vcpu, Page page, GuestAccess access) {
  // The call may count on everything that is over when it begins.
  world_.fibers().SeeAll();
  const bool alone = walks_++ == 0;
  const uint64_t number = ++begun_;
  const uint64_t begun = world_.model().BeginDeviceWrite();
  const Values before = ReadAll();
  GuestWalk walk;
  const absl::Status status =
      vcpu.WalkGuest(Paging(), {.cr3 = kRoot << kPageShift}, AddressOf(page), access, walk);
  --walks_;
  // Beside another walk nobody knows which of the two has set a flag.
  if (alone && number == begun_) TellWritten(vcpu, before, begun);
  if (absl::IsUnavailable(status)) return;
  world_.Expect(status, "WalkGuest");
  if (!status.ok()) return;
  const std::string wrong = Judge(vcpu, page, walk, begun);
  if (!wrong.empty()) world_.Fail("WalkGuest answers " + wrong);
}

// The walk, which has marked the page, has set every flag that was set meanwhile.
void WalkedTables::TellWritten(const Vcpu& vcpu, const Values& before, uint64_t begun) {
  const Values after = ReadAll();
  for (size_t word = 0; word < kWords; ++word) {
    if ((after[word] & ~before[word] & kFlags) == 0) continue;
    world_.model().EndDeviceWrite(kPlaces[word].page, begun, vcpu.address_space());
  }
}

std::string WalkedTables::Judge(const Vcpu& vcpu, Page page, const GuestWalk& walk,
                                uint64_t since) const {
  const bool may_be_missing = page == Page::kInSecondSlot;
  if (walk.outcome == GuestWalkOutcome::kNoMemory && may_be_missing) {
    return JudgeInSlot(vcpu, walk, since);
  }
  if (walk.outcome != GuestWalkOutcome::kMapped) {
    return absl::StrFormat("outcome %d", static_cast<int>(walk.outcome));
  }
  if (!walk.write_protected_table) {
    const bool has_flags = (walk.entries[1] & guest::kAccessed) != 0;
    if (!has_flags) return "a leaf without its A flag";
  }
  if (may_be_missing) return JudgeInSlot(vcpu, walk, since);
  const uint64_t frame = Gfn::Of(walk.gpa).raw();
  const bool shown = vcpu.view() == FlatModel::kRuled && world_.model().MayHaveShown(since);
  const bool of_slot = vcpu.view() != FlatModel::kRuled || world_.model().MayHaveHidden(since);
  if (of_slot && Holds(kLeavesInFirst, frame, since)) return "";
  if (shown && Holds(World::kShownPages + kLeavesInFirst - FlatModel::kFirstShown, frame, since)) {
    return "";
  }
  return absl::StrFormat("frame %#x, which no table had meanwhile", frame);
}

// There is one answer where no slot has changed meanwhile.
std::string WalkedTables::JudgeInSlot(const Vcpu& vcpu, const GuestWalk& walk,
                                      uint64_t since) const {
  const bool is_mapped = walk.outcome == GuestWalkOutcome::kMapped;
  const uint64_t frame = is_mapped ? Gfn::Of(walk.gpa).raw() : 0;
  const Gfn table = world_.second() + PageCount(kInSecond);
  const FlatModel& model = world_.model();
  bool is_there = false;
  bool fits = false;
  model.ForEachSlotAt(vcpu.address_space(), table, [&](const SlotVersion& slot) {
    is_there = true;
    const auto page = slot.first + static_cast<HostPageNumber>(slot.IndexOf(table));
    fits |= is_mapped && Holds(page, frame, since);
  });
  if (model.HaveSlotsStoodSince(since)) {
    if (is_there != is_mapped)
      return is_there ? "no memory where a slot has it" : "what is no more";
    if (is_mapped && !fits) return absl::StrFormat("frame %#x, which the table never had", frame);
    return "";
  }
  // Otherwise the slot that was there when the walk began may have gone.
  const auto any = {World::kSecondPages, World::kThirdPages, World::kSmramPages, kSmramAnew};
  for (const HostPageNumber first : any) {
    if (is_mapped && Holds(first + kInSecond, frame, since)) fits = true;
  }
  return fits || !is_mapped ? "" : absl::StrFormat("frame %#x, which no table had", frame);
}

// --- The guest writes them

void WalkedTables::Rewrite(Vcpu& vcpu, GuestCpu& cpu, Page page) {
  const bool in_second = page == Page::kInSecondSlot;
  const Gfn table = in_second ? world_.second() + PageCount(kInSecond) : Gfn(kLeavesInFirst);
  const HostPageNumber memory = in_second ? World::kSecondPages + kInSecond : kLeavesInFirst;
  std::vector<Held>& held = held_[LeafIn(memory)];
  for (const uint64_t more : {1, 0}) {
    const uint64_t frame = FrameIn(memory) + more;
    held.push_back({frame, kNever});
    const GuestStore store{.index = kLeaf, .value = frame << kPageShift | kLink, .page = memory};
    const bool done = world_.Store(vcpu, cpu, table, store);
    const uint64_t now = world_.model().Now();
    // The frame before is there no more, unless nothing was written.
    if (done) {
      for (size_t i = 0; i + 1 < held.size(); ++i) held[i].until = std::min(held[i].until, now);
    } else {
      held.pop_back();
      return;
    }
  }
}

// --- Memory that nobody may write

void WalkedTables::Guard(Hfn frame) {
  const HostPageNumber page = world_.host().OwnerOf(frame);
  for (const Word& word : kPlaces) {
    if (word.page != page) continue;
    const uint64_t* const place = world_.host().EntriesAt(frame.address()) + word.index;
    guarded_.push_back({place, *place});
  }
}

std::string WalkedTables::Check() {
  for (const Guarded& guarded : guarded_) {
    if (*guarded.place != guarded.value) return "memory was written that the host has taken back";
  }
  for (size_t word = 0; word < kWords; ++word) {
    const bool shut = !world_.model().MayBeWritten(kPlaces[word].page);
    const uint64_t value = *PlaceOf(word);
    if (shut && is_shut_[word] && shut_[word] != value) {
      return absl::StrFormat("host page %u was written, which no slot lets anyone write",
                             kPlaces[word].page);
    }
    is_shut_[word] = shut;
    shut_[word] = value;
  }
  return "";
}

}  // namespace tdp::explore
