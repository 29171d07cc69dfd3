// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory slots of a VM: checked like KVM_SET_USER_MEMORY_REGION, changed by one writer in O(log
// n), looked up by any number of readers that take no lock, wait for nobody and hold nothing.
//
// Two persistent interval trees, one by gfn for each address space and one by hva, stand behind
// atomic roots. A change is built beside them and published by a store of the roots and of the
// generation. docs/locking_slots.md has the protocol and its timelines.

#ifndef TDP_MEMSLOT_SLOT_SET_H_
#define TDP_MEMSLOT_SLOT_SET_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/interval_node.h"
#include "tdp/memslot/interval_tree.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_index.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {

// Set in a generation while a slot is being changed. What is derived from the slots then (an MMIO
// entry, say) must not be kept.
inline constexpr uint64_t kSlotUpdateInProgress = uint64_t{1} << 63;

// Says how slots that log dirty pages start out.
enum class DirtyBitmapPolicy {
  kClean,
  kAllDirty,  // KVM_DIRTY_LOG_INITIALLY_SET
  kRings,     // dirty pages go to rings, and those that no ring takes to a bitmap that starts clean
};

// "Writer" below: calls of one thread at a time, under the slots mutex of the `Vm`. The rest may be
// called by any thread at any time.
class SlotSet {
 public:
  // `limits` have passed `CheckLimits`.
  explicit SlotSet(const SlotLimits& limits);
  SlotSet(const SlotSet&) = delete;
  SlotSet& operator=(const SlotSet&) = delete;

  const SlotLimits& limits() const { return limits_; }

  // Writer. Checks `region` in KVM's order, decides what it changes and builds the result; nothing
  // is published. The first check that fails answers: InvalidArgument for what `CheckRequest`
  // lists, for deleting a slot that is not there, for more pages than `SlotLimits::total_pages`,
  // and for a change of anything but gpa and logging of a slot that is there; AlreadyExists for a
  // range that overlaps another slot of its address space; InvalidArgument for a range beyond the
  // guest physical width; ResourceExhausted without memory. The message names field and value.
  absl::StatusOr<SlotUpdate> Prepare(const MemoryRegion& region);

  // Writer, for an update that `takes_away()`. Readers see the old slot as invalid from here on,
  // and the generation as in progress.
  void PublishInvalid(SlotUpdate& update);

  // Writer. Readers see the result, and the generation has moved on. Cannot fail. Returns the state
  // that no slot refers to any more, if there is one: free it when no fault that looked the old
  // slot up can be running. The update is over; what it says of the two slots stays.
  std::unique_ptr<SlotState> Publish(SlotUpdate&& update);

  // Writer. Applies to dirty logs that are made from now on.
  void set_dirty_bitmap_policy(DirtyBitmapPolicy policy) { dirty_bitmap_policy_ = policy; }
  DirtyBitmapPolicy dirty_bitmap_policy() const { return dirty_bitmap_policy_; }

  // Returns the generation of an address space: it moves with every change of its slots and never
  // takes a value that this or another address space has had. It is loaded with acquire: what is
  // read afterwards is at least as new.
  uint64_t generation(AddressSpaceId address_space) const {
    return spaces_[address_space].generation.load(std::memory_order_acquire);
  }

  // Writer. Returns the slot of that id, or nothing.
  std::optional<MemorySlot> FindById(AddressSpaceId address_space, uint32_t id) const;

  // Writer. Returns the slot that holds `gfn`, or nothing.
  std::optional<MemorySlot> FindByGfn(AddressSpaceId address_space, Gfn gfn) const;

  // Writer. Shows every slot of `address_space`, by ascending frame.
  void ForEach(AddressSpaceId address_space,
               absl::FunctionRef<void(const MemorySlot&)> visit) const;

  // Writer. Calls `visit(slot, first, pages)` for the part of each slot that `range` of host memory
  // backs, and again for that whose private memory lies there: for the latter it looks at every
  // slot, if any has private memory. It remembers the slot of its last call, and answers for a
  // range inside that one without a search.
  template <typename Visit>
  void ForEachInHostRange(HostRange range, const Visit& visit) {
    if (ABSL_PREDICT_TRUE(alone_.Contains(range))) {
      const uint64_t at = range.first_page() - alone_.first_page();
      visit(alone_slot_, alone_slot_.base + PageCount(at), range.pages());
    } else {
      SearchHostRange(range, visit);
    }
  }

  // Writer. Return the number of slots, and of pages in them, in all address spaces.
  size_t size() const { return size_; }
  PageCount total_pages() const { return total_pages_; }

