// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/session.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/refused_entry.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::judge {
namespace {

// A CPU ignores these as long as the controls of sub-page writes, of paging-writes, of supervisor
// shadow stacks and of execution by mode are off: software may keep bits of its own there.
constexpr uint64_t kUnusedRights =
    ept::kSubPageWrite | ept::kPagingWrite | ept::kSupervisorShadowStack | ept::kUserExecute;

Session* g_session = nullptr;

std::vector<uint64_t>* g_harvested = nullptr;
void TakeHarvested(uint64_t gpa) { g_harvested->push_back(gpa & ~(kPage - 1)); }

sim::CpuConfig CpuOf(const tdpj_contract& contract) {
  sim::CpuConfig config;
  config.caches = *sim::CachePreset("judge");
  config.policy = sim::CachePolicy::kAdversarial;
  if (contract.hpa_limit > uint64_t{1} << 46) config.features.physical_address_bits = 52;
  return config;
}

}  // namespace

Session* Session::current() { return g_session; }

Session::Session(const tdpj_subject& subject, Record& record, StoreView view, void (*end)())
    : subject_(subject),
      record_(record),
      view_(view),
      end_(end),
      frames_(subject.contract.identity_physical != 0),
      oracle_({.accessed_clear_owed = false,
               .linear = subject.contract.format != TDPJ_FORMAT_EPT,
               .ignored_bits = kUnusedRights}),
      cpu_(frames_.physical(), CpuOf(subject.contract)),
      reach_(frames_.physical(), subject.contract.format != TDPJ_FORMAT_EPT, &frames_),
      linked_(kFrames, 0) {
  g_session = this;
  cpu_.SetTableFrames(&frames_);
  cpu_.SetFlushOracle(&oracle_);
  if (!is_linear()) return;
  sim::Controls controls;
  controls.ept = false;
  cpu_.SetControls(controls).IgnoreError();
  sim::Registers registers;
  registers.cr0 = sim::kCr0Pe | sim::kCr0Pg | sim::kCr0Wp;
  registers.cr4 = sim::kCr4Pae | sim::kCr4Pge;
  if (is_npt()) {
    // A walk of nested tables is a user's, knows no global pages, and the ASID tags what it leaves
    // as a PCID does.
    registers.cr4 = sim::kCr4Pae | sim::kCr4Pcide;
    registers.cpl = 3;
  }
  registers.efer = sim::kEferLme | sim::kEferLma | sim::kEferNxe;
  cpu_.SetRegisters(registers);
}

// --- findings ---

std::string Session::Asked() const {
  if (step_ == nullptr) return in_subject_ ? "create or destroy" : "the end";
  const tdpj_step& step = *step_;
  std::string text = absl::StrFormat("%s(gpa %#x", StepName(step.kind), step.gpa);
  if (step.kind == TDPJ_STEP_MAP) absl::StrAppend(&text, absl::StrFormat(", hpa %#x", step.hpa));
  if (step.kind != TDPJ_STEP_TOUCH) {
    absl::StrAppend(&text, absl::StrFormat(", size %#x", step.size));
  }
  if (step.kind <= TDPJ_STEP_TOUCH && step.kind != TDPJ_STEP_UNMAP) {
    absl::StrAppend(&text, ", ", RightsText(step.rights));
  }
  absl::StrAppend(&text, ")");
  if (step.fail_at != 0) absl::StrAppend(&text, ", its memory short,");
  return text;
}

void Session::Report(const std::string& klass, const std::string& sentence, uint64_t pc) {
  Finding& finding = record_.finding;
  const std::string signature =
      absl::StrCat(klass, ".", step_ == nullptr ? "end" : StepName(step_->kind));
  std::snprintf(finding.signature, sizeof finding.signature, "%s", signature.c_str());
  std::snprintf(finding.sentence, sizeof finding.sentence, "%s", sentence.c_str());
  const bool is_place = (pc & kPlace) != 0;
  finding.pc = is_place ? places_[pc & ~kPlace].pc : pc;
  finding.caller = is_place ? places_[pc & ~kPlace].caller : 0;
  finding.misuse = false;
  record_.in_subject = in_subject_;
  record_.has_finding = true;
  end_();
  __builtin_trap();
}

