// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The checker behind `Vm::CheckInvariants`.

#ifndef TDP_MMU_ENGINE_INVARIANTS_H_
#define TDP_MMU_ENGINE_INVARIANTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/policy/leaf_policy.h"

namespace tdp {

// A leaf as the walk found it.
struct MappedLeaf {
  AddressSpaceId space;
  ViewId view;
  Level level;
  Gfn gfn;  // the first frame
  MemorySlot slot;
  Backing backing;  // of memory that the host has
  Hfn frame;        // what it maps there
};

// Returns OK, or Internal with the first thing that does not hold. Every leaf goes to `leaves`. The
// caller holds the slots mutex and the writer side of `MmuLock`.
absl::Status CheckEngineInvariants(Engine& engine, std::vector<MappedLeaf>& leaves);

// Asks the host for the frame behind each leaf. Internal, naming the leaf, where it gives another
// one, or none, though nothing has changed since the change sequence was `sequence`. Hold no lock.
absl::Status CheckHostFrames(Engine& engine, absl::Span<const MappedLeaf> leaves,
                             uint64_t sequence);

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_INVARIANTS_H_
