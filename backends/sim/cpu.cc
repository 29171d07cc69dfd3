// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/cpu.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/memory_types.h"
#include "tdp/backends/sim/virtualization_exception.h"
#include "tdp/base/check.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

// The leaf of memory without an EPT, which is write-back to the MTRRs.
constexpr uint64_t kWriteBackLeaf = uint64_t{6} << ept::kMemoryTypeShift;
constexpr uint8_t kPatWriteBack = 6;

unsigned EptAccessOf(AccessKind kind) {
  constexpr unsigned kAccesses[] = {kRightExecute, kRightRead, kRightWrite,
                                    kRightRead | kRightWrite};
  return kAccesses[static_cast<int>(kind)];
}

}  // namespace

Cpu::Cpu(const PhysicalMemory& memory, const CpuConfig& config)
    : state_(memory), ept_(state_), guest_(state_, ept_), config_(config) {
  state_.policy = config.policy;
  SetFeatures(config.features);
}

// --- set-up ---

void Cpu::SetFeatures(const CpuFeatures& features) {
  state_.features = features;
  eptp_accepted_ = false;
  ClearCaches();
}

void Cpu::ClearCaches() {
  has_tlb_ = false;
  for (int level = 1; level <= 3; ++level) {
    tlb_[level].Configure(config_.caches.tlb[AsIndex(level)]);
    has_tlb_ |= config_.caches.tlb[AsIndex(level)].sets != 0;
  }
  guest_.Configure(config_.caches.guest_structures);
  ept_.Configure(config_.caches.ept);
  state_.contexts.Clear();
  has_globals_ = false;
  Reload();
}

void Cpu::SetCaches(const CacheConfig& caches) {
  config_.caches = caches;
  ClearCaches();
}

void Cpu::SetFlushOracle(FlushOracle* oracle) {
  state_.oracle = oracle;
  ClearCaches();
}

void Cpu::SetTableFrames(const TableFrames* tables) {
  state_.tables = tables;
  ClearCaches();
}

void Cpu::Reset() {
  kicked_.store(false, std::memory_order_relaxed);
  state_.exit = {};
  state_.eptp = Eptp();
  eptp_accepted_ = false;
  const auto all = [](const Context&) { return true; };
  DropLinearIf(all);
  ept_.DropIf(all);
  state_.contexts.Clear();
  has_globals_ = false;
  ClearCounters();
  Reload();
}

void Cpu::SetCostModel(const DataCacheConfig& config) {
  cost_ = std::make_unique<DataCacheModel>(config);
  state_.cost = cost_.get();
  Reload();
}

void Cpu::ClearCostModel() {
  cost_ = nullptr;
  state_.cost = nullptr;
  Reload();
}

CpuCounters Cpu::counters() const {
  CpuCounters counters = state_.counters;
  guest_.AddQuietCounts(counters);
  ept_.AddQuietCounts(counters);
  return counters;
}

void Cpu::ClearCounters() {
  state_.counters = {};
  guest_.ClearQuietCounts();
  ept_.ClearQuietCounts();
}

void Cpu::SetRegisters(const Registers& registers) {
  state_.registers = registers;
  Reload();
}

absl::Status Cpu::SetControls(const Controls& controls) {
  const CpuFeatures& can = state_.features;
  const std::pair<bool, const char*> missing[] = {
      {controls.mbec && !can.mbec, "mbec"},
      {controls.pml && !can.pml, "pml"},
      {controls.ve && !can.ve, "ve"},
      {controls.spp && !can.spp, "spp"},
      {controls.eptp_switching && !can.eptp_switching, "eptp_switching"}};
  for (const auto& [lacks, name] : missing) {
    if (lacks) {
      return absl::InvalidArgumentError(
          absl::StrCat("control ", name, " is not a feature of the CPU"));
    }
  }
  state_.controls = controls;
  Reload();
  return absl::OkStatus();
}