void Session::Misuse(const std::string& sentence) {
  std::snprintf(record_.finding.signature, sizeof record_.finding.signature, "adapter");
  std::snprintf(record_.finding.sentence, sizeof record_.finding.sentence, "%s", sentence.c_str());
  record_.finding.pc = record_.finding.caller = 0;
  record_.finding.misuse = true;
  record_.has_finding = true;
  end_();
  __builtin_trap();
}

void Session::Panic(const char* what) {
  Report("panic", absl::StrFormat("%s ended in the subject's own panic: %s", Asked(),
                                  what == nullptr ? "" : what));
}

// --- a sequence ---

void Session::Begin() {
  step_ = nullptr;
  frames_.Reset();
  cpu_.Reset();
  oracle_.Reset();
  map_ = FlatMap();
  if (const uint64_t size = subject_.contract.initial_size; size != 0) {
    const unsigned type = subject_.contract.type_count == 0 ? 6 : subject_.contract.types[0];
    map_.Map({0, size, 0, subject_.contract.rights[0], type, 0, size}, false);
    for (const tdpj_range& hole : subject_.contract.initial_holes) {
      if (hole.size != 0) map_.Unmap(hole.begin, hole.begin + hole.size);
    }
  }
  after_ = map_;
  logged_ = lenient_ = RangeSet();
  written_.clear();
  freed_.clear();
  linked_frames_.clear();
  reach_.Reset();
  change_pcs_.clear();
  linked_epoch_ += 2;  // no frame is a table of the last epoch
  first_change_ = oracle_.clock();
  pending_end_ = 0;
  last_pc_ = 0;
  over_ = running_ = false;
  root_ = 0;
  ++record_.sequences;
  in_subject_ = true;
  const int answer = subject_.create();
  in_subject_ = false;
  TakeNote();
  if (answer != 0) {
    Misuse(
        absl::StrFormat("create returned %d: the subject does not start with %d frames of "
                        "memory free",
                        answer, static_cast<int>(kFrames)));
  }
  TakeRoot();
}

void Session::End() {
  step_ = nullptr;
  if (subject_.destroy == nullptr) return;
  running_ = false;
  in_subject_ = true;
  subject_.destroy();
  in_subject_ = false;
  pending_end_ = 0;
  if (Claims(TDPJ_FREES_ALL) && frames_.allocated() != 0) {
    Report("leak", absl::StrFormat("destroy returned, and %u frames were never given back",
                                   frames_.allocated()));
  }
}

// The tables that the CPU uses from now on.
void Session::TakeRoot() {
  const uint64_t root = subject_.eptp();
  if (running_ && root == root_) return;
  const uint64_t table = root & kAddressBits;
  int levels = 4;
  if (is_npt()) {
    EnterNested(root);
  } else if (is_cr3()) {
    LoadCr3(root);
  } else {
    levels = EnterEpt(root);
  }
  if (!frames_.IsTable(Hpa(table))) {
    Misuse(absl::StrFormat(
        "eptp() returned %#x, whose root %#x is no frame from tdpj_alloc or "
        "tdpj_adopt; the physical address of a frame is what tdpj_phys says, and create "
        "makes everything anew, since each sequence begins with all frames free",
        root, table));
  }
  // The load of CR3 is a flush, and so is another ASID, as long as it is not taken again.
  const bool is_flush = is_cr3() || (is_npt() && (root ^ root_) % kPage != 0);
  root_ = root;
  running_ = true;
  reach_.SetRoot(Hpa(table), levels);
  if (is_flush) reach_.OnFlush();
  LinkFrames();
}

