// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge sees EPT02 here, on which the guest (L2) of a hypervisor in the guest (L1) runs. It has
// to be the composition of two maps, of which now the one changes and now the other: EPT12, from
// L2's addresses to L1's, and the host's pages behind L1's.

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/judge/flat_map.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/judge/engine_answers.h"
#include "tests/judge/judged_host.h"
#include "tests/judge/vm_subjects.h"

namespace tdp::judge_test {
namespace {

// These lay out L2's memory, L1's tables, and L1's own memory, in which that of L2 lies.
constexpr uint64_t kL2Bytes = GiB(4);
constexpr uint64_t kTables = GiB(256);
constexpr uint64_t kTableBytes = MiB(16);
constexpr uint64_t kL1Memory = GiB(512);
constexpr uint64_t kL1Bytes = GiB(512);
constexpr uint32_t kTableSlot = 0;
constexpr uint32_t kMemorySlot = 1;

// Holds the sequence under way.
struct Nested {
  JudgedHost host;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  NestedContext context;
  std::map<uint64_t, uint64_t*> tables;  // of L1, by their addresses in L1
  uint64_t next_table = kTables;
  uint64_t next_memory = kL1Memory;
  std::map<uint64_t, uint64_t> l2_of;  // by page of L1: the page of L2 that EPT12 maps to it
  judge::RangeSet logged;              // of L2
  std::set<uint64_t> dirty;            // of L2
};
std::unique_ptr<Nested> nested;

NestedVcpu& Cpu() { return *nested->vcpu->nested(); }

// --- EPT12 ---

uint64_t AddTable() {
  uint64_t* const table = nested->host.AddGuestTable(nested->next_table);
  if (table == nullptr) return 0;
  nested->tables[nested->next_table] = table;
  const uint64_t gpa = nested->next_table;
  nested->next_table += kPageSize;
  return gpa;
}

// Returns the entry of `level` for `gpa`; null if a table is missing and cannot be made.
uint64_t* EntryOf(uint64_t gpa, int level, bool make) {
  uint64_t* table = nested->tables.at(kTables);
  for (int at = 4; at > level; --at) {
    uint64_t& entry = table[gpa >> (12 + 9 * (at - 1)) & 511];
    if (entry == 0) {
      const uint64_t next = make ? AddTable() : 0;
      if (next == 0) return nullptr;
      entry = next | ept::kRightsMask;
    }
    table = nested->tables.at(entry & ept::kAddressMask);
  }
  return &table[gpa >> (12 + 9 * (level - 1)) & 511];
}

// Returns L1's address of a page of L2; ~0 if EPT12 maps none.
uint64_t L1Of(uint64_t gpa) {
  const uint64_t* entry = EntryOf(gpa, 1, false);
  return entry == nullptr || *entry == 0 ? ~uint64_t{0} : *entry & ept::kAddressMask;
}

void SetEntry(uint64_t gpa, uint64_t entry) {
  uint64_t& place = *EntryOf(gpa, 1, true);
  if (place != 0) nested->l2_of.erase(place & ept::kAddressMask);
  place = entry;
  if (entry != 0) nested->l2_of[entry & ept::kAddressMask] = gpa;
}

// Flushes as an L1 does that took something away.
void InveptOfL1(uint64_t salt) {
  const bool all = (salt >> kPageShift) % 3 == 0;
  const absl::StatusOr<bool> done =
      Cpu().Invept(all ? 2 : 1, nested->context.eptp, nested->context.rules);
  Expect(done.status());
  if (!*done) tdpj_fatal("L1's INVEPT fails");
}

void TellHost(uint64_t l1) {
  Expect(nested->vm->InvalidateHostRange(Hva(JudgedHost::kStart + l1), kPageSize));
}

// --- the log ---

void TakeLog() {
  const auto take = [](uint64_t first, uint64_t mask) {
    for (int i = 0; i < 64; ++i) {
      if ((mask >> i & 1) == 0) continue;
      const auto page = nested->l2_of.find(kL1Memory + ((first + i) << kPageShift));
      if (page != nested->l2_of.end()) nested->dirty.insert(page->second);
    }
  };
  Expect(nested->vm->TakeDirtyLog(kMemorySlot, take));
}

void SetSlot(uint32_t slot, uint64_t gpa, uint64_t size, uint32_t flags) {
  Expect(nested->vm->SetMemoryRegion({.slot = slot,
                                      .flags = flags,
                                      .gpa = Gpa(gpa),
                                      .size = size,
                                      .hva = Hva(JudgedHost::kStart + gpa)}));
}

int StartLog(uint64_t gpa, uint64_t size) {
  if (nested->logged.ranges().empty())
    SetSlot(kMemorySlot, kL1Memory, kL1Bytes, kSlotLogDirtyPages);
  nested->logged.Add(gpa, gpa + size);
  return 0;
}

int StopLog(uint64_t gpa, uint64_t size) {
  TakeLog();
  nested->logged.Remove(gpa, gpa + size);
  if (nested->logged.ranges().empty()) SetSlot(kMemorySlot, kL1Memory, kL1Bytes, 0);
  return 0;
}

int Harvest(uint64_t gpa, uint64_t size, void (*page)(uint64_t)) {
  TakeLog();
  HarvestFrom(nested->dirty, gpa, size, page);
  return 0;
}

// --- operations ---

// Makes the tables that the range needs. Returns false without memory, and then no entry has
// changed.
bool MakeTables(uint64_t gpa, uint64_t size) {
  for (uint64_t at = gpa; at < gpa + size; at += kPageSize) {
    if (EntryOf(at, 1, true) == nullptr) return false;
  }
  return true;
}

// Gives every page another page of L1's, whose host page is the one asked for.
void MapByL1(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights) {
  // Half of the time the page is placed so that large pages fit.
  uint64_t l1 = nested->next_memory;
  if ((hpa >> kPageShift & 1) == 0) l1 = ((l1 + MiB(2) - 1) & ~(MiB(2) - 1)) | (gpa & (MiB(2) - 1));
  nested->next_memory = l1 + size;
  nested->host.Put(l1, hpa, size, true);
  for (uint64_t at = 0; at < size; at += kPageSize) {
    SetEntry(gpa + at, (l1 + at) | rights | uint64_t{6} << 3);
  }
  InveptOfL1(gpa);
}

// Leaves EPT12 as it is but for rights, while the host puts other pages behind L1's.
void MapByHost(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights) {
  for (uint64_t at = 0; at < size; at += kPageSize) {
    const uint64_t l1 = L1Of(gpa + at);
    nested->host.Put(l1, hpa + at, kPageSize, true);
    TellHost(l1);
    SetEntry(gpa + at, l1 | rights | uint64_t{6} << 3);
  }
  InveptOfL1(hpa);
}

int Map(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned) {
  if (!MakeTables(gpa, size)) return -1;
  if (nested->next_memory + 2 * (size + MiB(2)) > kL1Memory + kL1Bytes) return -1;
  bool all = true;
  for (uint64_t at = gpa; at < gpa + size && all; at += kPageSize) all = L1Of(at) != ~uint64_t{0};
  nested->logged.Remove(gpa, gpa + size);
  if (all && (gpa >> kPageShift) % 2 == 0) {
    MapByHost(gpa, hpa, size, rights);
  } else {
    MapByL1(gpa, hpa, size, rights);
  }
  return 0;
}

int Unmap(uint64_t gpa, uint64_t size) {
  const bool by_host = (gpa >> kPageShift) % 2 == 1;
  nested->logged.Remove(gpa, gpa + size);
  for (uint64_t at = gpa; at < gpa + size; at += kPageSize) {
    const uint64_t l1 = L1Of(at);
    if (l1 == ~uint64_t{0}) continue;
    if (by_host) {
      TellHost(l1);
      nested->host.Take(l1, kPageSize);
      TellHost(l1);
    } else {
      SetEntry(at, 0);
    }
  }
  InveptOfL1(gpa);
  return 0;
}

int Protect(uint64_t gpa, uint64_t size, unsigned rights) {
  for (uint64_t at = gpa; at < gpa + size; at += kPageSize) {
    const uint64_t l1 = L1Of(at);
    if (l1 == ~uint64_t{0} || !nested->host.Has(l1)) continue;
    // Either L1 or the host can take W.
    const bool by_host = (at >> kPageShift) % 3 == 0;
    const bool writable = (rights & TDPJ_W) != 0;
    nested->host.SetWritable(l1, kPageSize, writable || !by_host);
    if (by_host) TellHost(l1);
    const unsigned left = by_host && (rights & TDPJ_R) != 0 ? rights | TDPJ_W : rights;
    SetEntry(at, l1 | left | uint64_t{6} << 3);
  }
  InveptOfL1(gpa);
  return 0;
}

int Fault(uint64_t gpa, uint64_t qualification) {
  const NestedFaultResult result =
      Cpu().HandleViolation(Gpa(gpa), ExitQualification(qualification));
  if (result.outcome == NestedOutcome::kMisconfiguration ||
      result.outcome == NestedOutcome::kNoTable) {
    tdpj_fatal("L1's tables are taken for wrong ones");
  }
  return MayTryAgain(result) ? 1 : 0;
}

uint64_t Root() { return Cpu().eptp().raw(); }

void Enter() { nested->vcpu->EnterGuest().Leave(); }

int Create() {
  nested = std::make_unique<Nested>();
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(nested->host, {.nested = true});
  Expect(vm.status());
  nested->vm = *std::move(vm);
  SetSlot(kTableSlot, kTables, kTableBytes, 0);
  SetSlot(kMemorySlot, kL1Memory, kL1Bytes, 0);
  absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = nested->vm->CreateVcpu();
  Expect(vcpu.status());
  nested->vcpu = *std::move(vcpu);
  if (AddTable() == 0) return -1;
  nested->context.eptp = Eptp::Make(Hpa(kTables), 4, false);
  nested->context.rules.capabilities = nested->host.capabilities().ept;
  nested->context.rules.physical_address_bits = nested->host.capabilities().physical_address_bits;
  nested->context.vpid = 1;
  Expect(Cpu().Enter(nested->context));
  Enter();
  return 0;
}

void Destroy() {
  Expect(nested->vm->CheckInvariants());
  nested->vcpu.reset();
  nested->vm.reset();
  nested.reset();
}

}  // namespace

tdpj_subject NestedSubject() {
  tdpj_subject subject = {};
  subject.name = "nested";
  subject.contract.range = TDPJ_RANGE_ANY;
  subject.contract.map_over = TDPJ_OVER_REPLACES;
  subject.contract.flush = TDPJ_FLUSH_BY_ENTRY;
  subject.contract.claims = TDPJ_DEMAND | TDPJ_FREES_ALL | TDPJ_ALL_OR_NOTHING;
  subject.contract.unmap_hole = subject.contract.unmap_part = 1;
  subject.contract.protect_hole = subject.contract.protect_part = 1;
  subject.contract.max_order = 10;
  constexpr std::array<unsigned char, 5> kRights = {TDPJ_R | TDPJ_W | TDPJ_X, TDPJ_R | TDPJ_X,
                                                    TDPJ_R | TDPJ_W, TDPJ_R, TDPJ_X};
  subject.contract.rights_count = static_cast<int>(kRights.size());
  std::copy(kRights.begin(), kRights.end(), subject.contract.rights);
  subject.contract.gpa_limit = kL2Bytes;
  subject.contract.hpa_limit = uint64_t{1} << 45;
  subject.create = Create;
  subject.destroy = Destroy;
  subject.eptp = Root;
  subject.map = Map;
  subject.unmap = Unmap;
  subject.protect = Protect;
  subject.before_entry = Enter;
  subject.fault = Fault;
  subject.dirty_start = StartLog;
  subject.dirty_stop = StopLog;
  subject.dirty_harvest = Harvest;
  return subject;
}

}  // namespace tdp::judge_test
