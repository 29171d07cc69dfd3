// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Several changes of slots that are checked one after the other and published together.

#ifndef TDP_MEMSLOT_SLOT_BATCH_H_
#define TDP_MEMSLOT_SLOT_BATCH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/memslot/interval_tree.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {

// Checks and publishes several changes together. It is for the writer of its set, which nobody else
// changes or asks while the batch lives. A batch that goes without `Publish` leaves the slots as
// they were.
class SlotBatch {
 public:
  // Says what one of the changes does; a change that is `kNone` is left out.
  struct Step {
    SlotChange kind;
    MemorySlot old_slot;
    MemorySlot new_slot;
  };

  explicit SlotBatch(SlotSet& set);
  ~SlotBatch();
  SlotBatch(const SlotBatch&) = delete;
  SlotBatch& operator=(const SlotBatch&) = delete;

  // Checks and builds `region` as `SlotSet::Prepare` would if everything that was added before were
  // published. After an error nothing more is added and nothing is published.
  absl::Status Add(const MemoryRegion& region);

  absl::Span<const Step> steps() const { return steps_; }

  // Lets readers see the slots that go or move as invalid, and the others with their new flags.
  // Where there are any the generation counts as in progress.
  void PublishFirst();
  // Lets readers see the result. Cannot fail. The states that no slot refers to any more go with
  // the batch: destroy it when no fault that looked an old slot up can be running.
  void Publish();

 private:
  // Holds what an entry of the index by id was before a step.
  struct Undo {
    MemorySlot slot;                   // names the entry
    std::unique_ptr<SlotState> state;  // null: there was none
  };

  absl::Status ShowFirst(const SlotUpdate& update);

  SlotSet& set_;
  std::vector<Step> steps_;
  std::vector<Undo> undo_;  // and, once all is published, the states that are done with
  // The trees that `PublishFirst` shows, but for the marks of slots that go; their nodes are
  // superfluous in the end.
  std::array<internal::IntervalRoot, kMaxAddressSpaces> first_roots_;
  internal::IntervalEdits first_edits_;
  std::vector<MemorySlot> going_;  // that readers know
  uint32_t first_spaces_ = 0;      // by bit: those where readers see something first
  uint32_t spaces_ = 0;            // those that change
  // The set's numbers before the batch.
  const size_t size_;
  const PageCount total_pages_;
  const size_t private_slots_;
  bool is_published_ = false;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_BATCH_H_