// Returns the levels of its walk.
int Session::EnterEpt(uint64_t root) {
  const Eptp eptp(root);
  if (!sim::IsValidEptp(eptp, cpu_.features())) {
    Misuse(absl::StrFormat(
        "eptp() returned %#x, which VM entry refuses: bits 2:0 are the memory type (0 or 6), bits "
        "5:3 the levels less one (3 or 4), bits 11:7 zero, and the rest the root's address",
        root));
  }
  cpu_.Enter(eptp);
  return eptp.levels();
}

void Session::LoadCr3(uint64_t root) {
  if (cpu_.WriteCr3(root) != sim::Event::kNone) Misuse("eptp() returned a CR3 that faults");
}

// --- a step ---

const char* Session::WhyNot(const tdpj_step& step) const {
  if (over_) return "the step before it failed half-way, as it may, and ended the sequence";
  if (record_.count == kMaxSteps) return "a sequence has no more than 512";
  return WhyForbidden(subject_, map_, logged_, step);
}

bool Session::Run(const tdpj_step& step) {
  static_assert(kMaxSteps == 512);
  if (WhyNot(step) != nullptr) return false;
  record_.steps[record_.count++] = step;
  ++record_.operations;
  step_ = &step;
  random_ = Random(step.seed);
  ChooseAddresses(step);
  if (Claims(TDPJ_DEMAND)) TouchSome();
  bool is_error = false;
  after_ = Expected(step, is_error);
  FillCaches(true);
  oracle_.BeginOperation();
  last_pc_ = 0;
  if (step.kind == TDPJ_STEP_TOUCH) {
    Touch(step);
  } else {
    frames_.FailFrom(Claims(TDPJ_NO_FAILURE) ? 0 : step.fail_at);
    const int answer = step.kind == TDPJ_STEP_HARVEST ? (Harvest(step), 0) : Call(step);
    Settle(step, answer, is_error);
  }
  if (over_) return true;
  LookAtTables();
  JudgeStale();
  return true;
}

// The ends of the range, what lies beside them, borders of large pages, and a few others.
void Session::ChooseAddresses(const tdpj_step& step) {
  std::vector<uint64_t> kept;
  for (size_t i = 0; i < 3 && !addresses_.empty(); ++i) {
    kept.push_back(addresses_[random_.Below(addresses_.size())]);
  }
  addresses_.clear();
  const uint64_t end = step.gpa + std::max(step.size, kPage);
  const uint64_t limit = subject_.contract.gpa_limit;
  const auto add = [&](uint64_t gpa) {
    gpa &= ~(kPage - 1);
    if (gpa >= limit) return;
    if (std::find(addresses_.begin(), addresses_.end(), gpa) == addresses_.end()) {
      addresses_.push_back(gpa);
    }
  };
  add(step.gpa);
  add(end - kPage);
  if (step.gpa != 0) add(step.gpa - kPage);
  add(end);
  add(step.gpa & ~(kPage2M - 1));
  add(end & ~(kPage2M - 1));
  add((end | (kPage2M - 1)) - kPage + 1);
  if ((end & ~(kPage2M - 1)) > step.gpa) add((end & ~(kPage2M - 1)) - kPage);
  add(step.gpa + random_.Below(end - step.gpa));
  if (const std::vector<Extent>& extents = map_.extents(); !extents.empty()) {
    for (int i = 0; i < 3; ++i) {
      const Extent& extent = extents[random_.Below(extents.size())];
      add(i == 0   ? extent.begin
          : i == 1 ? extent.end - kPage
                   : extent.begin + random_.Below(extent.end - extent.begin));
    }
  }
  for (const uint64_t gpa : kept) add(gpa);
  add(random_.Below(limit));
}

