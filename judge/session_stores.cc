// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Takes what the subject's stubs and stores tell while an operation runs.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/session.h"

namespace tdp::judge {

// --- tables ---

sim::ProbeResult Session::Probe(uint64_t gpa) const {
  if (!is_linear()) return cpu_.Probe(Gpa(gpa));
  sim::ProbeResult found = cpu_.ProbeLinear(LinearOf(gpa));
  if (is_npt() && !found.user) found.rights = 0;
  return found;
}

void Session::OnFlush(bool all_roots, Hpa root) {
  TakeNote();
  if (view_ != StoreView::kStep) CompareTables();
  reach_.Rescan();
  if (all_roots) {
    reach_.OnFlush();
  } else {
    reach_.OnFlush(root);
  }
  LinkFrames();
}

// --- stubs ---

void Session::RequireFormat(int format, const char* stub) {
  if (subject_.contract.format == format) return;
  Misuse(absl::StrFormat("%s was called, but contract.format is %s, and its flushes are %s", stub,
                         is_npt()   ? "TDPJ_FORMAT_NPT"
                         : is_cr3() ? "TDPJ_FORMAT_CR3"
                                    : "TDPJ_FORMAT_EPT",
                         is_npt()   ? "tdpj_vmrun's"
                         : is_cr3() ? "tdpj_invlpg and tdpj_mov_cr3"
                                    : "tdpj_invept and tdpj_invvpid"));
}

void* Session::Allocate(unsigned n) {
  if (n == 0 || n > 512 || (n & (n - 1)) != 0) {
    Misuse(absl::StrFormat("tdpj_alloc_frames(%u): a power of two up to 512", n));
  }
  TakeNote();
  return frames_.Allocate(n);
}

void* Session::Adopt(void* p, size_t bytes) {
  if (reinterpret_cast<uint64_t>(p) % kPage != 0 || bytes % kPage != 0 || bytes == 0) {
    Misuse(absl::StrFormat("tdpj_adopt(%#x, %#x): whole pages, aligned to 4096",
                           reinterpret_cast<uint64_t>(p), bytes));
  }
  if (subject_.contract.identity_physical != 0) {
    Misuse("tdpj_adopt cannot serve a contract with identity_physical: use tdpj_alloc_frames");
  }
  return frames_.Adopt(p, bytes) ? p : nullptr;
}

void Session::Free(void* p) {
  TakeNote();
  CompareTables();
  if (!frames_.IsInside(p) || frames_.Offset(p) % kPageSize != 0 ||
      !frames_.IsAllocated(frames_.Offset(p) / kPageSize)) {
    Report("double-free", absl::StrFormat("%s gives back %#x, which is no allocated frame", Asked(),
                                          reinterpret_cast<uint64_t>(p)));
  }
  const size_t first = frames_.Offset(p) / kPageSize;
  const Hpa hpa(frames_.PhysOf(first * kPageSize));
  for (size_t i = 0; running_ && i < frames_.FramesOf(first); ++i) JudgeFreed(first + i);
  if (frames_.Free(p) == 0) {
    Report("double-free",
           absl::StrFormat("%s gives back %#x, a part of an allocation", Asked(), hpa.raw()));
  }
}

// A frame is about to be given back.
void Session::JudgeFreed(size_t frame) {
  const Hpa hpa(frames_.PhysOf(frame * kPageSize));
  // The operation may have moved to another root.
  if (reach_.UseOf(hpa) == sim::FrameUse::kLinked) TakeRoot();
  const sim::FrameUse use = reach_.UseOf(hpa);
  if (use == sim::FrameUse::kLinked) {
    Report("freed-linked",
           absl::StrFormat("%s gives back the table %#x, to which the root still "
                           "leads",
                           Asked(), hpa.raw()),
           last_pc_);
  }
  if (use != sim::FrameUse::kMayBeCached) return;
  const bool may_be_late =
      Claims(TDPJ_STOPPED) || Claims(TDPJ_GUEST_LEAVES) || Claims(TDPJ_GUEST_RUNS_FREES);
  if (!may_be_late) {
    Report("freed-unflushed",
           absl::StrFormat("%s gives back the table %#x before the flush after it was "
                           "unlinked: a CPU may still walk it",
                           Asked(), hpa.raw()),
           last_pc_);
  }
  freed_.push_back(frame);
}

int Session::Invept(int type, uint64_t eptp, uint64_t reserved) {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_EPT, "tdpj_invept");
  const sim::VmFail fail = cpu_.Invept(type, eptp, reserved);
  if (fail != sim::VmFail::kOk) {
    Report("bad-invept",
           absl::StrFormat("%s executes INVEPT type %d with EPTP %#x, which fails: %s", Asked(),
                           type, eptp, sim::VmFailName(fail)));
  }
  if (running_) OnFlush(type == 2, Hpa(eptp & kAddressBits));
  // The guest runs on, and keeps what it meets from here.
  if (in_subject_ && GuestMayRun()) FillCaches(true);
  return 0;
}

