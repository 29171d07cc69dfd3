// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge sees the tables here that shadow a guest's own paging: those to which CR3 points have
// to be the composition of the guest's tables, from linear to guest-physical addresses, and the
// host's pages. The guest writes its tables as guests do: it stores where its shadow lets it,
// faults and is emulated where not, and executes INVLPG where it took something away.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"
#include "tdp/mmu/vm.h"
#include "tests/judge/engine_answers.h"
#include "tests/judge/judged_host.h"
#include "tests/judge/vm_subjects.h"

namespace tdp::judge_test {
namespace {

// These lay out the memory that the judge maps, and where the guest sees its tables, at n *
// kPageSize for the n-th of them.
constexpr uint64_t kLinearBytes = GiB(4);
constexpr uint64_t kTableWindow = uint64_t{1} << 46;
constexpr uint64_t kTables = GiB(256);
constexpr uint64_t kTableBytes = MiB(16);
constexpr uint64_t kMemory = GiB(512);
constexpr uint64_t kMemoryBytes = GiB(512);
constexpr uint64_t kTableRights = guest::kPresent | guest::kWrite | guest::kUser;
constexpr uint32_t kWriteFault = 3;  // the page is there; a write

// Holds the sequence under way.
struct Shadowed {
  JudgedHost host{true};
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  std::map<uint64_t, uint64_t*> tables;  // by guest-physical address
  uint64_t next_table = kTables;
  uint64_t next_memory = kMemory;
  bool runs = false;  // CR3 is loaded
};
std::unique_ptr<Shadowed> shadowed;

ShadowVcpu& Cpu() { return *shadowed->vcpu->shadow(); }

void Enter() { shadowed->vcpu->EnterGuest().Leave(); }

// --- the guest's stores to its tables ---

// Writes an entry as the guest, at an address of its window.
void Store(uint64_t table, uint64_t index, uint64_t entry) {
  uint64_t* const place = &shadowed->tables.at(table)[index];
  if (!shadowed->runs) {
    *place = entry;
    return;
  }
  const Gva gva(kTableWindow + (table - kTables) + 8 * index);
  for (int i = 0; i < 8; ++i) {
    const ShadowVcpuImpl::Found found = Cpu().impl().Look(gva);
    if (found.entry.is_present() && found.entry.is_writable()) {
      *place = entry;
      return;
    }
    const PagingFaultResult result =
        Cpu().HandlePageFault(gva, found.entry.is_present() ? kWriteFault : kWriteFault - 1);
    if (result.outcome != PagingOutcome::kEmulateWrite) continue;
    Expect(Cpu().EmulateWrite(result.gpa, 8,
                              [&](std::byte* at) { std::memcpy(at, &entry, sizeof entry); }));
    return;
  }
  tdpj_fatal("the guest cannot write its table");
}

// Names the place of an entry of level 1; table 0: there is none.
struct Place {
  uint64_t table = 0;
  uint64_t index = 0;
};

uint64_t AddTable();

Place LeafOf(uint64_t linear, bool make) {
  uint64_t table = kTables;
  for (int level = 4; level > 1; --level) {
    const uint64_t index = linear >> (12 + 9 * (level - 1)) & 511;
    const uint64_t entry = shadowed->tables.at(table)[index];
    uint64_t next = entry & guest::kAddressMask;
    if (entry == 0) {
      next = make ? AddTable() : 0;
      if (next == 0) return {};
      Store(table, index, next | kTableRights);
    }
    table = next;
  }
  return {table, linear >> kPageShift & 511};
}

uint64_t EntryAt(uint64_t linear) {
  const Place place = LeafOf(linear, false);
  return place.table == 0 ? 0 : shadowed->tables.at(place.table)[place.index];
}

// Makes a table, and the guest's view of it.
uint64_t AddTable() {
  const uint64_t gpa = shadowed->next_table;
  uint64_t* const table = shadowed->host.AddGuestTable(gpa);
  if (table == nullptr) return 0;
  shadowed->next_table += kPageSize;
  shadowed->tables[gpa] = table;
  return gpa;
}

// Makes the window's own tables, before the guest runs: 512 tables are seen through one of level 1.
void MakeWindow() {
  const uint64_t root = AddTable();
  const uint64_t directory_pointers = AddTable();
  const uint64_t directory = AddTable();
  const uint64_t window = AddTable();
  shadowed->tables[root][kTableWindow >> 39 & 511] = directory_pointers | kTableRights;
  shadowed->tables[directory_pointers][0] = directory | kTableRights;
  shadowed->tables[directory][0] = window | kTableRights;
  for (uint64_t i = 0; i < 512; ++i) {
    shadowed->tables[window][i] =
        (kTables + i * kPageSize) | kTableRights | guest::kAccessed | guest::kDirty;
  }
}

// --- operations ---

uint64_t BitsOf(unsigned rights) {
  return guest::kPresent | guest::kUser | guest::kAccessed | guest::kDirty |
         ((rights & TDPJ_W) != 0 ? guest::kWrite : 0) |
         ((rights & TDPJ_X) != 0 ? 0 : guest::kNoExecute);
}

void Set(uint64_t linear, uint64_t entry) {
  const Place place = LeafOf(linear, true);
  Store(place.table, place.index, entry);
  Expect(Cpu().Invlpg(Gva(linear)));
}

void TellHost(uint64_t gpa) {
  Expect(shadowed->vm->InvalidateHostRange(Hva(JudgedHost::kStart + gpa), kPageSize));
}

int Map(uint64_t linear, uint64_t hpa, uint64_t size, unsigned rights, unsigned) {
  for (uint64_t at = linear; at < linear + size; at += kPageSize) {
    if (LeafOf(at, true).table == 0) return -1;
  }
  bool all = true;
  for (uint64_t at = linear; at < linear + size && all; at += kPageSize) all = EntryAt(at) != 0;
  // Either the guest's tables change, or the host's pages behind them do.
  const bool by_host = all && (linear >> kPageShift) % 2 == 0;
  const uint64_t fresh = shadowed->next_memory;
  if (fresh + size > kMemory + kMemoryBytes) return -1;
  if (!by_host) {
    shadowed->next_memory += size;
    shadowed->host.Put(fresh, hpa, size, true);
  }
  for (uint64_t at = 0; at < size; at += kPageSize) {
    uint64_t gpa = fresh + at;
    if (by_host) {
      gpa = EntryAt(linear + at) & guest::kAddressMask;
      shadowed->host.Put(gpa, hpa + at, kPageSize, true);
      TellHost(gpa);
    }
    Set(linear + at, gpa | BitsOf(rights));
  }
  return 0;
}

int Unmap(uint64_t linear, uint64_t size) {
  const bool by_host = (linear >> kPageShift) % 2 == 1;
  for (uint64_t at = linear; at < linear + size; at += kPageSize) {
    const uint64_t entry = EntryAt(at);
    if (entry == 0) continue;
    if (by_host) {
      const uint64_t gpa = entry & guest::kAddressMask;
      shadowed->host.Take(gpa, kPageSize);
      TellHost(gpa);
    } else {
      Set(at, 0);
    }
  }
  return 0;
}

int Protect(uint64_t linear, uint64_t size, unsigned rights) {
  for (uint64_t at = linear; at < linear + size; at += kPageSize) {
    const uint64_t entry = EntryAt(at);
    const uint64_t gpa = entry & guest::kAddressMask;
    if (entry == 0 || !shadowed->host.Has(gpa)) continue;
    const bool by_host = (at >> kPageShift) % 3 == 0;
    shadowed->host.SetWritable(gpa, kPageSize, (rights & TDPJ_W) != 0 || !by_host);
    if (by_host) TellHost(gpa);
    Set(at, gpa | BitsOf(by_host ? rights | TDPJ_W : rights));
  }
  return 0;
}

int Fault(uint64_t linear, uint64_t error_code) {
  const PagingFaultResult result =
      Cpu().HandlePageFault(Gva(linear), static_cast<uint32_t>(error_code));
  if (result.outcome == PagingOutcome::kNoTable) tdpj_fatal("a table of the guest is not found");
  return MayTryAgain(result) ? 1 : 0;
}

uint64_t Root() { return Cpu().registers().cr3; }

void SetSlot(uint32_t slot, uint64_t gpa, uint64_t size) {
  Expect(shadowed->vm->SetMemoryRegion(
      {.slot = slot, .gpa = Gpa(gpa), .size = size, .hva = Hva(JudgedHost::kStart + gpa)}));
}

int Create() {
  shadowed = std::make_unique<Shadowed>();
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(shadowed->host, {.paging = Paging::kShadow});
  Expect(vm.status());
  shadowed->vm = *std::move(vm);
  SetSlot(0, kTables, kTableBytes);
  SetSlot(1, kMemory, kMemoryBytes);
  absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = shadowed->vm->CreateVcpu();
  Expect(vcpu.status());
  shadowed->vcpu = *std::move(vcpu);
  MakeWindow();
  const GuestControls controls = {
      .cr0 = guest::kCr0ProtectionEnable | guest::kCr0Paging | guest::kCr0WriteProtect,
      .cr4 = guest::kCr4PhysicalAddressExtension,
      .efer = guest::kEferLongModeEnable | guest::kEferLongModeActive | guest::kEferNoExecute};
  Expect(Cpu().SetPaging(controls, kTables).status());
  shadowed->runs = true;
  Enter();
  return 0;
}

void Destroy() {
  Expect(shadowed->vm->CheckInvariants());
  shadowed->vcpu.reset();
  shadowed->vm.reset();
  shadowed.reset();
}

}  // namespace

tdpj_subject ShadowSubject() {
  tdpj_subject subject = {};
  subject.name = "shadow";
  subject.contract.format = TDPJ_FORMAT_CR3;
  subject.contract.range = TDPJ_RANGE_ANY;
  subject.contract.map_over = TDPJ_OVER_REPLACES;
  subject.contract.flush = TDPJ_FLUSH_BY_ENTRY;
  subject.contract.claims = TDPJ_DEMAND | TDPJ_FREES_ALL;
  subject.contract.unmap_hole = subject.contract.unmap_part = 1;
  subject.contract.protect_hole = subject.contract.protect_part = 1;
  subject.contract.max_order = 9;
  constexpr std::array<unsigned char, 4> kRights = {TDPJ_R | TDPJ_W | TDPJ_X, TDPJ_R | TDPJ_X,
                                                    TDPJ_R | TDPJ_W, TDPJ_R};
  subject.contract.rights_count = static_cast<int>(kRights.size());
  std::copy(kRights.begin(), kRights.end(), subject.contract.rights);
  subject.contract.gpa_limit = kLinearBytes;
  subject.contract.hpa_limit = uint64_t{1} << 45;
  subject.create = Create;
  subject.destroy = Destroy;
  subject.eptp = Root;
  subject.map = Map;
  subject.unmap = Unmap;
  subject.protect = Protect;
  subject.before_entry = Enter;
  subject.fault = Fault;
  return subject;
}

}  // namespace tdp::judge_test