void Cpu::Reload() {
  const Registers& registers = state_.registers;
  const uint64_t ep4ta = state_.controls.ept ? state_.eptp.root().raw() : kNoEp4ta;
  const bool pcids = (registers.cr4 & kCr4Pcide) != 0;
  const uint16_t pcid = pcids ? registers.cr3 & 0xfff : 0;
  ContextTable& contexts = state_.contexts;
  if (contexts.HasFewerThan(3)) {
    // Hardware may always drop everything.
    const auto all = [](const Context&) { return true; };
    DropLinearIf(all);
    ept_.DropIf(all);
    contexts.Clear();
  }
  ept_.Reload(contexts.Intern({ep4ta, 0, kGuestPhysicalPcid}));
  context_ = contexts.Intern({ep4ta, state_.controls.vpid, pcid});
  global_context_ = contexts.Intern({ep4ta, state_.controls.vpid, kGlobalPcid});
  guest_.Reload(context_);
  final_may_be_quiet_ = ept_.MayBeQuiet(has_tlb_);
  linear_mask_ = guest_.rules().linear_mask();
  const Accessor accessor = registers.cpl == 3 ? Accessor::kUser : Accessor::kSupervisor;
  for (int kind = 0; kind < 4; ++kind) {
    needs_[AsIndex(kind)] = guest_.rights().NeedOf(static_cast<AccessKind>(kind), accessor);
  }
  if (state_.oracle == nullptr) return;
  for (Tlb& tlb : tlb_) tlb.EnableNotes();
}

// --- entry and kicks ---

AccessResult Cpu::TakeKick() {
  kicked_.store(false, std::memory_order_relaxed);
  state_.exit = {.event = Event::kKick};
  return Fail(Event::kKick);
}

Event Cpu::Enter(Eptp eptp) {
  if (kicked_.load(std::memory_order_acquire)) return TakeKick().event;
  if (state_.controls.ept && !(eptp == state_.eptp && eptp_accepted_)) {
    if (!IsValidEptp(eptp, state_.features)) {
      state_.exit = {.event = Event::kEntryFailure};
      return Fail(Event::kEntryFailure).event;
    }
    const bool was_accepted = std::exchange(eptp_accepted_, true);
    UseEptp(eptp, was_accepted);
  }
  if (state_.controls.vpid == 0) DropVpid(0);
  return Event::kNone;
}

// Takes another EPTP. What it kept of a root counts for that root whenever it is used again, so the
// oracle is told of other attributes, whichever root had the ones before. Nothing was kept before
// the first EPTP.
void Cpu::UseEptp(Eptp eptp, bool is_another) {
  const Eptp before = std::exchange(state_.eptp, eptp);
  const bool differs =
      eptp.levels() != before.levels() || eptp.accessed_dirty() != before.accessed_dirty();
  if (is_another && differs && state_.oracle != nullptr) state_.oracle->OnEptpChange();
  Reload();
}

// --- accesses ---

AccessResult Cpu::Fail(Event event) {
  ++state_.counters.events;
  return {.hpa = Hpa(0), .event = event};
}

// Does the rest of `LookUp`: larger pages, then global ones.
Cpu::TlbHit Cpu::LookUpLarge(uint64_t gva) {
  for (int level = 2; level <= 3; ++level) {
    if (tlb_[level].live() == 0) continue;
    TlbEntry* entry = tlb_[level].Find(ContextTable::Tag(context_, gva, ShiftOf(level)));
    if (entry != nullptr) return {entry, level};
  }
  for (int level = 1; has_globals_ && level <= 3; ++level) {
    TlbEntry* entry = tlb_[level].Find(ContextTable::Tag(global_context_, gva, ShiftOf(level)));
    if (entry != nullptr) return {entry, level};
  }
  return {};
}

AccessResult Cpu::Access(const AccessRequest& request) {
  if (kicked_.load(std::memory_order_relaxed)) return TakeKick();
  GuestRequest masked = request;
  masked.gva &= linear_mask_;
  return AccessSlowly(masked);
}

