// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/walker.h"

#include "tdp/mmu/engine/engine.h"

namespace tdp {

Walker::Walker(Vm& vm, AddressSpaceId space, ViewId view)
    : mmu_(vm.engine_->views(space)[view].mmu()),
      reader_(vm.engine_->mmu_lock()),
      section_(reader_) {}

}  // namespace tdp