FlatMap Session::Expected(const tdpj_step& step, bool& is_error) const {
  FlatMap after = map_;
  const uint64_t end = step.gpa + step.size;
  const int over = subject_.contract.map_over;
  if (step.kind == TDPJ_STEP_MAP) {
    is_error = over == TDPJ_OVER_ERROR && map_.CoversSome(step.gpa, end);
    if (is_error) return after;
    after.Map({step.gpa, end, step.hpa, step.rights, step.memory_type, step.gpa, end},
              over == TDPJ_OVER_KEEPS);
  } else if (step.kind == TDPJ_STEP_UNMAP) {
    after.Unmap(step.gpa, end);
  } else if (step.kind == TDPJ_STEP_PROTECT) {
    after.Protect(step.gpa, end, step.rights);
  }
  return after;
}

int Session::Call(const tdpj_step& step) {
  if (step.kind == TDPJ_STEP_DIRTY_START) lenient_.Add(step.gpa, step.gpa + step.size);
  record_.in_subject = in_subject_ = true;
  if (view_ == StoreView::kStep) frames_.Protect(true);
  int answer = 0;
  switch (step.kind) {
    case TDPJ_STEP_MAP:
      answer = subject_.map(step.gpa, step.hpa, step.size, step.rights, step.memory_type);
      break;
    case TDPJ_STEP_UNMAP:
      answer = subject_.unmap(step.gpa, step.size);
      break;
    case TDPJ_STEP_PROTECT:
      answer = subject_.protect(step.gpa, step.size, step.rights);
      break;
    case TDPJ_STEP_DIRTY_START:
      answer = subject_.dirty_start(step.gpa, step.size);
      break;
    case TDPJ_STEP_DIRTY_STOP:
      answer = subject_.dirty_stop(step.gpa, step.size);
      break;
    case TDPJ_STEP_HARVEST:
      answer = subject_.dirty_harvest(step.gpa, step.size, TakeHarvested);
      break;
    case TDPJ_STEP_SPLIT:
      answer = subject_.split(step.gpa, step.size);
      break;
    case TDPJ_STEP_MERGE:
      answer = subject_.merge(step.gpa, step.size);
      break;
    default:
      break;
  }
  if (view_ == StoreView::kStep) frames_.Protect(false);
  record_.in_subject = in_subject_ = false;
  TakeNote();
  return answer;
}

void Session::Settle(const tdpj_step& step, int answer, bool is_error) {
  const bool was_short = frames_.failed() != 0 || answer == TDPJ_NO_MEMORY;
  frames_.FailFrom(0);
  const uint64_t end = step.gpa + step.size;
  const bool is_hint = step.kind == TDPJ_STEP_SPLIT || step.kind == TDPJ_STEP_MERGE;
  if (answer != 0 && !is_error && !is_hint) {
    if (!was_short) {
      Report("refused", absl::StrFormat("%s was refused with %d, though the contract allows it and "
                                        "no allocation failed",
                                        Asked(), answer));
    }
    if (step.kind == TDPJ_STEP_DIRTY_START) lenient_.Remove(step.gpa, end);
    SettleFailure(step);
    return;
  }
  if (answer == 0 && is_error) {
    Report("over-accepted",
           absl::StrFormat("%s succeeded, though something is mapped there and the contract "
                           "promises an error",
                           Asked()));
  }
  map_ = after_;
  if (step.kind == TDPJ_STEP_MAP || step.kind == TDPJ_STEP_UNMAP) {
    if (!is_error) {
      written_.erase(written_.lower_bound(step.gpa), written_.lower_bound(end));
      // Who logs everything logs what is mapped meanwhile.
      if (!Claims(TDPJ_LOGS_ALL)) logged_.Remove(step.gpa, end);
    }
  } else if (step.kind == TDPJ_STEP_DIRTY_START) {
    logged_.Add(step.gpa, end);
  } else if (step.kind == TDPJ_STEP_DIRTY_STOP) {
    logged_.Remove(step.gpa, end);
    lenient_.Remove(step.gpa, end);
  }
  std::erase_if(written_, [this](uint64_t gpa) { return !logged_.Contains(gpa); });
}

