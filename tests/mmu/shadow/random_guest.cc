// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/mmu/shadow/random_guest.h"

#include <array>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::shadow_test {
namespace {

constexpr ByteCount kRamBytes = MiB(16);

sim::CpuConfig TinyCaches() {
  sim::CpuConfig cpu;
  cpu.caches = *sim::CachePreset("tiny");
  return cpu;
}

MachineOptions OptionsOf(const RandomGuestOptions& options) {
  MachineOptions machine;
  machine.vm = options.vm;
  machine.vm.shadow_page_quota = options.page_quota;
  machine.host_order = options.host_order;
  machine.ram = kRamBytes;
  machine.cpu = TinyCaches();
  machine.machine = options.machine;
  return machine;
}

std::string Text(const Seen& seen) {
  std::ostringstream out;
  PrintTo(seen, &out);
  return out.str();
}

}  // namespace

SimMachineOptions RandomGuest::UsedAgain() { return shadow_test::UsedAgain(TinyCaches()); }

RandomGuest::RandomGuest(const RandomGuestOptions& options, Choice choose)
    : options_(options), choose_(std::move(choose)), machine_(OptionsOf(options)) {
  FillTables();
  GuestCpu cpu = AnyCpu();
  while (machine_.Load(cpu) != GuestEvent::kNone) {
    // The load found a PDPTE with a reserved bit.
    FillTables();
    cpu = AnyCpu();
  }
}

// Chooses among few places, so that walks meet entries; in 4-byte tables these lie in every
// quadrant.
uint64_t RandomGuest::Index() {
  constexpr std::array<uint64_t, 8> kWide = {0, 1, 2, 3, 8, 9, 510, 511};
  constexpr std::array<uint64_t, 8> kNarrow = {0, 1, 2, 300, 511, 512, 513, 1023};
  return (is_narrow() ? kNarrow : kWide)[choose_(8)];
}

uint64_t RandomGuest::Entry() {
  if (Chance(3)) return 0;
  const uint64_t frame = Chance(65) ? 1 + choose_(kTables) : choose_(kFrames + 16);
  uint64_t entry = frame << kPageShift | Sometimes(guest::kPresent, 99) |
                   Sometimes(guest::kWrite, 85) | Sometimes(guest::kUser, 85) |
                   Sometimes(guest::kAccessed, 80) | Sometimes(guest::kDirty, 50) |
                   Sometimes(guest::kGlobal, 20);
  if (!is_narrow()) entry |= Sometimes(guest::kNoExecute, 8);
  if (Chance(12)) {
    entry |= guest::kLargePage;
    entry &= ~uint64_t{0x1ff000};
    if (is_narrow()) entry &= ~uint64_t{0x3ff000};
    if (Chance(30) && !is_narrow()) entry &= ~uint64_t{0x3ffff000};
  }
  if (Chance(1)) entry |= uint64_t{1} << choose_(is_narrow() ? 32 : 64);
  return entry;
}

Gva RandomGuest::Address() {
  const int bits = is_narrow() ? 10 : 9;
  const int linear = options_.mode == PagingMode::k4Level   ? 48
                     : options_.mode == PagingMode::k5Level ? 57
                                                            : 32;
  if (options_.mode == PagingMode::kNone) return Gva(choose_(kRamBytes + MiB(1)));
  uint64_t gva = choose_(kPageSize);
  for (int shift = kPageShift; shift < linear; shift += bits) gva |= Index() << shift;
  gva &= (uint64_t{1} << linear) - 1;
  if (linear < 64 && linear > 32 && (gva >> (linear - 1)) != 0) gva |= ~uint64_t{0} << linear;
  return Gva(gva);
}

Request RandomGuest::AnyRequest() {
  constexpr std::array<sim::AccessKind, 3> kKinds = {
      sim::AccessKind::kLoad, sim::AccessKind::kStore, sim::AccessKind::kFetch};
  return {Address(), kKinds[choose_(3)], Chance(40), Chance(30)};
}

void RandomGuest::FillTables() {
  for (uint64_t table = 1; table <= kTables; ++table) {
    for (int i = 0; i < 40; ++i) {
      const Gpa at((table << kPageShift) + Index() * entry_bytes());
      if (is_narrow()) {
        machine_.Poke(at, static_cast<uint32_t>(Entry()));
      } else {
        machine_.Poke(at, Entry());
      }
    }
  }
  if (options_.mode != PagingMode::kPae) return;
  // The PDPTEs stand in the first table.
  for (uint64_t i = 0; i < 4; ++i) {
    machine_.Poke(Gpa(kPageSize + i * 8),
                  (1 + choose_(kTables)) << kPageShift | (Chance(90) ? 1 : 0));
  }
}

