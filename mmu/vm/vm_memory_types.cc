// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm::SetMemoryTypes`.

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/policy/memory_types.h"
#include "tdp/mmu/vm.h"

namespace tdp {

absl::Status Vm::SetMemoryTypes(const GuestMemoryTypes& types) {
  TDP_ASSIGN_OR_RETURN(MemoryTypeMap by_mtrrs, MemoryTypeMap::Make(types.mtrrs));
  std::unique_ptr<const MemoryTypeMap> map;
  if (types.non_coherent_dma) {
    TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kMemoryTypes));
    map = std::make_unique<const MemoryTypeMap>(
        types.caches_disabled ? MemoryTypeMap::Uniform(MemoryType::kUncacheable)
                              : std::move(by_mtrrs));
  }
  MutexLock lock(engine_->slots_mutex());
  // Faults under way have made their leaves by the old types: the sequence turns them back.
  PendingFlush flush = engine_->ZapEverywhere(Gfn(0), engine_->mmu(0).end(), [&] {
    engine_->ForEachSpace([&](AddressSpace& space) {
      space.views().ForEach(
          [&](View& view) { view.policy().set_types(map.get(), types.caches_disabled); });
    });
    engine_->sequence().Move();
  });
  engine_->SwapMemoryTypes(map);
  flush.Settle();
  return absl::OkStatus();
}

}  // namespace tdp
