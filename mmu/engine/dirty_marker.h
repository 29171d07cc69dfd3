// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Marks pages that no vCPU wrote, but the VMM or a device.

#ifndef TDP_MMU_ENGINE_DIRTY_MARKER_H_
#define TDP_MMU_ENGINE_DIRTY_MARKER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

// Marks ranges of one address space in the logs of their slots, with rings in the logs of what no
// ring has. Any thread may use one, and needs no lock: a slot that is found inside a section keeps
// its state until the section is over, and a shared pointer keeps the log for longer. So memory for
// the log is allocated outside every section, and the mark is made there too.
class DirtyMarker {
 public:
  DirtyMarker(Engine& engine, AddressSpaceId space)
      : space_(space), reader_(engine.mmu_lock()), slots_(engine.slots()) {}

  // Marks the frames [first, end), as far as slots log them. ResourceExhausted without memory.
  absl::Status Mark(Gfn first, Gfn end);

 private:
  // Frames of one slot.
  struct Part {
    Gfn first;
    Gfn end;
    uint64_t index = 0;             // of `first` in the slot
    std::shared_ptr<DirtyLog> log;  // null: the slot does not log
  };

  bool FindLast(Gfn first, Gfn end, Part& part);
  static absl::Status MarkPart(const Part& part);

  const AddressSpaceId space_;
  MmuLock::Reader reader_;
  SlotReader slots_;
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_DIRTY_MARKER_H_
