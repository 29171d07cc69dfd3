// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fault on one page, from the access that the tables refused to the entry that allows it.
//
// HandleViolation(gpa, exit)
//   - HandlePlain        a slot without flags, no rules, nothing found by the walk:
//       Confirm          the page is there by now, in the table of the last fault -> kSpurious
//       FindPlain        another table: a walk to it
//       MapPlain         ask the host, and put a leaf into a hole
//   - LiftProtection     a write to a page whose W the log took     -> kFixed
//   - HandleExit         everything else:
// Handle(request)
//   - sequence, slot     in this order, so that a slot that is being replaced shows
//   - HandleOnce
//       no memory there                                   -> kMmio, kMemoryFault
//       the slot is going away                            -> kRetry
//       attributes and view                               -> kMemoryFault, kViewDenied
//       the ring of dirty pages is nearly full            -> kDirtyRingFull
//       WidenInPlace     a leaf is there and lacks a right that log or aging took
//       Resolve          the host's page                  -> kBlocked, kError
//       section          stale? room in the log? map it, then mark it dirty
//       flush            where a large leaf was split or another frame was mapped
//   - ProvideMemory      what was missing inside the section, and again, a bounded number of times

#ifndef TDP_MMU_FAULT_FAULT_HANDLER_H_
#define TDP_MMU_FAULT_FAULT_HANDLER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/fault/fault_request.h"
#include "tdp/mmu/space/view.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Memory that a fault found missing inside its section, where nothing is allocated. It is provided
// outside, and the fault begins again.
class MissingMemory {
 public:
  bool is_any() const { return what_ != What::kNothing; }
  bool is_tables() const { return what_ == What::kTables; }

  void NeedTables() { what_ = What::kTables; }
  // The shared pointers keep log and reverse map until there is room in them.
  void NeedLog(std::shared_ptr<DirtyLog> log, uint64_t index) {
    what_ = What::kLog;
    log_ = std::move(log);
    index_ = index;
  }
  void NeedRmap(std::shared_ptr<SlotRmap> rmap, Gfn gfn) {
    what_ = What::kRmap;
    rmap_ = std::move(rmap);
    gfn_ = gfn;
  }
  void Forget() { what_ = What::kNothing; }

  // Makes room in a log or a reverse map. It allocates, so call it outside every section.
  // ResourceExhausted without memory.
  absl::Status MakeRoom();

 private:
  enum class What : uint8_t { kNothing, kTables, kLog, kRmap };

  What what_ = What::kNothing;
  uint64_t index_ = 0;
  Gfn gfn_;
  std::shared_ptr<DirtyLog> log_;
  std::shared_ptr<SlotRmap> rmap_;
};

// Answers the faults of one vCPU. One thread at a time uses it, outside the guest.
class FaultHandler {
 public:
  // How often a fault may take tables that the guest does not use: another vCPU may be faster with
  // those that it has freed, so it takes several tries.
  static constexpr int kRecycles = 8;

  explicit FaultHandler(Engine& engine);
  ~FaultHandler() { view_->Leave(); }
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

  // Answers and counts a fault whose address lies in the guest. With `FaultOutcome::kError`,
  // `TakeError` says why.
  FaultAnswer Handle(FaultRequest request, int recycles = kRecycles);
  // Does the same for an EPT violation, as the exit says it; `result` is a fresh one.
  // InvalidArgument if hardware can not report that.
  void HandleViolation(FaultResult& result, Gpa gpa, ExitQualification exit);

  // Does the same for an EPT misconfiguration at an address in the guest.
  FaultAnswer HandleMisconfiguration(Gpa gpa, Privacy wanted);
  absl::Status TakeError() { return std::exchange(error_, absl::OkStatus()); }
  // Returns `answer`, which this has just given, for the embedder.
  FaultResult ResultOf(FaultAnswer answer);

  // Does what `Vcpu::LogPml` promises, without the check of the addresses.
  absl::Status LogPml(absl::Span<const Gpa> pages);

  AddressSpaceId address_space() const { return space_; }
  View& view() { return *view_; }
  const View& view() const { return *view_; }
  // Takes a view of `space` that was entered in place of the one before.
  void Adopt(AddressSpaceId space, View& view);
  void set_dirty_ring(DirtyRing* ring) {
    dirty_ring_ = ring;
    if (ring != nullptr) logs_by_faults_ = false;
  }

  MmuLock::Reader& reader() { return reader_; }
  // Returns the table that this may look into outside of every section, or null. Any thread may
  // ask.
  const uint64_t* noted_table() const { return memo_.table.load(std::memory_order_relaxed); }
  void AddTo(FaultStats& stats) const;

 private:
  friend class Prefaulter;
  struct PageFault;