int Session::Invvpid(int type, unsigned vpid, uint64_t gva) {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_EPT, "tdpj_invvpid");
  // The descriptor's bits above a VPID are reserved.
  if (vpid > 0xffff || !cpu_.Invvpid(type, static_cast<uint16_t>(vpid), Gva(gva))) {
    Report("bad-invvpid", absl::StrFormat("%s executes INVVPID type %d with VPID %u, which fails",
                                          Asked(), type, vpid));
  }
  return 0;
}

void Session::Invlpg(uint64_t address) {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_CR3, "tdpj_invlpg");
  cpu_.Invlpg(Gva(address));
  OnFlush(true);
  if (in_subject_ && GuestMayRun()) FillCaches(true);
}

void Session::MovCr3() {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_CR3, "tdpj_mov_cr3");
  cpu_.WriteCr3(cpu_.registers().cr3);
  OnFlush(true);
  if (in_subject_ && GuestMayRun()) FillCaches(true);
}

// --- stores ---

uint64_t Session::PlaceOfStore(uint64_t pc, uint64_t caller) {
  if (!places_.empty() && places_.back().pc == pc && places_.back().caller == caller) {
    return kPlace | (places_.size() - 1);
  }
  const auto [it, is_new] = place_numbers_.try_emplace(pc * 31 + caller, places_.size());
  if (is_new) places_.push_back({pc, caller});
  return kPlace | it->second;
}

void Session::BeforeStore(const volatile void* p, size_t size, uint64_t pc, uint64_t caller) {
  constexpr uint64_t kWord = 8;
  constexpr uint64_t kEnd = kFrames * kPageSize;
  const uint64_t offset = frames_.Offset(p);
  if (offset >= kEnd || in_judge_ || !in_subject_) return;
  ++record_.announced;
  TakeNote();
  const uint64_t first = offset & ~(kWord - 1);
  const uint64_t end = offset + std::min<uint64_t>(size, kEnd - offset);
  for (uint64_t word = first; word < end; word += kWord) {
    const size_t frame = word / kPageSize;
    if (!frames_.IsAllocated(frame)) {
      Report("freed-table-written",
             absl::StrFormat("%s writes to the frame %#x, which is freed or was never allocated",
                             Asked(), frames_.PhysOf(word & ~kPageOffsetMask)),
             PlaceOfStore(pc, caller));
    }
    if (!logged_.ranges().empty() && GuestMayRun()) WriteBefore(frame, word % kPageSize / kWord);
  }
  pending_ = first;
  pending_end_ = end;
  pending_pc_ = PlaceOfStore(pc, caller);
}

// The subject has read an entry and is about to write it. The guest writes a logged page behind it
// now, and the CPU sets a D bit that the store must not lose.
void Session::WriteBefore(size_t frame, size_t word) {
  const sim::TableReach::Place* place = reach_.Find(Hpa(frames_.PhysOf(frame * kPageSize)));
  if (place == nullptr) return;
  const int shift = 12 + 9 * (place->level - 1);
  const uint64_t begin = place->address | uint64_t{word} << shift;
  in_judge_ = true;
  for (const uint64_t gpa : addresses_) {
    if (gpa >> shift == begin >> shift && logged_.Contains(gpa)) GuestAccess(gpa, TDPJ_W);
  }
  in_judge_ = false;
}

void Session::AfterStore() { TakeNote(); }

// The store that was announced last has happened.
void Session::TakeNote() {
  const uint64_t end = std::exchange(pending_end_, 0);
  for (uint64_t word = pending_; word < end; word += 8) {
    TakeNoteOf(word / kPageSize, word % kPageSize / 8);
  }
}

