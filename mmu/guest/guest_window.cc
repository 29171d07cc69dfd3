// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/guest/guest_window.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "tdp/base/access.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/policy/leaf_policy.h"

namespace tdp {

void GuestWindow::SetAddressSpace(AddressSpaceId space) {
  space_ = space;
  ForgetLines();
}

// Where one of the views shows frames of its own, a page that was found in the other may be none of
// this one's. Views that come and go between two walks cost nothing.
void GuestWindow::SetPolicy(const LeafPolicy& policy, MmuLock::Reader& reader) {
  const bool differs = policy_ != nullptr && policy_ != &policy &&
                       (policy_->shows_frames() || policy.shows_frames());
  policy_ = &policy;
  reader_ = &reader;
  if (differs && has_lines_) ForgetLines();
}

void GuestWindow::ForgetLines() {
  lines_.fill(Line());
  evicted_.fill(Line());
  has_lines_ = false;
}

std::byte* GuestWindow::Refuse(const Line& line, Gfn gfn, bool to_write, GuestWalkOutcome& why) {
  const bool readable = Serves(line, false);
  if (to_write && readable && line.read_only) {
    why = GuestWalkOutcome::kMapped;  // never
    return nullptr;
  }
  why = GuestWalkOutcome::kNeedsPage;
  wanted_ = gfn;
  wanted_to_write_ = to_write;
  if (to_write && readable && line.writable) {
    short_of_room_ = line.logs->shared_log();
    index_without_room_ = line.index;
  }
  return nullptr;
}

void GuestWindow::Wrote(Gpa gpa) {
  AssertInSection();
  const Gpa page = PageOf(gpa);
  const Line* line = &lines_[HashOf(page)];
  if (line->page_gpa != page) line = &lines_[OtherHashOf(page)];
  if (line->page_gpa != page) line = FindEvicted(page);
  if (ABSL_PREDICT_TRUE(line->logs == nullptr)) return;
  if (ring_ != nullptr && !ring_->is_nearly_full() &&
      ring_->Push({space_, line->slot, line->index})) {
    return;
  }
  if (DirtyLog* log = line->logs->any_log()) log->Mark(line->index);
}

absl::Status GuestWindow::Fetch(GuestWalkOutcome& outcome) {
  outcome = GuestWalkOutcome::kMapped;
  if (const auto log = std::exchange(short_of_room_, nullptr)) {
    return log->Prepare(index_without_room_);
  }
  // The sequence is read before the slot is looked for: docs/locking.md says why.
  const uint64_t sequence = sequence_.Current();
  const MemorySlot* slot = slots_.Find(space_, wanted_);
  if (slot == nullptr) outcome = GuestWalkOutcome::kNoMemory;
  // A slot that is going or moving is looked for again.
  if (slot == nullptr || slot->invalid) return absl::OkStatus();
  const bool writable = wanted_to_write_ && !slot->is_read_only();
  std::optional<Backing> backing;
  if (!Locate(*slot, sequence, backing)) return absl::OkStatus();
  if (!backing) {
    outcome = GuestWalkOutcome::kNoMemory;
    return absl::OkStatus();
  }
  TDP_ASSIGN_OR_RETURN(
      const HostPage page,
      PageBehind(backend_, *slot, wanted_, *backing, writable ? Access::Write() : Access::Read()));
  Line line;
  line.page_gpa = wanted_.address();
  line.sequence = sequence;
  line.hva = backing->hva;
  line.of_host = backing->asks_host();
  line.page = reinterpret_cast<std::byte*>(page.hfn.address().raw() + direct_map_offset_);
  // A frame that is named without W never gets it; of the host's pages it is asked again.
  line.read_only = slot->is_read_only() || (!line.of_host && !page.writable);
  line.writable = page.writable && !line.read_only;
  line.slot = slot->id;
  line.logs = slot->logs_dirty_pages() && !backing->is_foreign ? slot->state : nullptr;
  line.index = slot->IndexOf(wanted_);
  Put(line);
  return absl::OkStatus();
}

// Finds out what stands behind the wanted frame, if anything does. Returns false if that is
// changing.
bool GuestWindow::Locate(const MemorySlot& slot, uint64_t sequence,
                         std::optional<Backing>& backing) {
  backing = Backing{.frame = std::nullopt, .hva = slot.HvaOf(wanted_)};
  if (policy_ == nullptr || !(policy_->restricts() || slot.has_host_frames())) return true;
  const MmuReadSection section(*reader_);
  if (sequence_.Current() != sequence) return false;
  backing = policy_->BackingOf(slot, wanted_);
  return true;
}

// Returns the line of a page that is in neither of its places; one of no page if there is none.
const GuestWindow::Line* GuestWindow::FindEvicted(Gpa page) const {
  static constexpr Line kNone;
  for (const Line& line : evicted_) {
    if (line.page_gpa == page) return &line;
  }
  return &kNone;
}

// Takes the place of a line of the page's own, else of one that serves no more, else of one that
// is kept among the evicted: pages that a walk needs at once must not go on replacing each other.
void GuestWindow::Put(const Line& line) {
  has_lines_ = true;
  const Gpa page = line.page_gpa;
  for (Line& old : evicted_) {
    if (old.page_gpa == page) old = Line();
  }
  const auto may_go = [&](const Line& old) {
    return old.page_gpa == page || old.sequence != sequence_.Current();
  };
  Line& first = lines_[HashOf(page)];
  Line& other = lines_[OtherHashOf(page)];
  Line& place = may_go(first) || !may_go(other) ? first : other;
  if (!may_go(place)) evicted_[evictions_++ % kEvicted] = place;
  if (other.page_gpa == page) other = Line();
  place = line;
}

}  // namespace tdp