AccessResult Cpu::AccessSlowly(const GuestRequest& request) {
  TDP_DCHECK_LE(request.size, kPageSize);
  if (!guest_.rules().IsCanonical(request.gva)) {
    state_.exit = {.event = Event::kGeneralProtection};
    return Fail(Event::kGeneralProtection);
  }
  const uint64_t in_page = kPageSize - (request.gva & kPageOffsetMask);
  if (request.size <= in_page) return AccessPage(request);
  GuestRequest first = request;
  first.size = static_cast<unsigned>(in_page);
  GuestRequest second = request;
  second.gva = (request.gva + in_page) & linear_mask_;
  second.size = request.size - first.size;
  const AccessResult result = AccessPage(first);
  if (!result.ok()) return result;
  if (!guest_.rules().IsCanonical(second.gva)) {
    state_.exit = {.event = Event::kGeneralProtection};
    return Fail(Event::kGeneralProtection);
  }
  const AccessResult rest = AccessPage(second);
  return rest.ok() ? result : rest;
}

// Makes an access within one page.
AccessResult Cpu::AccessPage(const GuestRequest& request) {
  const TlbHit hit = request.shadow_stack ? TlbHit() : LookUp(request.gva);
  AccessResult result;
  if (hit.entry != nullptr) {
    if (UseHit(request, hit, result)) return result;
    ++state_.counters.assists;
    interrupted_page_ = ~uint64_t{0};
  }
  return WalkPage(request);
}

// Returns whether the hit decides the access, and `result` says how.
bool Cpu::UseHit(const GuestRequest& request, const TlbHit& hit, AccessResult& result) {
  if (!IsFresh(hit)) {
    state_.oracle->Check(tlb_[hit.level].NoteOf(hit.entry), state_.eptp, Gva(request.gva),
                         state_.memory);
  }
  bool usable = false;
  const Event event = UseWeakHit(request, hit, usable);
  if (event == Event::kNone && !usable) return false;
  ++state_.counters.tlb_hits;
  result = event == Event::kNone ? ResultOf(*hit.entry, request.gva, hit.level) : Fail(event);
  return true;
}

// Decides about a cached translation that may lack a right: it is usable after a closer look, is to
// be walked again, or (by the adversarial policy) is the reason of a fault that the tables no
// longer justify.
Event Cpu::UseWeakHit(const GuestRequest& request, const TlbHit& hit, bool& usable) {
  constexpr uint32_t kDirtyBits = kAttrDirty | kAttrEptDirty;
  const uint32_t attributes = hit.entry->attributes;
  const uint32_t lacking = guest_.rights().NeedOf(request.kind, request.accessor) & ~attributes;
  const uint32_t error = guest_.rights().FaultOf(attributes, request.kind, request.accessor);
  const uint32_t ept_lacking = lacking & kAttrEptAll & ~kDirtyBits;
  usable = error == 0 && ept_lacking == 0 && (lacking & kDirtyBits) == 0;
  if (usable || state_.policy == CachePolicy::kRealistic) return Event::kNone;
  if (error != 0) {
    state_.exit = {.event = Event::kPageFault,
                   .error_code = error,
                   .gva = Gva(request.gva),
                   .length = request.size};
    // The upper entries on the way there go as well: a fault drops those too (SDM vol. 3A
    // 5.10.4.1).
    DropPage(request.gva);
    guest_.DropAddress(request.gva);
    return Event::kPageFault;
  }
  // Sub-pages and two kinds of X cannot be told from the attributes: the walk decides.
  if (ept_lacking == 0 || state_.controls.spp || state_.controls.mbec) return Event::kNone;
  return ViolationOfHit(request, hit);
}

