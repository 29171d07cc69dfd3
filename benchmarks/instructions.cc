// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Operations to be counted, one row of the table after another: scripts/instructions.py runs this
// program under valgrind, which collects inside `tdp_measured` alone and writes one dump at the end
// of each call of it. The program says on its output which row each dump is of and how many items
// it did; by itself it measures nothing. What stands in tdp::bench is the harness and is not
// counted.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/functional/function_ref.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/benchmarks/paged_guest.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/walker.h"

// The one function in which valgrind collects; it is called once a row. It is C's so that its name
// on valgrind's command line is plain.
extern "C" ABSL_ATTRIBUTE_NOINLINE void tdp_measured(uint64_t items,
                                                     absl::FunctionRef<void(uint64_t)> item) {
  for (uint64_t i = 0; i < items; ++i) item(i);
}

namespace tdp {
namespace measured {

// Inline members of the engine, as calls of their own: inlined into the harness they would count
// as part of it.
ABSL_ATTRIBUTE_NOINLINE bool FindSlot(SlotReader& reader, uint64_t gfn) {
  return reader.Find(0, Gfn(gfn)) != nullptr;
}
ABSL_ATTRIBUTE_NOINLINE uint64_t Walk(const Walker& walker, uint64_t gfn) {
  return walker.Walk(Gfn(gfn)).entry.raw();
}
ABSL_ATTRIBUTE_NOINLINE void EnterAndLeave(Vcpu& vcpu) { vcpu.EnterGuest().Leave(); }

}  // namespace measured

namespace bench {
namespace {

constexpr ByteCount kSize = MiB(32);
constexpr Hva kMemory{TiB(16)};
constexpr auto kWriteToReadOnly =
    ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);

// The order is that of the output.
template <typename Item>
void Row(std::string_view name, uint64_t items, const Item& item) {
  tdp_measured(items, item);
  std::printf("%.*s\t%llu\n", static_cast<int>(name.size()), name.data(),
              static_cast<unsigned long long>(items));
}

VmOptions SmallLeaves() { return {.max_leaf_level = kLevel4K}; }

MemoryRegion Region(const Guest& guest, uint32_t flags) {
  return {.flags = flags, .gpa = Gpa(0), .size = guest.size, .hva = kMemory};
}

void Faults() {
  Guest guest(kSize, 0, SmallLeaves());
  const std::vector<uint32_t> order = Shuffled(guest.pages);
  guest.Populate();
  guest.ClearLeaves();
  Row("fault/sequential", guest.pages, [&](uint64_t i) { guest.Fault(i); });
  Row("spurious/hot", guest.pages, [&](uint64_t i) { guest.Fault(1234 + (i & 1)); });
  Row("spurious/random", guest.pages, [&](uint64_t i) { guest.Fault(order[i]); });
  guest.ClearLeaves();
  Row("fault/random", guest.pages, [&](uint64_t i) { guest.Fault(order[i]); });
  Row("zap_range/a_page", guest.pages, [&](uint64_t i) {
    if (i == 0) guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
  });
  Row("fault/tables_made", guest.pages, [&](uint64_t i) { guest.Fault(i); });
  guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
  Row("prefault/a_page", guest.pages, [&](uint64_t i) {
    if (i == 0) TDP_CHECK(guest.vcpu->Prefault(Gpa(0), guest.size).ok());
  });
  const Walker walker(*guest.vm);
  Row("walk/hot", guest.pages, [&](uint64_t i) { measured::Walk(walker, 1234 + (i & 1)); });
}

void LargeFaults() {
  Guest guest(GiB(4), 9);
  const uint64_t leaves = guest.pages / 512;
  guest.Populate(512);
  guest.ClearLeaves();
  Row("fault/2M", leaves, [&](uint64_t i) { guest.Fault(i * 512); });
  Row("split/2M", leaves, [&](uint64_t i) {
    if (i == 0) guest.vm->SplitRange(Gfn(0), PageCount(leaves * 512))->Settle();
  });
  Row("collapse/2M", leaves, [&](uint64_t i) {
    if (i == 0) TDP_CHECK(guest.vm->CollapseRange(Gfn(0), PageCount(leaves * 512)).ok());
  });
}

// A hypervisor of the thin kind, which maps all of the machine to itself before anything runs: the
// whole call is one item.
void IdentityMaps() {
  constexpr ByteCount kAll = GiB(512);
  ArithmeticHost host(0);
  const std::unique_ptr<Vm> vm = *Vm::Create(host);
  TDP_CHECK(vm->SetMemoryRegion({.flags = kSlotHostFrames, .gpa = Gpa(0), .size = kAll}).ok());
  Row("populate/identity_512G", 1,
      [&](uint64_t) { TDP_CHECK(*vm->Populate(Gpa(0), kAll) == kAll); });
  TDP_CHECK(vm->Stats().table_bytes_reserved == kTableBlockBytes);
}

void OtherFaults() {
  {
    VmOptions options = SmallLeaves();
    options.reverse_map = true;
    Guest guest(kSize, 0, options);
    guest.Populate();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    Row("fault/reverse_map", guest.pages, [&](uint64_t i) { guest.Fault(i); });
    Row("zap_range/reverse_map_a_page", guest.pages, [&](uint64_t i) {
      if (i == 0) guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    });
  }
  Guest guest(kSize, 0, SmallLeaves());
  const Gpa device(kSize + MiB(2));
  Row("mmio/violation", 1000, [&](uint64_t) {
    TDP_CHECK(guest.vcpu->HandleEptViolation(device, ExitQualification(1)).outcome ==
              FaultOutcome::kMmio);
  });
  Row("mmio/misconfiguration", 1000, [&](uint64_t) {
    TDP_CHECK(guest.vcpu->HandleEptMisconfiguration(device).outcome == FaultOutcome::kMmio);
  });
  Row("enter_guest", 1000, [&](uint64_t) { measured::EnterAndLeave(*guest.vcpu); });
}

void Logs() {
  VmOptions options = SmallLeaves();
  options.dirty_tracking = DirtyTracking::kWriteProtection;
  Guest guest(kSize, 0, options, kSlotLogDirtyPages);
  guest.Populate();
  const auto write = [&](uint64_t gfn) {
    TDP_CHECK(guest.vcpu->HandleEptViolation(Gfn(gfn).address(), kWriteToReadOnly).outcome ==
              FaultOutcome::kFixed);
  };
  TDP_CHECK(guest.vm->SetMemoryRegion(Region(guest, 0)).ok());
  Row("log/enable", 1, [&](uint64_t) {
    TDP_CHECK(guest.vm->SetMemoryRegion(Region(guest, kSlotLogDirtyPages)).ok());
  });
  for (uint64_t gfn = 0; gfn < guest.pages; gfn += 512) write(gfn);
  Row("fault/write_lifts_protection", guest.pages / 512 * 511,
      [&](uint64_t i) { write(i / 511 * 512 + i % 511 + 1); });
  Row("log/take_a_page", guest.pages, [&](uint64_t i) {
    if (i == 0) TDP_CHECK(guest.vm->TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok());
  });
  Row("log/mark_dirty", 1000,
      [&](uint64_t i) { TDP_CHECK(guest.vm->MarkDirty(Gfn(i).address(), kPageSize).ok()); });
}

void SparseHarvest() {
  Guest guest(GiB(64), 0, {.dirty_tracking = DirtyTracking::kDirtyBits}, kSlotLogDirtyPages);
  constexpr uint64_t kStep = uint64_t{64} * Level::kEntries;
  guest.Populate(kStep);
  const auto take = [&] { TDP_CHECK(guest.vm->TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok()); };
  for (int i = 0; i < 2; ++i) take();
  // A write fault of a page that is there: the CPU's A bits above it are set by hand.
  const Eptp eptp = guest.vm->eptp();
  const auto write = [&](uint64_t gfn) {
    uint64_t table = eptp.root().raw();
    for (Level level = eptp.root_level();; level = level.below()) {
      uint64_t& entry = reinterpret_cast<uint64_t*>(table)[level.IndexOf(Gfn(gfn))];
      entry |= level == kLevel4K ? ept::kDirty : ept::kAccessed;
      if (level == kLevel4K) break;
      table = EptEntry(entry).address().raw();
    }
  };
  // The first that comes to a table learns which of its lines are in use.
  for (const char* name : {"log/first_harvest_a_table", "log/harvest_sparse_a_table"}) {
    for (uint64_t gfn = 0; gfn < guest.pages; gfn += kStep) write(gfn);
    Row(name, guest.pages / kStep, [&](uint64_t i) {
      if (i == 0) take();
    });
  }
}

void Zaps() {
  Guest guest(kSize, 0, SmallLeaves());
  guest.Populate();
  // Each leaves its tables something, as single pages do. The first zap stocks tables for splits.
  guest.vm->ZapRange(Gfn(4095), PageCount(1))->Settle();
  Row("zap_page", 1000, [&](uint64_t i) { guest.vm->ZapRange(Gfn(i), PageCount(1))->Settle(); });
  Row("invalidate_host_page", 1000, [&](uint64_t i) {
    TDP_CHECK(guest.vm->InvalidateHostRange(kMemory + (2000 + i) * kPageSize, kPageSize).ok());
  });
  Row("invalidate_begin_end", 1000, [&](uint64_t i) {
    const Hva page = kMemory + (3000 + i) * kPageSize;
    TDP_CHECK(guest.vm->BeginHostInvalidation(page, kPageSize).ok());
    guest.vm->EndHostInvalidation();
  });
  Row("age/a_page", 1024, [&](uint64_t i) {
    if (i != 0) return;
    const auto aged = guest.vm->AgeHostRange(kMemory + 4096 * kPageSize, 1024 * kPageSize);
    TDP_CHECK(aged.ok());
  });
  Row("zap_all", 1, [&](uint64_t) { guest.vm->ZapAll()->Settle(); });
}

// Beside vCPUs that have used the tables once and do nothing any more.
void ZapsBesideIdleVcpus(size_t idle, std::string_view name) {
  Guest guest(kSize, 0, SmallLeaves());
  guest.Populate();
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (size_t i = 0; i < idle; ++i) {
    vcpus.push_back(*guest.vm->CreateVcpu());
    guest.Fault(*vcpus.back(), 0);
    measured::EnterAndLeave(*vcpus.back());
  }
  const auto zap = [&](uint64_t i) { guest.vm->ZapRange(Gfn(i), PageCount(1))->Settle(); };
  for (uint64_t i = 0; i < 64; ++i) zap(4095 - 2 * i);
  Row(name, 1000, zap);
}

// Sixteen pages each, sixteen apart.
MemoryRegion SlotAt(uint32_t id, uint64_t place) {
  return {.slot = id,
          .gpa = Gfn(place * 32).address(),
          .size = 16 * kPageSize,
          .hva = kMemory + id * MiB(1)};
}

void SlotChanges(uint32_t slots, std::string_view create_name, std::string_view delete_name) {
  MinimalBackend host;
  const std::unique_ptr<Vm> vm = *Vm::Create(host);
  for (uint32_t id = 1; id < slots; ++id) TDP_CHECK(vm->SetMemoryRegion(SlotAt(id, id)).ok());
  MemoryRegion create = SlotAt(0, slots / 2);
  create.gpa = create.gpa + 16 * kPageSize;
  MemoryRegion remove = create;
  remove.size = 0;
  TDP_CHECK(vm->SetMemoryRegion(create).ok() && vm->SetMemoryRegion(remove).ok());
  Row(create_name, 1, [&](uint64_t) { TDP_CHECK(vm->SetMemoryRegion(create).ok()); });
  Row(delete_name, 1, [&](uint64_t) { TDP_CHECK(vm->SetMemoryRegion(remove).ok()); });
}

void SlotLookups(uint32_t slots, std::string_view name) {
  SlotSet set(SlotLimits{});
  for (uint32_t id = 0; id < slots; ++id) {
    absl::StatusOr<SlotUpdate> update = set.Prepare(SlotAt(id, id));
    TDP_CHECK(update.ok());
    set.Publish(*std::move(update));
  }
  SlotReader reader(set);
  std::mt19937_64 random(1);
  std::vector<uint64_t> frames(4096);
  for (uint64_t& gfn : frames) gfn = random() % slots * 32 + random() % 16;
  Row(name, frames.size(), [&](uint64_t i) { TDP_CHECK(measured::FindSlot(reader, frames[i])); });
  if (slots == 512) {
    Row("slot_lookup/hit", 1000,
        [&](uint64_t i) { TDP_CHECK(measured::FindSlot(reader, 7 * 32 + (i & 15))); });
  }
}

void GuestsWithTables() {
  PagedGuest walked;
  for (uint64_t i = 0; i < 512; ++i) walked.Walk(Gva(i << kPageShift));
  Row("gva_to_gpa/hot", 512, [&](uint64_t i) { walked.Walk(Gva(i << kPageShift)); });
  ShadowedGuest apart(ShadowedGuest::Frames::kApart);
  for (uint64_t i = 0; i < 4096; ++i) apart.Fault(i);
  apart.TakePages();
  Row("shadow_fault/a_call", 4096, [&](uint64_t i) { apart.Fault(i); });
  // The first round makes the pages of the tables, the second brings all neighbours.
  ShadowedGuest in_a_row(ShadowedGuest::Frames::kInARow);
  in_a_row.FaultAll();
  in_a_row.TakePages();
  Row("shadow_fault/a_page", 4096, [&](uint64_t i) {
    if (i % in_a_row.pages_per_fault() == 0) in_a_row.Fault(i);
  });
}

void AllRows() {
  Faults();
  LargeFaults();
  OtherFaults();
  Logs();
  SparseHarvest();
  Zaps();
  ZapsBesideIdleVcpus(64, "zap_page/64_idle_vcpus");
  ZapsBesideIdleVcpus(1024, "zap_page/1024_idle_vcpus");
  SlotChanges(32, "slot_create/32", "slot_delete/32");
  SlotChanges(512, "slot_create/512", "slot_delete/512");
  SlotLookups(32, "slot_lookup/random_32");
  SlotLookups(512, "slot_lookup/random_512");
  GuestsWithTables();
  IdentityMaps();
}

}  // namespace
}  // namespace bench
}  // namespace tdp

int main() { tdp::bench::AllRows(); }