// The step failed for want of memory: nothing has changed, or each page is as before or as after.
void Session::SettleFailure(const tdpj_step&) {
  if (Claims(TDPJ_ALL_OR_NOTHING)) {
    after_ = map_;
    return;
  }
  CompareTables();
  for (const uint64_t gpa : addresses_) JudgeBetween(gpa, last_pc_);
  over_ = true;
}

void Session::Harvest(const tdpj_step& step) {
  std::vector<uint64_t> harvested;
  // A page that is written while it runs may be left to the next one.
  const std::set<uint64_t> written = written_;
  g_harvested = &harvested;
  const int answer = Call(step);
  g_harvested = nullptr;
  if (answer < 0 && answer != TDPJ_NO_MEMORY && frames_.failed() == 0) {
    Report("refused", absl::StrFormat("%s was refused with %d", Asked(), answer));
  }
  // A harvest that failed has told of these pages all the same.
  for (const uint64_t gpa : harvested) written_.erase(gpa);
  if (answer < 0) return;
  for (const uint64_t gpa : written) {
    if (gpa < step.gpa || gpa >= step.gpa + step.size || !written_.contains(gpa)) continue;
    Report("dirty-lost", absl::StrFormat("%s did not report the page at gpa %#x, which the guest "
                                         "has written since the last harvest",
                                         Asked(), gpa));
  }
}

// --- after the step ---

void Session::LookAtTables() {
  CompareTables();
  TakeRoot();
  JudgeFrames();
  for (const uint64_t gpa : addresses_) JudgeAt(gpa);
}

Session::Complaint Session::FindInWalk(const sim::ProbeResult& found, uint64_t gpa,
                                       const char* when) const {
  const int level = found.level;
  const uint64_t entry = found.path.count == 0 ? 0 : found.path.steps[found.path.count - 1u].value;
  if (found.event == sim::Event::kWalkedNoTable) {
    return {"walks-no-table",
            absl::StrFormat("%s%s a walk of gpa %#x is led by entry %#x to memory that is no table "
                            "(level %d)",
                            Asked(), when, gpa, entry, level)};
  }
  if (found.event == sim::Event::kEptMisconfiguration || found.reserved) {
    return {"misconfigured",
            absl::StrFormat(
                "%s%s the level-%d entry %#x of gpa %#x is one that the CPU refuses: "
                "%s",
                Asked(), when, level, entry, gpa,
                WhyRefused(entry, level, is_linear(), cpu_.features().physical_address_bits))};
  }
  return {};
}

// Nested tables are walked as a user, so that an entry without U gives no right at all.
const char* Session::WhyNoRights(const sim::ProbeResult& found) const {
  return is_npt() && found.ok() && !found.user
             ? ": one of its entries lacks U, and each walk of nested tables is a user's"
             : "";
}

void Session::JudgeRights(const Extent& extent, const sim::ProbeResult& found, uint64_t gpa) {
  const unsigned wider = found.rights & 7 & ~extent.rights;
  unsigned narrower = extent.rights & ~found.rights;
  if (lenient_.Contains(gpa)) narrower &= ~unsigned{TDPJ_W};
  if (Claims(TDPJ_DEMAND)) narrower = 0;
  if (wider == 0 && narrower == 0) return;
  Report(
      wider != 0 ? "rights-wider" : "rights-narrower",
      absl::StrFormat("%s returned, and gpa %#x has rights %s where %s were asked for%s", Asked(),
                      gpa, RightsText(found.rights), RightsText(extent.rights), WhyNoRights(found)),
      last_pc_);
}

