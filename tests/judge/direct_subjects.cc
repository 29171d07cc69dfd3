// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge sees the direct tables of a `Vm` here. Guest memory is one slot, or one for each
// mapping; the host gives, moves, protects and takes pages as the judge asks, and the `Vm` is told.

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/judge/flat_map.h"
#include "tdp/mmu/vm.h"
#include "tests/judge/engine_answers.h"
#include "tests/judge/judged_host.h"
#include "tests/judge/vm_subjects.h"

namespace tdp::judge_test {
namespace {

constexpr uint64_t kGuestBytes = GiB(64);
constexpr uint32_t kRingEntries = 1024;

// Names one way of using a `Vm`.
struct Variant {
  const char* name;
  void (*set)(VmOptions& options);
  bool logs = true;          // dirty pages are logged
  bool rings = false;        // into rings
  bool slots = false;        // each mapping is a slot of its own
  bool view = false;         // rights are those of a view
  bool prefaults = false;    // what is mapped is there at once
  bool zaps = false;         // the hints age pages and zap everything, in place of split and merge
  bool keeps_sizes = false;  // of leaves: there are no hints
};

// Holds the sequence under way.
struct Direct {
  explicit Direct(const Variant& the_variant) : variant(the_variant) {}

  const Variant& variant;
  JudgedHost host;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  ViewId view = kBaseView;
  judge::RangeSet logged;
  std::set<uint64_t> dirty;  // pages that the log gave and nobody has asked for yet
  struct Slot {
    uint32_t id;
    uint64_t size;
    uint32_t flags;
  };
  std::map<uint64_t, Slot> slots;  // by address
  uint32_t next_slot = 0;
};
std::unique_ptr<Direct> direct;

Hva HvaOf(uint64_t gpa) { return Hva(JudgedHost::kStart + gpa); }

MemoryRegion RegionAt(uint64_t gpa, const Direct::Slot& slot) {
  return {
      .slot = slot.id, .flags = slot.flags, .gpa = Gpa(gpa), .size = slot.size, .hva = HvaOf(gpa)};
}

// --- the log ---

// Returns a taker of pages of the slot at `base`, which gets 64 at once, from a frame on.
auto TakerFor(uint64_t base) {
  return [base](uint64_t first, uint64_t mask) {
    for (int i = 0; i < 64; ++i) {
      if ((mask >> i & 1) != 0) direct->dirty.insert(base + ((first + i) << kPageShift));
    }
  };
}

void TakeLog() {
  if (direct->variant.rings) {
    Expect(direct->vm->HarvestDirtyRings([](const DirtyRingEntry& entry) {
      direct->dirty.insert(entry.index << kPageShift);  // of the one slot there is, from 0 on
    }));
    direct->vm->ResetDirtyRings();
    return;
  }
  for (const auto& [gpa, slot] : direct->slots) {
    if ((slot.flags & kSlotLogDirtyPages) == 0) continue;
    Expect(direct->vm->TakeDirtyLog(slot.id, TakerFor(gpa)));
  }
}

// Lets a slot log while some page of it is to be logged.
void SwitchLogs() {
  for (auto& [gpa, slot] : direct->slots) {
    const bool logs = direct->logged.Overlaps(gpa, gpa + slot.size);
    const uint32_t flags = (slot.flags & ~kSlotLogDirtyPages) | (logs ? kSlotLogDirtyPages : 0);
    if (flags == slot.flags) continue;
    slot.flags = flags;
    Expect(direct->vm->SetMemoryRegion(RegionAt(gpa, slot)));
  }
}

int StartLog(uint64_t gpa, uint64_t size) {
  direct->logged.Add(gpa, gpa + size);
  SwitchLogs();
  return 0;
}

int StopLog(uint64_t gpa, uint64_t size) {
  TakeLog();
  direct->logged.Remove(gpa, gpa + size);
  SwitchLogs();
  return 0;
}

int Harvest(uint64_t gpa, uint64_t size, void (*page)(uint64_t)) {
  TakeLog();
  HarvestFrom(direct->dirty, gpa, size, page);
  return 0;
}

// --- slots ---

void AddSlot(uint64_t gpa, uint64_t size, bool writable) {
  const Direct::Slot slot = {direct->next_slot++, size, writable ? 0 : kSlotReadOnly};
  Expect(direct->vm->SetMemoryRegion(RegionAt(gpa, slot)));
  direct->slots[gpa] = slot;
}

void DeleteSlot(uint64_t gpa) {
  const auto found = direct->slots.find(gpa);
  if ((found->second.flags & kSlotLogDirtyPages) != 0) {
    Expect(direct->vm->DeleteSlot(found->second.id, TakerFor(gpa)));
  } else {
    MemoryRegion region = RegionAt(gpa, found->second);
    region.size = 0;
    Expect(direct->vm->SetMemoryRegion(region));
  }
  direct->slots.erase(found);
}

// --- operations ---

void Tell(uint64_t gpa, uint64_t size) {
  Expect(direct->vm->InvalidateHostRange(HvaOf(gpa), size));
}

int SetRights(uint64_t gpa, uint64_t size, unsigned rights) {
  uint8_t access = static_cast<uint8_t>(rights & 7);
  if ((rights & TDPJ_X) != 0) access |= Access::UserExecute().raw();
  Expect(direct->vm->SetViewRights(direct->view, Gfn(gpa >> kPageShift), PageCount::FromBytes(size),
                                   Access::FromRaw(access)));
  return 0;
}

// Maps the range and the large pages at its ends, as far as there is memory for tables.
int Prefault(uint64_t gpa, uint64_t size) {
  const uint64_t begin = gpa & ~(MiB(2) - 1);
  const uint64_t end = std::min((gpa + size + MiB(2) - 1) & ~(MiB(2) - 1), kGuestBytes);
  for (uint64_t at = begin; at < end;) {
    if (!direct->host.Has(at)) {
      at += kPageSize;
      continue;
    }
    uint64_t run = at;
    while (run < end && direct->host.Has(run)) run += kPageSize;
    const absl::StatusOr<ByteCount> done = direct->vcpu->Prefault(Gpa(at), run - at);
    if (absl::IsResourceExhausted(done.status())) return -1;
    Expect(done.status());
    at += *done;
  }
  return 0;
}

int Map(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned) {
  const bool writable = direct->variant.view || (rights & TDPJ_W) != 0;
  direct->logged.Remove(gpa, gpa + size);
  direct->host.Put(gpa, hpa, size, writable);
  if (direct->variant.slots) {
    AddSlot(gpa, size, writable);
    return 0;
  }
  Tell(gpa, size);
  if (direct->variant.view) SetRights(gpa, size, rights);
  return direct->variant.prefaults ? Prefault(gpa, size) : 0;
}

int Unmap(uint64_t gpa, uint64_t size) {
  if (direct->variant.slots) {
    DeleteSlot(gpa);
  } else {
    Tell(gpa, size);
  }
  direct->logged.Remove(gpa, gpa + size);
  direct->host.Take(gpa, size);
  if (!direct->variant.slots) Tell(gpa, size);
  return direct->variant.prefaults ? Prefault(gpa, size) : 0;
}

int Protect(uint64_t gpa, uint64_t size, unsigned rights) {
  if (direct->variant.view) return SetRights(gpa, size, rights);
  const bool writable = (rights & TDPJ_W) != 0;
  direct->host.SetWritable(gpa, size, writable);
  if (direct->variant.slots) {
    DeleteSlot(gpa);
    AddSlot(gpa, size, writable);
    SwitchLogs();
    return 0;
  }
  Tell(gpa, size);
  return direct->variant.prefaults ? Prefault(gpa, size) : 0;
}

int Settle(absl::StatusOr<PendingFlush> flush) {
  if (absl::IsResourceExhausted(flush.status())) return -1;
  Expect(flush.status());
  flush->Settle();
  return 0;
}

int Split(uint64_t gpa, uint64_t size) {
  if (direct->variant.zaps) {
    absl::StatusOr<AgeResult> aged = direct->vm->AgeHostRange(HvaOf(gpa), size);
    Expect(aged.status());
    aged->flush.Settle();
    return 0;
  }
  return Settle(direct->vm->SplitRange(Gfn(gpa >> kPageShift), PageCount::FromBytes(size)));
}

int Merge(uint64_t gpa, uint64_t size) {
  const Gfn first(gpa >> kPageShift);
  if (direct->variant.zaps) {
    return Settle(size == kPageSize ? direct->vm->ZapAll()
                                    : direct->vm->ZapRange(first, PageCount::FromBytes(size)));
  }
  Expect(direct->vm->CollapseRange(first, PageCount::FromBytes(size)).status());
  return 0;
}

int Fault(uint64_t gpa, uint64_t qualification) {
  const FaultResult result =
      direct->vcpu->HandleEptViolation(Gpa(gpa), ExitQualification(qualification));
  if (result.outcome == FaultOutcome::kDirtyRingFull) TakeLog();
  return MayTryAgain(result) || result.outcome == FaultOutcome::kDirtyRingFull ? 1 : 0;
}

int Lookup(uint64_t gpa, uint64_t* hpa) {
  const absl::StatusOr<Translation> found = direct->vm->Translate(Gpa(gpa), 0, direct->view);
  if (!found.ok() || !found->is_mapped()) return 0;
  *hpa = found->FrameOf(Gfn(gpa >> kPageShift)).address().raw();
  return 1;
}

uint64_t Root() { return direct->vm->eptp(0, direct->view).raw(); }

void Enter() { direct->vcpu->EnterGuest().Leave(); }

int Create(const Variant& variant) {
  direct = std::make_unique<Direct>(variant);
  VmOptions options;
  variant.set(options);
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(direct->host, options);
  Expect(vm.status());
  direct->vm = *std::move(vm);
  if (variant.rings) Expect(direct->vm->EnableDirtyRing(kRingEntries));
  absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = direct->vm->CreateVcpu();
  Expect(vcpu.status());
  direct->vcpu = *std::move(vcpu);
  if (!variant.slots) AddSlot(0, kGuestBytes, true);
  if (variant.view) {
    const absl::StatusOr<ViewId> view = direct->vm->CreateView();
    Expect(view.status());
    direct->view = *view;
    Expect(direct->vcpu->SetView(*view));
  }
  Enter();
  return 0;
}

void Destroy() {
  Expect(direct->vm->CheckInvariants());
  direct.reset();
}

// --- the variants ---

void AsIs(VmOptions&) {}
void WriteProtects(VmOptions& options) {
  options.accessed_dirty = Use::kNever;
  options.dirty_tracking = DirtyTracking::kWriteProtection;
}

constexpr Variant kVariants[] = {
    {.name = "direct", .set = AsIs},
    {.name = "write-protected", .set = WriteProtects},
    {.name = "dirty-ring", .set = WriteProtects, .rings = true},
    {.name = "reverse-map",
     .set = [](VmOptions& options) { options.reverse_map = true; },
     .keeps_sizes = true},
    {.name = "slots", .set = AsIs, .slots = true},
    {.name = "view", .set = AsIs, .view = true},
    {.name = "prefault", .set = AsIs, .logs = false, .prefaults = true},
    {.name = "zaps", .set = WriteProtects, .zaps = true},
    {.name = "five-levels", .set = [](VmOptions& options) { options.ept_levels = 5; }},
    {.name = "execute-4k", .set = [](VmOptions& options) { options.execute_4k_only = true; }},
    {.name = "small-quota", .set = [](VmOptions& options) { options.table_quota = 600; }},
};
constexpr size_t kVariantCount = sizeof kVariants / sizeof kVariants[0];

tdpj_contract ContractOf(const Variant& variant) {
  tdpj_contract contract = {};
  contract.range = TDPJ_RANGE_ANY;
  contract.map_over = variant.slots ? TDPJ_OVER_FORBIDDEN : TDPJ_OVER_REPLACES;
  contract.flush = TDPJ_FLUSH_BY_ENTRY;
  contract.claims = TDPJ_FREES_ALL;
  if (!variant.prefaults) contract.claims |= TDPJ_DEMAND | TDPJ_ALL_OR_NOTHING;
  const int any_part = variant.slots ? 0 : 1;
  contract.unmap_hole = contract.unmap_part = any_part;
  contract.protect_hole = contract.protect_part = any_part;
  contract.max_order = 11;
  const unsigned char rights[] = {TDPJ_R | TDPJ_W | TDPJ_X, TDPJ_R | TDPJ_X, TDPJ_R | TDPJ_W,
                                  TDPJ_R};
  contract.rights_count = variant.view ? 4 : 2;
  for (int i = 0; i < contract.rights_count; ++i) contract.rights[i] = rights[i];
  contract.type_count = 1;
  contract.types[0] = 6;
  contract.gpa_limit = kGuestBytes;
  contract.hpa_limit = uint64_t{1} << 45;
  return contract;
}

template <size_t kIndex>
tdpj_subject SubjectOf() {
  constexpr const Variant& kVariant = kVariants[kIndex];
  tdpj_subject subject = {};
  subject.name = kVariant.name;
  subject.contract = ContractOf(kVariant);
  subject.create = [] { return Create(kVariants[kIndex]); };
  subject.destroy = Destroy;
  subject.eptp = Root;
  subject.map = Map;
  subject.unmap = Unmap;
  subject.protect = Protect;
  subject.lookup = Lookup;
  subject.before_entry = Enter;
  subject.fault = Fault;
  if (!kVariant.keeps_sizes) {
    subject.split = Split;
    subject.merge = Merge;
  }
  if (kVariant.logs) {
    subject.dirty_start = StartLog;
    subject.dirty_stop = StopLog;
    subject.dirty_harvest = Harvest;
  }
  return subject;
}

template <size_t... kIndex>
std::vector<tdpj_subject> SubjectsOf(std::index_sequence<kIndex...>) {
  return {SubjectOf<kIndex>()...};
}

}  // namespace

std::vector<tdpj_subject> DirectSubjects() {
  return SubjectsOf(std::make_index_sequence<kVariantCount>());
}

}  // namespace tdp::judge_test
