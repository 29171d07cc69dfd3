// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/benchmarks/guest.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "tdp/base/check.h"

namespace tdp::bench {
namespace {

constexpr Hva kMemory{TiB(16)};
constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), true, true);

uint64_t* TableAt(Hpa hpa) { return reinterpret_cast<uint64_t*>(hpa.raw()); }

void ClearLeavesBelow(uint64_t* table, Level level) {
  if (level == kLevel4K) {
    std::memset(table, 0, kPageSize);
    return;
  }
  for (int i = 0; i < Level::kEntries; ++i) {
    const EptEntry entry(table[i]);
    if (entry.kind(level) == EntryKind::kTable) {
      ClearLeavesBelow(TableAt(entry.address()), level.below());
    } else if (entry.kind(level) == EntryKind::kLeaf) {
      table[i] = 0;
    }
  }
}

uint64_t CountTablesBelow(const uint64_t* table, Level level) {
  uint64_t tables = 1;
  for (int i = 0; level > kLevel4K && i < Level::kEntries; ++i) {
    const EptEntry entry(table[i]);
    if (entry.kind(level) == EntryKind::kTable) {
      tables += CountTablesBelow(TableAt(entry.address()), level.below());
    }
  }
  return tables;
}

}  // namespace

Guest::Guest(ByteCount bytes, int order, VmOptions options, uint32_t flags)
    : size(bytes), pages(bytes >> kPageShift), host(order) {
  vm = *Vm::Create(host, options);
  // A slot holds at most 2^31 - 1 pages: large guests get several.
  const ByteCount most = TiB(4);
  uint32_t slot = 0;
  for (ByteCount at = 0; at < bytes; at += most) {
    TDP_CHECK(vm->SetMemoryRegion({.slot = slot++,
                                   .flags = flags,
                                   .gpa = Gpa(at),
                                   .size = std::min(most, bytes - at),
                                   .hva = kMemory + at})
                  .ok());
  }
  vcpu = *vm->CreateVcpu();
}

void Guest::Fault(Vcpu& on, uint64_t gfn) {
  const FaultResult result = on.HandleEptViolation(Gfn(gfn).address(), kWrite);
  TDP_CHECK(result.outcome <= FaultOutcome::kSpurious);
}

void Guest::Populate(uint64_t step) {
  for (uint64_t gfn = 0; gfn < pages; gfn += step) Fault(gfn);
}

void Guest::ClearLeaves() {
  const Eptp eptp = vm->eptp();
  ClearLeavesBelow(TableAt(eptp.root()), eptp.root_level());
}

uint64_t Guest::CountTables() const {
  const Eptp eptp = vm->eptp();
  return CountTablesBelow(TableAt(eptp.root()), eptp.root_level());
}

std::vector<uint32_t> Shuffled(uint64_t n) {
  std::vector<uint32_t> order(n);
  for (uint32_t i = 0; i < n; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937_64(7));
  return order;
}

}  // namespace tdp::bench
