// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// After a guest kernel took something from its tables it owes a word to every CPU that may have
// cached it.

#ifndef TDP_TESTS_KERNEL_SHOOTDOWN_H_
#define TDP_TESTS_KERNEL_SHOOTDOWN_H_

#include <cstdint>
#include <vector>

#include "tests/kernel/referee.h"

namespace tdp::kernel {

inline constexpr int kSpaces = 5;

// Says which features the kernel uses.
struct KernelFeatures {
  bool global_pages = false;  // CR4.PGE
  bool pcids = false;         // CR4.PCIDE; 64-bit modes only
  bool large_direct_map = false;
};

class Shootdown {
 public:
  Shootdown(Referee& referee, const KernelFeatures& features)
      : referee_(referee),
        features_(features),
        current_(static_cast<size_t>(referee.cpus())),
        owed_(static_cast<size_t>(referee.cpus()), std::vector<bool>(kSpaces)) {}

  // Says whether the kernel forgets what it owes, and how it pays (any number).
  void Use(bool careless, unsigned how) {
    careless_ = careless;
    how_ = how;
  }

  // Lets `cpu` run `space`, whose tables are at `root`, from now on.
  void Switch(int cpu, int space, uint64_t root);
  int current(int cpu) const { return current_[static_cast<size_t>(cpu)]; }

  // Pays for the page at `gva` in `space`, whose translation is no longer what it was.
  void Page(int space, uint64_t gva) { Page(space, gva, how_); }
  // Pays for a page that may be large, so that INVLPG alone makes all of its pieces go.
  void LargePage(int space, uint64_t gva) { Page(space, gva, kByInvlpg); }
  // Pays for a translation in the kernel's region, which every space has.
  void KernelPage(uint64_t gva);
  // Pays for an entry above the tables of PAE paging.
  void Root(int space, uint64_t root);
  // Pays for the number of a dead address space, which will be used again.
  void Space(int space);
  // Flushes everything, on every CPU, whether careless or not.
  void Everything();

 private:
  uint64_t Cr3Of(int space, uint64_t root) const {
    return root | (features_.pcids ? static_cast<uint64_t>(space) + 1 : 0);
  }
  void Owe(int cpu, int space) {
    owed_[static_cast<size_t>(cpu)][static_cast<size_t>(space)] = true;
  }
  static constexpr unsigned kByInvlpg = 2;
  void Page(int space, uint64_t gva, unsigned how);
  void FlushCurrent(int cpu, uint64_t gva, unsigned how);

  Referee& referee_;
  const KernelFeatures features_;
  std::vector<int> current_;             // address space by CPU
  std::vector<std::vector<bool>> owed_;  // by CPU, address space: flush when it is next switched to
  bool careless_ = false;
  unsigned how_ = 0;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_SHOOTDOWN_H_