// Reports the violation that a cached translation without the right causes, with the cached rights.
Event Cpu::ViolationOfHit(const GuestRequest& request, const TlbHit& hit) {
  const TlbEntry& entry = *hit.entry;
  const uint32_t attributes = entry.attributes;
  GuestTranslation guest;
  guest.gpa = entry.gpa | (request.gva & ((uint64_t{1} << ShiftOf(hit.level)) - 1));
  guest.attributes = attributes;
  const unsigned rights = ((attributes & kAttrEptRead) != 0 ? kRightRead : 0) |
                          ((attributes & kAttrEptWrite) != 0 ? kRightWrite : 0) |
                          ((attributes & kAttrEptExecute) != 0 ? kRightExecute : 0);
  const uint64_t leaf =
      rights | ((attributes & kAttrSuppressVe) != 0 ? ept::kSuppressVe : 0) |
      ((attributes & kAttrSupervisorShadowStack) != 0 ? ept::kSupervisorShadowStack : 0);
  ept_.Violation(FinalRequest(request, guest), rights, leaf);
  DropPage(request.gva);
  return DeliverVirtualizationException(state_);
}

EptRequest Cpu::FinalRequest(const GuestRequest& request, const GuestTranslation& guest) const {
  uint64_t qualification = ept::kQualLinearAddressValid | ept::kQualFinalAddress;
  if (state_.features.ept.advanced_exit_information()) {
    if ((guest.attributes & kAttrUser) != 0) qualification |= ept::kQualUserAddress;
    if ((guest.attributes & kAttrWrite) != 0) qualification |= ept::kQualGuestWritable;
    if ((guest.attributes & kAttrExecute) == 0) qualification |= ept::kQualGuestNoExecute;
  }
  return {.gpa = guest.gpa,
          .access = EptAccessOf(request.kind),
          .row = 0,
          .qualification = qualification,
          .gva = request.gva,
          .size = request.size,
          .user_page = (guest.attributes & kAttrUser) != 0,
          .guest_table = false,
          .shadow_stack = request.shadow_stack};
}

// Guest-paging verification (SDM 29.3.3.2): a page that demands it may only be reached through
// guest tables in paging-write pages.
Event Cpu::VerifyGuestPaging(const EptRequest& request, const GuestTranslation& guest,
                             const EptTranslation& found) {
  const bool demanded =
      state_.controls.guest_paging_verification && (found.leaf & ept::kVerifyGuestPaging) != 0;
  if (!demanded || guest.tables_verified) return Event::kNone;
  EptRequest verification = request;
  verification.qualification |= ept::kQualGuestPagingVerification;
  return ept_.Violation(verification, found.rights, found.leaf);
}

// Goes through the second dimension of an access.
inline Event Cpu::TranslateFinal(const GuestRequest& request, const GuestTranslation& guest,
                                 EptTranslation& found) {
  if (!state_.controls.ept) {
    found = {.leaf = (guest.gpa & ~kPageOffsetMask) | kWriteBackLeaf | ept::kDirty,
             .level = 3,
             .rights = 15,
             .upper_rights = 15};
    return Event::kNone;
  }
  if (final_may_be_quiet_ && !request.shadow_stack) {
    const uint64_t need =
        ept_.QuietNeedOf(EptAccessOf(request.kind), (guest.attributes & kAttrUser) != 0);
    unsigned kind;
    if (ept_.TranslateQuietly(guest.gpa, need, found, kind)) {
      ept_.CountQuietly(0, kind);
      return Event::kNone;
    }
  }
  const EptRequest final_request = FinalRequest(request, guest);
  const Event event = ept_.Translate(final_request, found, &final_path_);
  if (event != Event::kNone) return event;
  return VerifyGuestPaging(final_request, guest, found);
}

AccessResult Cpu::WalkPage(const GuestRequest& request) {
  ++state_.counters.walks;
  // No page has this number: an interrupted access is counted once.
  if (std::exchange(interrupted_page_, ~uint64_t{0}) == request.gva >> kPageShift) {
    ++state_.counters.restarts;
  }
  GuestTranslation guest;
  const Event event = guest_.Translate(request, guest);
  return FinishWalk(request, guest, event);
}