  // Writer. Returns the memory in use for the trees, the index by id and the states.
  size_t bytes() const;

  // Writer. Compares the trees with the index by id; Internal, saying what disagrees.
  absl::Status CheckInvariants() const;

 private:
  friend class SlotBatch;
  friend class SlotReader;
  friend class SlotUpdate;

  struct alignas(64) Space {
    Atomic<uint64_t> generation{0};
    Atomic<uint64_t> root{0};
  };
  using Entry = SlotIndex::Entry;

  const Entry* FindEntry(AddressSpaceId address_space, uint32_t id) const {
    return by_id_[address_space].Find(id);
  }

  using HostVisitor = absl::FunctionRef<void(const MemorySlot& slot, Gfn first, PageCount pages)>;
  void SearchHostRange(HostRange range, HostVisitor visit);
  void NoteIfAlone(const MemorySlot& slot);
  void ForEachPrivateInHostRange(HostRange range, HostVisitor visit) const;
  absl::StatusOr<SlotUpdate> PrepareDelete(const MemoryRegion& region, const Entry* old);
  absl::StatusOr<SlotUpdate> PrepareCreate(const MemoryRegion& region);
  absl::StatusOr<SlotUpdate> PrepareChange(const MemoryRegion& region, const Entry& old);
  absl::Status CheckPlace(const MemoryRegion& region) const;
  absl::Status AddNewState(SlotUpdate* update, const Entry* old, const SlotBacking& backing) const;
  absl::Status BuildTrees(SlotUpdate* update);
  bool ReserveNodes(SlotUpdate* update);

  internal::IntervalRoot GfnRoot(AddressSpaceId address_space) const {
    return internal::IntervalRoot(spaces_[address_space].root.load(std::memory_order_acquire));
  }
  internal::IntervalRoot HvaRoot() const {
    return internal::IntervalRoot(hva_root_.load(std::memory_order_acquire));
  }
  void MarkInvalid(const MemorySlot& slot, bool invalid);
  void ForgetEdits() {
    edits_.made.clear();
    edits_.replaced.clear();
  }
  // Each returns a root as the writer sees it, with what a batch has built and not published.
  internal::IntervalRoot DraftGfnRoot(AddressSpaceId address_space) const {
    return has_draft_ ? draft_gfn_[address_space] : GfnRoot(address_space);
  }
  internal::IntervalRoot DraftHvaRoot() const { return has_draft_ ? draft_hva_ : HvaRoot(); }
  // A batch begins or ends. Between the two `Draft` makes an update count for what is prepared
  // next, and returns the state that it takes the place of; `edits_` goes on holding what the edits
  // make.
  void BeginDraft();
  void EndDraft() { has_draft_ = false; }
  std::unique_ptr<SlotState> Draft(SlotUpdate&& update);
  void PublishGfnRoot(Space& space, internal::IntervalRoot root);
  void PublishHvaRoot(internal::IntervalRoot root);
  // The trees of `edits_` are published: nodes that only older ones have may be filled again.
  void FinishEdits();
  // The trees of `edits_` never will be published: the nodes that were made for them may be filled
  // again.
  void DropEdits();
  void BeginGeneration(Space& space);
  void EndGeneration(Space& space);
  void Abandon(SlotUpdate& update);
  std::unique_ptr<SlotState> ExchangeEntry(SlotUpdate& update);

  const SlotLimits limits_;
  DirtyBitmapPolicy dirty_bitmap_policy_ = DirtyBitmapPolicy::kClean;
  internal::IntervalNodePool pool_;
  // The edits of the update that waits to be published; empty if there is none.
  internal::IntervalEdits edits_;
  const internal::IntervalTree gfn_tree_;
  const internal::IntervalTree hva_tree_;
  std::array<Space, kMaxAddressSpaces> spaces_;
  alignas(64) Atomic<uint64_t> hva_root_{0};
  // Moves with every change of `hva_root_`, as generations do with the roots by gfn.
  Atomic<uint64_t> hva_version_{0};
  alignas(64) std::array<SlotIndex, kMaxAddressSpaces> by_id_;
  size_t size_ = 0;
  PageCount total_pages_;
  size_t private_slots_ = 0;
  // Host memory that backs `alone_slot_` and nothing else; empty where nothing is known.
  HostRange alone_;
  MemorySlot alone_slot_;
  bool has_draft_ = false;
  std::array<internal::IntervalRoot, kMaxAddressSpaces> draft_gfn_;
  internal::IntervalRoot draft_hva_;
};

inline void SlotUpdate::Abandon() {
  if (set_ != nullptr) set_->Abandon(*this);
}

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_SET_H_