GuestCpu RandomGuest::AnyCpu() {
  GuestCpu cpu = GuestIn(options_.mode);
  if (options_.mode == PagingMode::kNone) return cpu;
  cpu.cr3 = options_.mode == PagingMode::kPae ? kPageSize : TableGpa().raw();
  if (Chance(35)) cpu.cr0 &= ~sim::kCr0Wp;
  if (options_.smap_and_smep)
    cpu.cr4 |= Sometimes(sim::kCr4Smep, 40) | Sometimes(sim::kCr4Smap, 40);
  if (Chance(20)) cpu.efer &= ~sim::kEferNxe;
  return cpu;
}

// Compares what the guest sees at an address that it has just invalidated.
absl::Status RandomGuest::Compare(const Request& request, const char* after) {
  const Seen shadow = machine_.Access(request);
  const Seen reference = machine_.Reference(request);
  ++compared_;
  if (shadow.what == Seen::What::kMemory) ++reached_;
  if (shadow == reference) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "after %s, gva 0x%x kind %d user %d ac %d: %s on the shadow, %s on EPT (cr0 0x%x cr3 0x%x "
      "cr4 0x%x efer 0x%x; %s)",
      after, request.gva.raw(), static_cast<int>(request.kind), request.user, request.ac,
      Text(shadow), Text(reference), machine_.guest().cr0, machine_.guest().cr3,
      machine_.guest().cr4, machine_.guest().efer,
      absl::StrCat(PagingOutcomeName(machine_.last_fault().outcome), " ",
                   machine_.last_fault().status.ToString())));
}

// Stores into whatever the address maps: perhaps a table.
void RandomGuest::StoreThrough(const Request& request) {
  const uint64_t bytes = entry_bytes();
  Request store = request;
  store.gva = Gva((request.gva.raw() & ~kPageOffsetMask) | Index() * bytes % kPageSize);
  machine_.Store(store.gva, Entry(), bytes, store.user);
}

void RandomGuest::WriteTable() {
  const Gpa at(TableGpa() + Index() * entry_bytes() % kPageSize);
  const uint64_t entry = Entry();
  // A guest writes part of an entry, or more than one, now and then.
  const ByteCount bytes = Chance(90) ? entry_bytes() : ByteCount{1} << choose_(4);
  machine_.shadow()
      .EmulateWrite(at, bytes, [&](std::byte* place) { std::memcpy(place, &entry, bytes); })
      .IgnoreError();
}

// Returns whether anything was flushed: #GP has no effect.
bool RandomGuest::Flush() {
  if (Chance(30)) return machine_.Load(AnyCpu()) == GuestEvent::kNone;
  const bool same = options_.mode == PagingMode::kPae || Chance(50);
  const uint64_t cr3 = same ? machine_.guest().cr3 : TableGpa().raw();
  return machine_.WriteCr3(cr3) == GuestEvent::kNone;
}

absl::Status RandomGuest::HostStep() {
  if (!options_.host_changes) return absl::OkStatus();
  Vm& vm = machine_.vm();
  const Hva hva = Machine::kRam + choose_(kFrames - 8) * kPageSize;
  const ByteCount size = (1 + choose_(8)) * kPageSize;
  switch (choose_(7)) {
    case 0:
      return machine_.Migrate(hva, size);
    case 1:
      return machine_.Migrate(Machine::kRam, MiB(1));  // the tables too
    case 2: {
      logs_ = !logs_;
      return machine_.SetRam(0, Gpa(0), kRamBytes, Machine::kRam, logs_ ? kSlotLogDirtyPages : 0);
    }
    case 3:
      return logs_ ? vm.TakeDirtyLog(0, [](uint64_t, uint64_t) {}) : absl::OkStatus();
    case 4: {
      auto flush = vm.ZapAll();
      TDP_RETURN_IF_ERROR(flush.status());
      flush->Settle();
      return absl::OkStatus();
    }
    case 5: {
      auto age = vm.AgeHostRange(hva, size);
      TDP_RETURN_IF_ERROR(age.status());
      age->flush.Settle();
      return absl::OkStatus();
    }
    default: {
      TDP_RETURN_IF_ERROR(machine_.SetRam(0, Gpa(0), 0, Machine::kRam));
      logs_ = false;
      return machine_.SetRam(0, Gpa(0), kRamBytes, Machine::kRam);
    }
  }
}

absl::Status RandomGuest::Step() {
  const uint64_t what = choose_(100);
  if (what < 40) {
    const Request request = AnyRequest();
    machine_.Invlpg(request.gva);
    return Compare(request, "INVLPG");
  }
  if (what < 60) {
    machine_.Access(AnyRequest());  // may be stale: the guest has not flushed
  } else if (what < 77) {
    StoreThrough(AnyRequest());
  } else if (what < 83) {
    WriteTable();
  } else if (what < 95) {
    const bool flushed = Flush();
    for (int i = 0; flushed && i < 8; ++i) TDP_RETURN_IF_ERROR(Compare(AnyRequest(), "MOV to CR3"));
  } else {
    return HostStep();
  }
  return absl::OkStatus();
}

}  // namespace tdp::shadow_test