// Does the second half of a walk whose first half ended in `event`.
AccessResult Cpu::FinishWalk(const GuestRequest& request, const GuestTranslation& guest,
                             Event event) {
  EptTranslation found;
  if (event == Event::kNone) event = TranslateFinal(request, guest, found);
  if (ABSL_PREDICT_TRUE(event == Event::kNone)) return Fill(request, guest, found);
  // The fault drops the mappings that led to it (SDM vol. 3A 5.10.4.1, vol. 3C 30.4.3.1).
  DropPage(request.gva);
  guest_.DropAddress(request.gva);
  interrupted_page_ = request.gva >> kPageShift;
  if (event == Event::kEptViolation) event = DeliverVirtualizationException(state_);
  return Fail(event);
}

AccessResult Cpu::Fill(const GuestRequest& request, const GuestTranslation& guest,
                       const EptTranslation& found) {
  const bool ept = state_.controls.ept;
  const int smallest = std::min(guest.shift, ept ? found.shift() : 30);
  const int level = smallest >= 30 ? 3 : smallest >= 21 ? 2 : 1;
  const uint64_t offset = (uint64_t{1} << ShiftOf(level)) - 1;
  const unsigned execute = state_.controls.mbec && (guest.attributes & kAttrUser) != 0
                               ? kRightUserExecute
                               : kRightExecute;
  const bool paged = guest.level != 0;
  const auto type = CombineMemoryTypes(
      static_cast<MemoryType>((found.leaf & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift),
      (found.leaf & ept::kIgnorePat) != 0,
      paged ? PatType(state_.registers.pat, guest.pat_index) : kPatWriteBack,
      (state_.registers.cr0 & kCr0Cd) != 0);
  const bool dirty = !ept || !state_.eptp.accessed_dirty() || (found.leaf & ept::kDirty) != 0;
  TlbEntry entry;
  entry.result.hpa = Hpa((ept ? found.HpaOf(guest.gpa) : guest.gpa) & ~offset);
  entry.result.memory_type = type;
  entry.result.ept_level = ept ? found.level : 0;
  entry.result.guest_level = static_cast<uint8_t>(guest.level);
  entry.gpa = guest.gpa & ~offset;
  entry.guest_shift = static_cast<uint8_t>(paged ? guest.shift : 0);
  entry.attributes =
      guest.attributes | ((found.rights & kRightRead) != 0 ? kAttrEptRead : 0) |
      ((found.rights & kRightWrite) != 0 ? kAttrEptWrite : 0) |
      ((found.rights & execute) != 0 ? kAttrEptExecute : 0) | (dirty ? kAttrEptDirty : 0) |
      ((found.leaf & ept::kSuppressVe) != 0 ? kAttrSuppressVe : 0) |
      ((found.leaf & ept::kSupervisorShadowStack) != 0 ? kAttrSupervisorShadowStack : 0);
  const AccessResult result = ResultOf(entry, request.gva, level);
  if (request.shadow_stack || tlb_[level].geometry().sets == 0) return result;
  const bool global = (entry.attributes & kAttrGlobal) != 0;
  has_globals_ |= global;
  DropPage(request.gva);
  const uint64_t tag =
      ContextTable::Tag(global ? global_context_ : context_, request.gva, ShiftOf(level));
  const TlbEntry* kept = tlb_[level].Insert(tag, entry);
  if (state_.oracle != nullptr) {
    EptPath& note = tlb_[level].NoteOf(kept);
    note = ept ? final_path_ : guest_.linear_path();
    if (!paged && !ept) note.count = 0;
  }
  return result;
}

AccessResult Cpu::AccessGpa(Gpa gpa, AccessKind kind, unsigned size) {
  if (kicked_.load(std::memory_order_relaxed)) return TakeKick();
  ++state_.counters.walks;
  if (!state_.controls.ept) return {.hpa = Hpa(gpa.raw())};
  EptTranslation found;
  EptRequest request;
  request.gpa = gpa.raw();
  request.access = EptAccessOf(kind);
  request.size = size;
  Event event = ept_.Translate(request, found, nullptr);
  if (event == Event::kEptViolation) event = DeliverVirtualizationException(state_);
  if (event != Event::kNone) return Fail(event);
  return {.hpa = Hpa(found.HpaOf(gpa.raw())),
          .memory_type =
              static_cast<MemoryType>((found.leaf & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift),
          .ept_level = found.level};
}

AccessResult Cpu::AccessIdentity(Gpa gpa, AccessKind kind, unsigned size) {
  TDP_DCHECK(state_.controls.ept);
  if (kicked_.load(std::memory_order_relaxed)) return TakeKick();
  const GuestRequest request = {.gva = gpa.raw(), .kind = kind, .size = size};
  const TlbHit hit = LookUp(request.gva);
  if (hit.entry != nullptr) {
    AccessResult result;
    if (UseHit(request, hit, result)) return result;
  }
  ++state_.counters.walks;
  return FinishWalk(request, {.gpa = gpa.raw(), .attributes = kAttrUnpaged}, Event::kNone);
}

// Pages of 4 KiB whose entry is the newest of its set: a lookup of one changes nothing, so a
// compare does for it. Each is kept for the kinds of access that its entry allows, as the record of
// one at its begin. Pages of one set have one place, so that a page which becomes the newest takes
// that of the one before. Neighbours have different places, even where there is but one set.
class Cpu::RecentPages {
 public:
  RecentPages(uint64_t set_mask, uint64_t linear_mask)
      : has_one_set_(set_mask == 0),
        first_mask_(std::clamp<uint64_t>(set_mask, 1, kPlaces - 1) << kKindBits),
        page_mask_(linear_mask & TraceRecord::kAddressMask & ~kPageOffsetMask) {
    Clear();
  }

  void Clear() { records_.fill(kNone); }
  // `attributes` are those of the page's entry; `needs` are what each kind of access needs of them.
  void Set(uint64_t linear, uint32_t attributes, const std::array<uint32_t, kKinds>& needs) {
    const uint64_t page = linear & page_mask_;
    const size_t first = FirstOf(linear);
    for (size_t kind = 0; kind < kKinds; ++kind) {
      const uint64_t refused = (~attributes & needs[kind]) != 0 ? kNone : 0;
      records_[first + kind] = page | kind << TraceRecord::kKindShift | refused;
    }
    if (has_one_set_) ForgetFrom(first ^ kKinds);
  }
  // No page of the set of `linear` is known to be the newest any more.
  void Forget(uint64_t linear) {
    ForgetFrom(FirstOf(linear));
    if (has_one_set_) ForgetFrom(FirstOf(linear) ^ kKinds);
  }

  // Returns the first record from `at` on of which it takes more than this to say that it stays in
  // one of the pages: all but those that reach the last bytes of a page.
  size_t FirstOther(absl::Span<const TraceRecord> records, size_t at) const {
    constexpr size_t kAtOnce = 4;
    for (; at + kAtOnce <= records.size(); at += kAtOnce) {
      if (!StaysInside(records[at])) return at;
      if (!StaysInside(records[at + 1])) return at + 1;
      if (!StaysInside(records[at + 2])) return at + 2;
      if (!StaysInside(records[at + 3])) return at + 3;
    }
    while (at < records.size() && StaysInside(records[at])) ++at;
    return at;
  }
  bool Has(TraceRecord record) const {
    const uint64_t raw = record.raw();
    return (raw & (page_mask_ | TraceRecord::kKindMask)) == KeptFor(raw) &&
           (raw & kPageOffsetMask) + record.size() <= kPageSize;
  }

 private:
  static constexpr size_t kPlaces = 64;
  static constexpr int kKindBits = std::countr_zero(kKinds);
  static constexpr uint64_t kNone = ~uint64_t{0};
  // An access of this many bytes or more has the highest bit of the size set.
  static constexpr uint64_t kLong = 256;
  static constexpr uint64_t kIsLong = uint64_t{8} << TraceRecord::kSizeShift;

  // The last byte that the longest of the other accesses has, which is on the next page near the
  // end of a page, and there is another place for that one.
  bool StaysInside(TraceRecord record) const {
    const uint64_t last = record.raw() + (kLong / 2 - 1);
    return (last & (page_mask_ | TraceRecord::kKindMask | kIsLong)) == KeptFor(record.raw());
  }
  uint64_t KeptFor(uint64_t raw) const {
    return records_[FirstOf(raw) + (raw >> TraceRecord::kKindShift & (kKinds - 1))];
  }
  // Returns the index of the first kind's record of the place of `linear`.
  size_t FirstOf(uint64_t linear) const { return linear >> (kPageShift - kKindBits) & first_mask_; }
  void ForgetFrom(size_t first) {
    for (size_t kind = 0; kind < kKinds; ++kind) records_[first + kind] = kNone;
  }

  const bool has_one_set_;
  const uint64_t first_mask_;
  const uint64_t page_mask_;
  std::array<uint64_t, kPlaces * kKinds> records_;  // those of a place together, by kind
};

size_t Cpu::Run(absl::Span<const TraceRecord> records) {
  if (state_.oracle != nullptr || !tlb_[1].keeps_order()) return RunOneByOne(records);
  constexpr size_t kBetweenKicks = 64;
  RecentPages recent(tlb_[1].set_mask(), linear_mask_);
  uint64_t others = 0;
  size_t done = 0;
  while (done < records.size()) {
    const auto next = records.first(std::min(done + kBetweenKicks, records.size()));
    done = recent.FirstOther(next, done);
    const bool is_kicked = kicked_.load(std::memory_order_relaxed);
    if (done == records.size() || (done == next.size() && !is_kicked)) continue;
    const TraceRecord record = records[done];
    if (is_kicked || !(recent.Has(record) || HitsSmallPage(record, recent))) {
      if (ABSL_PREDICT_FALSE(!Access(record.gva(), record.kind(), record.size()).ok())) break;
      ++others;
      Remember(record, recent);
    }
    ++done;
  }
  state_.counters.tlb_hits += done - others;
  if (done == records.size()) state_.exit.event = Event::kNone;
  return done;
}

// Makes an access, but for the count, and notes its page, if it hits the TLB for small pages with
// rights enough; else it does nothing that `Access` would not do again.
inline bool Cpu::HitsSmallPage(TraceRecord record, RecentPages& recent) {
  const uint64_t linear = record.raw() & linear_mask_ & TraceRecord::kAddressMask;
  if ((linear & kPageOffsetMask) + record.size() > kPageSize) return false;
  if (!guest_.rules().IsCanonical(linear)) return false;
  const TlbEntry* const entry = tlb_[1].Find(ContextTable::Tag(context_, linear, kPageShift));
  const uint32_t need = needs_[static_cast<size_t>(record.kind())];
  if (entry == nullptr || (entry->attributes & need) != need) return false;
  recent.Set(linear, entry->attributes, needs_);
  return true;
}

// Notes the page of an access that `Access` has made.
void Cpu::Remember(TraceRecord record, RecentPages& recent) const {
  const uint64_t linear = record.raw() & linear_mask_ & TraceRecord::kAddressMask;
  if ((linear & kPageOffsetMask) + record.size() > kPageSize) {
    recent.Clear();
    return;
  }
  const TlbEntry* const entry = tlb_[1].FindNewest(ContextTable::Tag(context_, linear, kPageShift));
  if (entry == nullptr) {
    recent.Forget(linear);
  } else {
    recent.Set(linear, entry->attributes, needs_);
  }
}

// Makes the accesses where the oracle looks at each use of a translation, or the TLB does not say
// which page is the newest.
size_t Cpu::RunOneByOne(absl::Span<const TraceRecord> records) {
  for (size_t done = 0; done < records.size(); ++done) {
    const TraceRecord record = records[done];
    if (ABSL_PREDICT_FALSE(!Access(record.gva(), record.kind(), record.size()).ok())) return done;
  }
  state_.exit.event = Event::kNone;
  return records.size();
}

}  // namespace tdp::sim
