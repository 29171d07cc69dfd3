// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/shootdown.h"

namespace tdp::kernel {
namespace {

constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;

}  // namespace

void Shootdown::Switch(int cpu, int space, uint64_t root) {
  const auto at = static_cast<size_t>(cpu);
  std::vector<bool>& owed = owed_[at];
  const bool keeps = features_.pcids && (careless_ || !owed[static_cast<size_t>(space)]);
  if (!keeps) owed[static_cast<size_t>(space)] = false;
  referee_.WriteCr3(cpu, Cr3Of(space, root) | (keeps ? kKeepTranslations : 0));
  current_[at] = space;
}

// Flushes by INVLPG, or by INVPCID of one address or of the whole PCID.
void Shootdown::FlushCurrent(int cpu, uint64_t gva, unsigned how) {
  const auto pcid = static_cast<uint16_t>(features_.pcids ? current(cpu) + 1 : 0);
  switch (how % 4) {
    case 0:
      return referee_.Invpcid(cpu, 0, pcid, gva);
    case 1:
      return referee_.Invpcid(cpu, 1, pcid, 0);
    default:
      return referee_.Invlpg(cpu, gva);
  }
}

void Shootdown::Page(int space, uint64_t gva, unsigned how) {
  if (careless_) return;
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    if (current(cpu) == space) {
      FlushCurrent(cpu, gva, how);
    } else if (features_.pcids && how % 8 == 5) {
      referee_.Invpcid(cpu, 0, static_cast<uint16_t>(space + 1), gva);
    } else {
      Owe(cpu, space);
    }
  }
}

void Shootdown::KernelPage(uint64_t gva) {
  if (careless_) return;
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    referee_.Invlpg(cpu, gva);
    for (int space = 0; space < kSpaces; ++space) {
      if (space != current(cpu)) Owe(cpu, space);
    }
  }
}

void Shootdown::Root(int space, uint64_t root) {
  if (careless_) return;
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    if (current(cpu) == space) referee_.WriteCr3(cpu, Cr3Of(space, root));
  }
}

void Shootdown::Space(int space) {
  if (careless_) return;
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) Owe(cpu, space);
}

void Shootdown::Everything() {
  for (int cpu = 0; cpu < referee_.cpus(); ++cpu) {
    if (how_ % 2 == 0) {
      referee_.Invpcid(cpu, 2, 0, 0);
    } else {
      const uint64_t cr4 = referee_.registers(cpu).cr4;
      referee_.WriteCr4(cpu, cr4 ^ sim::kCr4Pge);
      referee_.WriteCr4(cpu, cr4);
    }
    owed_[static_cast<size_t>(cpu)].assign(kSpaces, false);
  }
}

}  // namespace tdp::kernel
