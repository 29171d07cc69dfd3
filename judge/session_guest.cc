// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest beside the subject: what its CPU accesses, keeps, uses though it should not, and faults
// on.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/session.h"

namespace tdp::judge {

// Returns whether nobody can tell that a stale translation was used. A leaf that was split into a
// table of the same translations may be used until the table differs, even if no flush followed,
// and then until the flush of the operation that makes it differ. What nobody asks about may be
// late: types that are not judged, D where nothing is logged. A kept translation that denies the
// access ends in a fault, which the tables then decide.
bool Session::IsHarmless(const sim::StaleUse& use, uint64_t gpa, unsigned right,
                         const sim::AccessResult& result) const {
  if (!result.ok()) return true;
  if (in_subject_) {
    const Extent* before = map_.Find(gpa);
    const uint64_t page = result.hpa.raw() & ~(kPage - 1);
    if (before != nullptr && before->HpaOf(gpa) == page && (before->rights & right) != 0)
      return true;
  }
  const bool types = subject_.contract.type_count != 0;
  switch (use.kind) {
    case sim::ChangeKind::kDirtyCleared:
      return subject_.dirty_harvest == nullptr;
    case sim::ChangeKind::kMemoryTypeChanged:
    case sim::ChangeKind::kIgnorePatChanged:
      return !types;
    case sim::ChangeKind::kAddressChanged:
    case sim::ChangeKind::kLeafTableChanged: {
      const sim::ProbeResult now = Probe(gpa);
      return now.ok() && now.hpa == result.hpa && (now.rights & right) != 0 &&
             (!types || now.memory_type == result.memory_type);
    }
    default:
      return false;
  }
}

// Makes an access of the guest, which may keep and use translations; a use of a stale one is
// reported.
sim::AccessResult Session::GuestAccess(uint64_t gpa, unsigned right) {
  const sim::AccessKind kind = right == TDPJ_W   ? sim::AccessKind::kStore
                               : right == TDPJ_X ? sim::AccessKind::kFetch
                                                 : sim::AccessKind::kLoad;
  const sim::AccessResult result =
      is_linear() ? cpu_.Access(LinearOf(gpa), kind, 8) : cpu_.AccessIdentity(Gpa(gpa), kind, 8);
  if (result.ok() && right == TDPJ_W && logged_.Contains(gpa)) written_.insert(gpa & ~(kPage - 1));
  if (oracle_.report_count() == 0) {
    if (is_npt()) JudgeNested(gpa, result);
    return result;
  }
  const std::vector<sim::StaleUse> uses = oracle_.reports();
  oracle_.ClearReports();
  const auto harmful = std::find_if(uses.begin(), uses.end(), [&](const sim::StaleUse& use) {
    return !IsHarmless(use, gpa, right, result);
  });
  if (harmful == uses.end() || (in_subject_ && HasMovedRoot())) return result;
  const sim::StaleUse& use = *harmful;
  uint64_t pc = 0;
  if (use.change >= first_change_ && use.change - first_change_ < change_pcs_.size()) {
    pc = change_pcs_[use.change - first_change_];
  }
  std::string kind_name = sim::ChangeKindName(use.kind);
  std::replace(kind_name.begin(), kind_name.end(), ' ', '-');
  Report(
      absl::StrCat("stale.", kind_name),
      absl::StrFormat("%s is done, and a CPU still uses the translation of gpa %#x that it kept: "
                      "the level-%d entry at %#x was %#x and is %#x, and no flush dropped it",
                      Asked(), gpa, use.level, use.entry.raw(), use.cached, use.now),
      pc);
}

// Uses every address with every right, so that the CPU keeps what it may keep.
void Session::FillCaches(bool with_stores) {
  if (!running_) return;
  const bool outer = in_judge_;
  in_judge_ = true;
  for (const uint64_t gpa : addresses_) {
    const Extent* extent = map_.Find(gpa);
    const unsigned rights = (extent == nullptr ? 1 : extent->rights);
    if ((rights & TDPJ_R) != 0 || extent == nullptr) GuestAccess(gpa, TDPJ_R);
    if ((rights & TDPJ_X) != 0) GuestAccess(gpa, TDPJ_X);
    // A store that sets D in a logged range is the guest's, and is to be found by the harvest.
    if (with_stores && (rights & TDPJ_W) != 0) GuestAccess(gpa, TDPJ_W);
  }
  in_judge_ = outer;
}

// Before the step the guest uses some of the addresses, so that there is something to take away.
void Session::TouchSome() {
  const tdpj_step* const asked = step_;
  after_ = map_;
  for (const uint64_t gpa : addresses_) {
    const Extent* extent = map_.Find(gpa);
    if (extent == nullptr || random_.OneIn(3)) continue;
    const unsigned right = 1u << random_.Below(3);
    if ((extent->rights & right) == 0) continue;
    const tdpj_step touch = {.kind = TDPJ_STEP_TOUCH,
                             .gpa = gpa,
                             .hpa = 0,
                             .size = kPage,
                             .rights = right,
                             .memory_type = 0,
                             .fail_at = random_.OneIn(16) ? 1u : 0u,
                             .seed = 0};
    step_ = &touch;
    oracle_.BeginOperation();
    Touch(touch);
    oracle_.EndOperation();
  }
  step_ = asked;
}

// Tells the subject of a fault. Returns what it answers; 1 also where memory was short on purpose,
// as it is once.
int Session::Fault(uint64_t gpa, unsigned fail_at) {
  const sim::Exit& exit = cpu_.exit();
  constexpr uint64_t kFinalWalk = uint64_t{1} << 32;  // EXITINFO1: not of a guest's table
  const uint64_t cause =
      is_linear() ? exit.error_code | (is_npt() ? kFinalWalk : 0) : exit.qualification.raw();
  frames_.FailFrom(Claims(TDPJ_NO_FAILURE) ? 0 : fail_at);
  record_.in_subject = in_subject_ = true;
  if (view_ == StoreView::kStep) frames_.Protect(true);
  const int answer = subject_.fault(gpa, cause);
  if (view_ == StoreView::kStep) frames_.Protect(false);
  record_.in_subject = in_subject_ = false;
  TakeNote();
  const bool was_short = frames_.failed() != 0;
  frames_.FailFrom(0);
  if (answer > 1) Misuse(absl::StrFormat("fault returned %d: 1 is fixed, 0 is not", answer));
  CompareTables();
  Reenter();
  return was_short ? 1 : answer;
}

// The guest is entered, on the tables that there are now.
void Session::Reenter() {
  const bool by_entry = subject_.contract.flush == TDPJ_FLUSH_BY_ENTRY;
  if (subject_.before_entry != nullptr && (by_entry || random_.OneIn(4))) {
    record_.in_subject = in_subject_ = true;
    subject_.before_entry();
    record_.in_subject = in_subject_ = false;
    TakeNote();
  }
  TakeRoot();
}

// The guest accesses an address, and faults until it can.
void Session::Touch(const tdpj_step& step) {
  const unsigned right = step.rights;
  for (int i = 0; i < 8; ++i) {
    const sim::AccessResult result = GuestAccess(step.gpa, right);
    if (result.ok() || subject_.fault == nullptr) return;
    const Extent* extent = map_.Find(step.gpa);
    if (extent == nullptr || (extent->rights & right) == 0) return;
    if (i == 7) break;
    const int answer = Fault(step.gpa, i == 0 ? step.fail_at : 0);
    if (answer == 1) continue;
    if (answer == TDPJ_NO_MEMORY) return;  // its own pool is used up
    // The CPU may fault on rights that it kept, for the tables' own say in a spurious fault.
    const sim::ProbeResult now = Probe(step.gpa);
    if (now.ok() && (now.rights & right) != 0) continue;
    break;
  }
  const sim::ProbeResult now = Probe(step.gpa);
  if (now.ok() && (now.rights & right) != 0) return;
  const bool lenient = Claims(TDPJ_DEMAND) || lenient_.Contains(step.gpa);
  if (!lenient) return;  // the walk below says what is wrong
  Report("fault-not-fixed",
         absl::StrFormat("%s faults for ever: the page is mapped %s, and fault does not give it",
                         Asked(), RightsText(map_.Find(step.gpa)->rights)));
}

}  // namespace tdp::judge
