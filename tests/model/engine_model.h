// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This model checks the engine and the software CPU against a flat map of pages.

#ifndef TDP_TESTS_MODEL_ENGINE_MODEL_H_
#define TDP_TESTS_MODEL_ENGINE_MODEL_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/model/engine_op.h"
#include "tests/world/sim_world.h"

namespace tdp::model {

// Runs a guest of 64 MiB on two CPUs that keep every translation as long as the architecture lets
// them. The model beside it knows, for each guest page, the slot that holds it; the host's own page
// table says which frame stands behind. An access must reach exactly that frame, or be MMIO exactly
// where the model has no memory for it.
class EngineModel : private SimWorld {
 public:
  // Names what the machine does wrong on purpose, to show that the model finds it.
  enum class Mistake : uint8_t { kNone, kForgetsFlushes };

  // Gives each vCPU a dirty ring of `ring_entries`; 0 for none.
  explicit EngineModel(const VmOptions& options = {}, int host_order = 9,
                       Mistake mistake = Mistake::kNone, uint64_t ring_entries = 0);
  // Does so on a machine of `Machine()` that earlier models may have left.
  EngineModel(SimMachine& machine, const VmOptions& options, int host_order,
              uint64_t ring_entries = 0);
  static SimMachineOptions Machine();

  // Makes the operation, with out-of-range numbers brought into range. Returns what went wrong, or
  // OK.
  absl::Status Apply(const Op& op);

  // Checks the engine's own invariants, and the flush oracle's reports so far.
  absl::Status Check();

  // Returns a hash of all that operations came to so far: where accesses ended, statuses,
  // statistics.
  uint64_t history() const { return history_; }

  uint64_t accesses_mapped() const { return accesses_mapped_; }
  uint64_t accesses_mmio() const { return accesses_mmio_; }
  // Return how many accesses a view denied, and how many reached private memory or ended for want
  // of it.
  uint64_t accesses_denied() const { return accesses_denied_; }
  uint64_t accesses_private() const { return accesses_private_; }
  // Return how many of the mapped ones reached frames that a slot names, and frames that a view
  // shows.
  uint64_t accesses_to_frames() const { return accesses_to_frames_; }
  uint64_t accesses_shown() const { return accesses_shown_; }
  uint64_t collapsed() const { return collapsed_; }
  // Returns how many written pages a take of a log, or a harvest of rings, has shown.
  uint64_t writes_shown() const { return writes_shown_; }
  uint64_t batches_refused() const { return batches_refused_; }
  uint64_t batches_made() const { return batches_made_; }

 private:
  static constexpr int kCpus = 2;
  static constexpr uint64_t kGuestPages = MiB(64) >> kPageShift;
  static constexpr uint64_t kHostPages = MiB(48) >> kPageShift;
  static constexpr uint32_t kSlots = 6;
  static constexpr Hva kHost{GiB(512)};
  static constexpr Hva kPrivateHost{GiB(768)};
  static constexpr size_t kViews = 3;
  // Slots name frames from here on, and views show others: none of them is memory of the host's.
  static constexpr Hpa kFrames{GiB(64)};
  static constexpr Hfn kShown{GiB(128) >> kPageShift};

  // Holds a value for each page, in memory that is taken when the first one is set.
  template <typename T>
  class ByPage {
   public:
    explicit ByPage(T initial = T()) : initial_(initial) {}
    T operator[](uint64_t page) const { return values_.empty() ? initial_ : values_[page]; }
    void Set(uint64_t first, uint64_t count, T value) {
      if (values_.empty()) values_.assign(kGuestPages, initial_);
      std::fill_n(values_.begin() + static_cast<ptrdiff_t>(first), count, value);
    }
    // Sets page `first + i` to `value_of(i)`.
    template <typename ValueOf>
    void SetEach(uint64_t first, uint64_t count, ValueOf value_of) {
      for (uint64_t i = 0; i < count; ++i) Set(first + i, 1, value_of(i));
    }

   private:
    T initial_;
    std::vector<T> values_;
  };

  struct Slot {
    uint64_t page;
    uint64_t count;
    uint64_t host;
    uint32_t flags;
    tdp::Access rights = tdp::Access::All();  // of host frames

    bool has_frames() const { return (flags & kSlotHostFrames) != 0; }
  };

  void Start(int host_order, uint64_t ring_entries);
  absl::Status Make(const Op& op);
  void Note(uint64_t value) {
    history_ = (history_ ^ value) * 0x9e3779b97f4a7c15 + (history_ >> 29);
  }

