// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Many lookups in a row, inline: so this header alone of those in mmu/ brings parts of the engine.

#ifndef TDP_MMU_WALKER_H_
#define TDP_MMU_WALKER_H_

#include "tdp/base/address.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/vm.h"

namespace tdp {

// Holds the readers' side of the tables while it lives: lookups cost a walk and nothing else, and
// what one of them found is still there for the next. Structural operations wait meanwhile, so keep
// it short and block on nothing.
class Walker {
 public:
  // `space` is one that the VM has, `view` one of its views.
  explicit Walker(Vm& vm, AddressSpaceId space = 0, ViewId view = kBaseView);

  // Returns what the tables say of `gfn`, which lies within the guest's width. Changes no A or D
  // bit.
  Translation Walk(Gfn gfn) const { return mmu_.Walk(gfn); }

 private:
  const DirectMmu& mmu_;
  MmuLock::Reader reader_;
  MmuReadSection section_;
};

}  // namespace tdp

#endif  // TDP_MMU_WALKER_H_