void Session::TakeNoteOf(size_t frame, size_t word) {
  const uint64_t after = __atomic_load_n(frames_.Words(frame) + word, __ATOMIC_ACQUIRE);
  uint64_t& noted = frames_.Noted(frame)[word];
  if (after == noted) return;
  const uint64_t before = noted;
  noted = after;
  if (!running_) return;
  if (linked_[frame] != linked_epoch_) return JudgeUnlinked(frame, word, after);
  ++record_.stores;
  VisibleStore(frame, word, before, after, pending_pc_);
}

bool Session::IsTableEntry(uint64_t entry) const {
  return (entry & (is_linear() ? 1 : 7)) != 0 && frames_.IsTable(Hpa(entry & kAddressBits));
}

// A CPU can see the change.
void Session::VisibleStore(size_t frame, size_t word, uint64_t before, uint64_t after,
                           uint64_t pc) {
  if (pc != 0) last_pc_ = pc;
  const Hpa table(frames_.PhysOf(frame * kPageSize));
  const uint64_t number = oracle_.clock();
  oracle_.OnStore(Hpa(table.raw() + 8 * word), before, after);
  if (oracle_.clock() != number) {
    if (change_pcs_.size() > 1 << 20) change_pcs_.clear();
    if (change_pcs_.empty()) first_change_ = number;
    change_pcs_.resize(number - first_change_ + 1, pc);
    change_pcs_.back() = pc;
  }
  const sim::TableReach::Place* place = reach_.Find(table);
  const int level = place == nullptr ? 1 : place->level;
  const uint64_t address = place == nullptr ? 0 : place->address;
  if (IsTableEntry(before) || IsTableEntry(after)) {
    reach_.Rescan();
    LinkFrames();
  }
  if (!in_subject_ || Claims(TDPJ_STOPPED) || place == nullptr) return;
  const int shift = 12 + 9 * (level - 1);
  const uint64_t begin = address | uint64_t{word} << shift;
  const uint64_t end = begin + (uint64_t{1} << shift);
  in_judge_ = true;
  if (end <= subject_.contract.gpa_limit) {
    JudgeBetween(begin, pc);
    if (level > 1) JudgeBetween(end - kPage, pc);
  }
  for (const uint64_t gpa : addresses_) {
    if (gpa < begin || gpa >= end) continue;
    if (gpa != begin) JudgeBetween(gpa, pc);
    if (!GuestMayRun()) continue;
    const Extent* extent = map_.Find(gpa);
    GuestAccess(gpa, TDPJ_R);
    if (extent != nullptr && (extent->rights & TDPJ_W) != 0) GuestAccess(gpa, TDPJ_W);
  }
  in_judge_ = false;
}

// The subject has taken a table out and makes use of it again before the flush, as who keeps tables
// of his own can: a CPU that still walks it takes the new entry for one at the old place.
void Session::JudgeUnlinked(size_t frame, size_t word, uint64_t entry) {
  if (!in_subject_ || !GuestMayRun() || Claims(TDPJ_GUEST_RUNS_FREES)) return;
  if (subject_.contract.flush != TDPJ_FLUSH_BY_RETURN) return;
  const Hpa table(frames_.PhysOf(frame * kPageSize));
  const sim::TableReach::Place* place = reach_.FindUnlinked(table);
  if (place == nullptr || !IsLeafEntry(entry, place->level)) return;
  const int shift = 12 + 9 * (place->level - 1);
  const uint64_t gpa = place->address | uint64_t{word} << shift;
  const uint64_t hpa = entry & kAddressBits & ~((uint64_t{1} << shift) - 1);
  for (const FlatMap* map : {&map_, &after_}) {
    const Extent* extent = map->Find(gpa);
    if (extent != nullptr && extent->HpaOf(gpa) == hpa) return;
  }
  if (HasMovedRoot()) return;
  Report("between.reused-table",
         absl::StrFormat("%s writes the entry %#x into the table %#x, which it has unlinked, and "
                         "nothing flushed since: a CPU that still walks it takes gpa %#x to hpa "
                         "%#x",
                         Asked(), entry, table.raw(), gpa, hpa),
         pending_pc_);
}

bool Session::IsLeafEntry(uint64_t entry, int level) const {
  constexpr uint64_t kLargePage = uint64_t{1} << 7;
  return (entry & (is_linear() ? 1 : 7)) != 0 &&
         (level == 1 || (level <= 3 && (entry & kLargePage) != 0));
}

// Every state that a CPU can see maps a page as before or as after.
void Session::JudgeBetween(uint64_t gpa, uint64_t pc) {
  ++record_.store_looks;
  const Complaint complaint = FindBetween(gpa, Probe(gpa));
  if (complaint.klass == nullptr || (in_subject_ && HasMovedRoot())) return;
  Report(complaint.klass, complaint.sentence, pc);
}