void Session::JudgeAt(uint64_t gpa) {
  ++record_.looks;
  const sim::ProbeResult found = Probe(gpa);
  if (const Complaint complaint = FindInWalk(found, gpa, " returned, and");
      complaint.klass != nullptr) {
    Report(complaint.klass, complaint.sentence, last_pc_);
  }
  const Extent* extent = map_.Find(gpa);
  if (extent == nullptr && found.ok()) {
    Report("maps-unasked",
           absl::StrFormat("%s returned, and gpa %#x is mapped to hpa %#x, which nobody asked for",
                           Asked(), gpa, found.hpa.raw()),
           last_pc_);
  }
  if (extent != nullptr && !found.ok() && !Claims(TDPJ_DEMAND)) {
    Report("mapping-lost",
           absl::StrFormat("%s returned, and gpa %#x, which is mapped to hpa %#x, is not in the "
                           "tables (level %d)",
                           Asked(), gpa, extent->HpaOf(gpa), found.level),
           last_pc_);
  }
  if (extent != nullptr && found.ok()) {
    if (found.hpa.raw() != extent->HpaOf(gpa)) {
      Report("wrong-frame",
             absl::StrFormat("%s returned, and gpa %#x leads to hpa %#x in place of %#x (a leaf of "
                             "level %d)",
                             Asked(), gpa, found.hpa.raw(), extent->HpaOf(gpa), found.level),
             last_pc_);
    }
    JudgeRights(*extent, found, gpa);
    if (subject_.contract.type_count != 0 &&
        static_cast<unsigned>(found.memory_type) != extent->type) {
      Report("memory-type",
             absl::StrFormat("%s returned, and gpa %#x has memory type %u in place of %u", Asked(),
                             gpa, static_cast<unsigned>(found.memory_type), extent->type),
             last_pc_);
    }
  }
  if (subject_.lookup != nullptr) JudgeLookup(gpa, found);
}

void Session::JudgeLookup(uint64_t gpa, const sim::ProbeResult& found) {
  if (!found.ok() && map_.Find(gpa) != nullptr) return;  // not yet there: either answer is right
  uint64_t hpa = ~uint64_t{0};
  record_.in_subject = in_subject_ = true;
  const int answer = subject_.lookup(gpa, &hpa);
  record_.in_subject = in_subject_ = false;
  if (answer != 0 && answer != 1) {
    Misuse(absl::StrFormat("lookup returned %d: 1 is mapped, 0 is not", answer));
  }
  if ((answer == 1) == found.ok() && (answer == 0 || hpa == found.hpa.raw())) return;
  Report("lookup-wrong",
         absl::StrFormat("after %s lookup(gpa %#x) says %s (hpa %#x), and the tables say %s (hpa "
                         "%#x)",
                         Asked(), gpa, answer == 1 ? "mapped" : "not mapped", answer == 1 ? hpa : 0,
                         found.ok() ? "mapped" : "not mapped", found.hpa.raw()));
}

void Session::JudgeFrames() {
  if (const size_t frame = frames_.FindWrittenFree(); frame != kFrames) {
    Report("freed-table-written",
           absl::StrFormat("%s returned, and the freed frame %#x was written to", Asked(),
                           frames_.PhysOf(frame * kPageSize)));
  }
  const auto linked = static_cast<size_t>(
      std::count_if(linked_frames_.begin(), linked_frames_.end(),
                    [this](size_t frame) { return !frames_.IsAdopted(frame); }));
  if (!Claims(TDPJ_PRUNES) || frames_.allocated() <= linked) return;
  Report("not-pruned", absl::StrFormat("%s returned, and %u of %u allocated frames are no tables "
                                       "that the root leads to",
                                       Asked(), frames_.allocated() - linked, frames_.allocated()));
}

// Every flush is due; the CPU uses all that it kept.
void Session::JudgeStale() {
  Reenter();
  oracle_.EndOperation();
  for (const size_t frame : freed_) {
    if (frames_.IsAllocated(frame) ||
        reach_.UseOf(Hpa(frames_.PhysOf(frame * kPageSize))) != sim::FrameUse::kMayBeCached) {
      continue;
    }
    Report("freed-unflushed",
           absl::StrFormat("%s is done, and a CPU may still walk the freed table %#x: nothing "
                           "flushed since it was unlinked",
                           Asked(), frames_.PhysOf(frame * kPageSize)),
           last_pc_);
  }
  freed_.clear();
  FillCaches(true);
}

}  // namespace tdp::judge