  absl::Status Access(const Op& op);
  absl::Status SetSlot(const Op& op);
  absl::Status DeleteSlot(const Op& op);
  absl::Status Zap(const Op& op);
  absl::Status HostChange(const Op& op);
  absl::Status NewVcpu(const Op& op);
  absl::Status Age(const Op& op);
  absl::Status Split(const Op& op);
  absl::Status Collapse(const Op& op);
  absl::Status Prefault(const Op& op);
  absl::Status SetView(const Op& op);
  absl::Status SetRights(const Op& op);
  absl::Status SetAttributes(const Op& op);
  absl::Status SetMemoryTypes(const Op& op);
  absl::Status SetQuota(const Op& op);
  absl::Status TakeLog(const Op& op);
  absl::Status MarkDirty(const Op& op);
  absl::Status PushDownLog(const Op& op);
  absl::Status SetFrames(const Op& op);
  absl::Status Populate(const Op& op);
  absl::Status ApplyBatch(const Op& op);

  // Returns rights that every backend offers.
  static tdp::Access RightsOf(uint8_t how);
  Slot SlotFrom(const Op& op) const;
  MemoryRegion RegionOf(uint32_t id, const Slot& slot) const;
  bool IsUnsupported(const absl::Status& status) const;
  bool HasViews() const { return !vm().options().reverse_map && !vm().options().nested; }
  void EmptyRing(Vcpu& vcpu);
  // Returns what an access to the page comes to: kFixed, kMmio, kMemoryFault or kViewDenied.
  FaultOutcome ExpectedOutcome(int cpu, uint64_t page, tdp::Access access) const;
  Hva HostOf(const Slot& slot, uint64_t page) const;
  // Returns the frame that the view shows for the page in place of its slot's; nothing if it shows
  // that.
  std::optional<Hfn> ShownAt(ViewId view, uint64_t page) const;
  absl::StatusOr<Hpa> ExpectedFrame(ViewId view, const Slot& slot, uint64_t page);
  tdp::Access RightsAt(ViewId view, uint64_t page) const;
  bool HasPrivateMemory(const Slot& slot) const { return (slot.flags & kSlotPrivateMemory) != 0; }
  void NoteAccess(int cpu, uint64_t page, bool write);
  // Notes that the log has shown this page of a slot; harvested entries of slots that are gone are
  // passed over.
  void NoteShown(uint32_t slot, uint64_t page_of_slot);
  void NoteShownWord(uint32_t slot, uint64_t base, uint64_t mask);
  // Returns OK if no write that the log of `slot` should have shown is still waiting.
  absl::Status CheckAllShown(uint32_t slot) const;
  absl::Status Harvest();
  bool HasRings() const { return vcpu(0).dirty_ring() != nullptr; }
  // Notes that tables may have been taken back.
  void NoteReclaims();
  // Forgets A and D, of which nothing is known any more: mappings may be gone.
  void ForgetUse();
  bool UsedInHostRange(uint64_t host, uint64_t count) const;
  absl::Status CheckDirtyKept();
  absl::Status CheckLeavesShown(ViewId view);

  const Slot* SlotAt(uint64_t page) const;
  bool OverlapsAnother(uint32_t id, uint64_t page, uint64_t count) const;
  struct Reached {
    FaultOutcome outcome = FaultOutcome::kFixed;
    Hpa hpa;  // if that is kFixed
  };
  absl::StatusOr<Reached> AccessUntilDone(int cpu, Gpa gpa, sim::AccessKind kind);

  std::map<uint32_t, Slot> slots_;
  std::set<uint64_t> used_;                        // pages that the guest used since they were aged
  std::set<std::pair<ViewId, uint64_t>> written_;  // pages that it wrote, by view
  std::array<ViewId, kCpus> view_of_{};
  // These are the rights that a view leaves, and the frames that it shows, by page.
  static ByPage<tdp::Access> AllRights() { return ByPage(tdp::Access::All()); }
  std::array<ByPage<tdp::Access>, kViews> rights_{AllRights(), AllRights(), AllRights()};
  std::array<ByPage<std::optional<Hfn>>, kViews> shown_;
  ByPage<uint8_t> private_;  // whether it is
  // These pages were written since their log was last taken, by slot, counted from its start.
  std::map<uint32_t, std::set<uint64_t>> unshown_;
  uint64_t history_ = 0;
  uint64_t reclaims_ = 0;
  bool is_quota_set_ = false;
  uint64_t collapsed_ = 0;
  uint64_t accesses_mapped_ = 0;
  uint64_t accesses_mmio_ = 0;
  uint64_t accesses_denied_ = 0;
  uint64_t accesses_private_ = 0;
  uint64_t writes_shown_ = 0;
  uint64_t accesses_to_frames_ = 0;
  uint64_t accesses_shown_ = 0;
  uint64_t batches_refused_ = 0;
  uint64_t batches_made_ = 0;
};

}  // namespace tdp::model

#endif  // TDP_TESTS_MODEL_ENGINE_MODEL_H_