// Returns whether the operation under way has turned to another root: the tables of the last are
// its own again then.
bool Session::HasMovedRoot() {
  const uint64_t before = root_;
  TakeRoot();
  return root_ != before;
}

Session::Complaint Session::FindBetween(uint64_t gpa, const sim::ProbeResult& found) const {
  if (Complaint complaint = FindInWalk(found, gpa, ": after one of its stores");
      complaint.klass != nullptr) {
    return complaint;
  }
  const Extent* before = map_.Find(gpa);
  const Extent* after = after_.Find(gpa);
  const bool lenient =
      Claims(TDPJ_DEMAND) || lenient_.Contains(gpa) || (before == nullptr && after == nullptr);
  if (!found.ok()) {
    if (before == nullptr || after == nullptr || Claims(TDPJ_DEMAND)) return {};
    if (!Claims(TDPJ_NO_HOLES) && in_subject_) return {};
    return {"between.hole",
            absl::StrFormat("%s: after one of its stores gpa %#x, mapped before and after, is not "
                            "mapped",
                            Asked(), gpa)};
  }
  unsigned allowed = 0;
  bool known = false;
  for (const Extent* extent : {before, after}) {
    if (extent == nullptr || extent->HpaOf(gpa) != found.hpa.raw()) continue;
    known = true;
    allowed |= extent->rights;
  }
  if (!known) {
    return {"between.wrong",
            absl::StrFormat("%s: after one of its stores gpa %#x leads to hpa %#x, as it should "
                            "neither before nor after",
                            Asked(), gpa, found.hpa.raw())};
  }
  if ((found.rights & 7 & ~allowed) != 0) {
    return {"between.rights-wider",
            absl::StrFormat("%s: after one of its stores gpa %#x has rights %s, more than before "
                            "or after",
                            Asked(), gpa, RightsText(found.rights))};
  }
  if (lenient || before == nullptr || after == nullptr || !Claims(TDPJ_NO_HOLES)) return {};
  if ((before->rights & after->rights & ~found.rights) == 0) return {};
  return {"between.rights-narrower",
          absl::StrFormat("%s: after one of its stores gpa %#x has rights %s, less than before and "
                          "after%s",
                          Asked(), gpa, RightsText(found.rights), WhyNoRights(found))};
}

// Takes note of which frames are tables now. What a frame held before it was linked is no news.
void Session::LinkFrames() {
  const uint64_t last = linked_epoch_++;
  linked_frames_.clear();
  for (const Hpa hpa : reach_.LinkedFrames()) {
    const size_t frame = (hpa.raw() - frames_.first()) / kPageSize;
    linked_frames_.push_back(frame);
    if (linked_[frame] != last) {
      std::memcpy(frames_.Noted(frame), frames_.Words(frame), kPageSize);
    }
    linked_[frame] = linked_epoch_;
  }
}

// Finds the stores that nothing announced.
void Session::CompareTables() {
  if (!running_) return;
  bool changed = true;
  for (int round = 0; changed && round < 6; ++round) {
    changed = false;
    const std::vector<size_t> frames = linked_frames_;
    for (const size_t frame : frames) {
      if (std::memcmp(frames_.Words(frame), frames_.Noted(frame), kPageSize) == 0) continue;
      for (size_t word = 0; word < kFrameWords; ++word) {
        const uint64_t before = frames_.Noted(frame)[word];
        const uint64_t after = frames_.Words(frame)[word];
        if (before == after) continue;
        frames_.Noted(frame)[word] = after;
        ++record_.unseen_stores;
        if (Claims(TDPJ_INSTRUMENTED)) {
          Misuse(absl::StrFormat(
              "the contract claims TDPJ_INSTRUMENTED, but %s changed entry %u of the linked table "
              "%#x from %#x to %#x unseen: compile the subject with -fsanitize=thread, and call "
              "tdpj_store before stores by memset or assembly",
              Asked(), word, frames_.PhysOf(frame * kPageSize), before, after));
        }
        const bool in_subject = in_subject_;
        in_subject_ = false;  // between these, no state of the tables was ever seen
        const bool structural = IsTableEntry(before) || IsTableEntry(after);
        VisibleStore(frame, word, before, after, 0);
        in_subject_ = in_subject;
        changed |= structural;
      }
    }
  }
}

}  // namespace tdp::judge