  struct Counters {
    Counter outcomes[9];
    Counter fast;
    // A fast fault is counted once, in one of these: as `FaultStats::fast`, and as
    Counter confirmed;  // spurious
    Counter lifted;     // fixed at 4 KiB
    Counter splits;
    Counter leaves[3];
  };

  DirectMmu& mmu() { return view_->mmu(); }
  const LeafPolicy& policy() const { return view_->policy(); }

  FaultAnswer HandleOnce(const FaultRequest& request, uint64_t sequence, const MemorySlot* slot);
  void HandleExit(FaultResult& result, Gpa gpa, ExitQualification exit);
  void LiftProtection(FaultResult& result, Gpa gpa, ExitQualification exit);
  FaultAnswer HandleAgain(const FaultRequest& request);
  FaultAnswer ProvideMemory(const FaultRequest& request, int recycles, FaultAnswer answer);
  void HandleUnusual(FaultResult& result, Gpa gpa, ExitQualification exit);
  void HandlePlain(FaultResult& result, Gpa gpa, ExitQualification exit);
  void HandleInOtherSlot(FaultResult& result, Gpa gpa, ExitQualification exit);
  void HandleMapped(FaultResult& result, Gpa gpa, ExitQualification exit);
  bool FillMapped(const MemorySlot& slot, Gfn gfn, uint64_t sequence, EptEntry leaf);
  void Confirm(FaultResult& result);
  void FindPlain(FaultResult& result, Gpa gpa, ExitQualification exit);
  template <int kNear>
  void MapPlain(FaultResult& result, Gpa gpa, ExitQualification exit);
  bool FillSmall(Gfn gfn, Hfn frame, Access access);
  bool FillLarge(Gfn gfn, Hfn frame, Access access);
  FaultAnswer MapPage(Gpa gpa, ExitQualification exit, HostPage page);
  FaultAnswer Fail(absl::Status status);
  FaultAnswer Unresolved(const absl::Status& status);
  FaultAnswer Emulate(const FaultRequest& request, uint64_t sequence);
  FaultAnswer Mmio(const FaultRequest& request, uint64_t sequence);
  FaultAnswer HandleOutdated(const FaultRequest& request);
  bool PassRules(const FaultRequest& request, PageFault& fault, FaultAnswer& end);
  bool PassView(PageFault& fault, FaultAnswer& end);
  bool CanRaiseVe(const PageFault& fault);
  bool IsMmioCurrent(EptEntry entry) const;
  bool TryWidenInPlace(PageFault& fault, FaultAnswer& end);
  bool HasMoved(const PageFault& fault) const;
  absl::StatusOr<HostPage> Resolve(const PageFault& fault);
  FaultAnswer ResolveAndMap(PageFault& fault);
  LeafRequest RequestFor(const PageFault& fault, const HostPage& page) const;
  LeafRequest RequestAhead(const PageFault& fault, const HostPage& page) const;
  bool HasRoomToLog(PageFault& fault);
  bool HasRoomToLog(const MemorySlot& slot, Gfn gfn);
  bool RecordNoRoom(const MemorySlot& slot, Gfn gfn);
  MapResult MapWithReverse(const PageFault& fault, const HostPage& page);
  size_t MarkLogged(absl::Span<const Gpa> pages);
  void MarkDirty(const PageFault& fault);
  void OweFlush();
  void SettleSplit(MapResult mapped);
  FaultAnswer Finish(Gfn gfn, MapResult mapped);
  FaultAnswer Count(FaultAnswer answer) {
    // A fault that was fixed is counted by its level alone.
    if (ABSL_PREDICT_TRUE(answer.outcome() == FaultOutcome::kFixed)) {
      counters_.leaves[AsIndex(answer.level().raw() - 1)].Add();
    } else {
      counters_.outcomes[static_cast<size_t>(answer.outcome())].Add();
    }
    return answer;
  }

  Engine& engine_;
  const ChangeSequence& sequence_;
  Backend& backend_;
  View* view_;                        // of `space_`
  ReverseMappedMmu* reverse_mapped_;  // the same, or null
  AddressSpaceId space_ = 0;
  LeafMemo memo_;
  Counters counters_;
  MmuLock::Reader reader_;
  SlotReader slots_;
  TableCache tables_;
  bool logs_by_faults_;  // write-protection notices writes, and a bitmap has them
  DirtyRing* dirty_ring_ = nullptr;
  MissingMemory missing_;       // of the fault under way
  PendingFlush flush_;          // the same, where it split a large leaf or dropped one
  absl::Status refill_status_;  // of the last refill, where `tables_` is short of its stock
  absl::Status error_;          // of the last fault, if it ended with kError
};

}  // namespace tdp

#endif  // TDP_MMU_FAULT_FAULT_HANDLER_H_
