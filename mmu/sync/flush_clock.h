// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The one clock for hardware TLBs and freed tables. docs/locking.md has its timeline.

#ifndef TDP_MMU_SYNC_FLUSH_CLOCK_H_
#define TDP_MMU_SYNC_FLUSH_CLOCK_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/pending_flush.h"

namespace tdp {

// Takes the detached tables that no CPU can reach any more. The clock calls it with no lock held.
class TableReclaimer {
 public:
  virtual ~TableReclaimer() = default;
  virtual void Reclaim(TableList&& subtrees) = 0;
};

// Thread-safe. No call holds a lock while it kicks or waits.
//
// Every operation that promises something of the CPUs settles what is owed for what it was asked
// about, whoever owes it: an operation that finds nothing to take away may find nothing because
// another one has taken it and has not settled yet. `AdvanceIf` is how; docs/locking.md
// ("Promises") has the list.
class FlushClock {
  struct Place;

 public:
  // One vCPU's part. `EnterGuest`, `LeaveGuest` and `ForgetCpu` belong to the vCPU's thread.
  class Member {
   public:
    // Joins the clock. It allocates nothing where a member has gone before.
    Member(FlushClock& clock, VcpuId id);
    // The vCPU is not in the guest. It returns at once: threads that wait for this vCPU look at its
    // place in the clock, which stays.
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    // Says what the CPU has to flush before the guest may run.
    enum class Owed : uint8_t { kNothing, kRoot, kAllRoots };

    // Counts the vCPU as in the guest from here on. The caller makes the flush that is returned,
    // then runs the guest.
    Owed EnterGuest();
    void LeaveGuest();
    bool is_in_guest() const { return is_in_guest_.load(std::memory_order_relaxed); }
    // Says that the vCPU's thread moved to another CPU, whose TLB may hold anything: the next entry
    // flushes all.
    void ForgetCpu() { flushed_ = 0; }

   private:
    FlushClock& clock_;
    Place* const place_;
    uint64_t flushed_ = 0;
    // The vCPU's own copy of what its place says.
    Atomic<bool> is_in_guest_{false};
  };

  // While one lives, rights or bits may be taken from entries on the readers' side, in sections
  // that do not move the generation each: the flush for all of them comes afterwards. Whoever asks
  // meanwhile what is owed (`Outstanding`) is told that something is. It begins before the first
  // section, and ends after the `Advance` that follows the last.
  class Narrowing {
   public:
    explicit Narrowing(FlushClock& clock) : clock_(clock) {
      clock_.narrowings_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Narrowing() { clock_.narrowings_.fetch_sub(1, std::memory_order_release); }
    Narrowing(const Narrowing&) = delete;
    Narrowing& operator=(const Narrowing&) = delete;

   private:
    FlushClock& clock_;
  };

  FlushClock(Backend& backend, TableReclaimer& reclaimer)
      : backend_(backend), reclaimer_(reclaimer) {}
  // No vCPU is left. It hands the reclaimer what waits to be freed.
  ~FlushClock();

  FlushClock(const FlushClock&) = delete;
  FlushClock& operator=(const FlushClock&) = delete;

  // Says that the tables have been changed in a way that CPUs must hear of. Call it after the
  // change, inside the section that made it (or under a `Narrowing`): who finds the change also
  // finds the debt.
  PendingFlush Advance() {
    return PendingFlush(this, generation_.fetch_add(1, std::memory_order_seq_cst) + 1);
  }
  // Advances so that every vCPU drops what its CPU has of all roots, not of its own alone: another
  // root is about to come within its reach.
  PendingFlush AdvanceAllRoots();

  // Returns what all have come to owe up to now and nobody has settled, as one debt; none if there
  // is none. Call it inside a section, or after one: it then covers whatever that section could
  // find done.
  PendingFlush Outstanding();
  // Returns what an operation owes that has `changed` the tables, or has found nothing to change.
  PendingFlush AdvanceIf(bool changed) { return changed ? Advance() : Outstanding(); }

  // Takes over detached subtrees, to be freed once every vCPU has passed `flush`. Call it inside
  // the section that detached them: whoever enters one later finds them either in the tables or
  // here.
  void Retire(TableList&& subtrees, const PendingFlush& flush) {
    if (!subtrees.empty()) RetireSome(std::move(subtrees), flush);
  }

  // Settles `flush` if nobody has to be waited for, and returns whether it did; what it retired is
  // freed by its `Settle`. It may be called inside a section, too.
  bool TrySettle(const PendingFlush& flush) {
    if (!flush.is_owed() || IsSettled(flush.generation_)) return true;
    if (PassedByAll() < flush.generation_) return false;
    Raise(settled_, flush.generation_);
    return true;
  }

  // Frees the tables that every vCPU has passed. `Settle` does this too.
  void Reclaim() {
    // Most flushes retire no table. A thread that retired some sees its own store.
    if (ABSL_PREDICT_FALSE(any_retired_.load(std::memory_order_relaxed))) ReclaimPassed();
  }

  // Reclaims, and returns when what other threads' `Reclaim` has taken from here has gone through
  // the reclaimer: all that was retired by a flush that has been settled has gone then, whoever
  // settled it. Hold no lock.
  void WaitForReclaims();

  uint64_t generation() const { return generation_.load(std::memory_order_seq_cst); }
  // Returns the generation that has to be settled for every change so far to have reached the CPUs;
  // `IsSettled` says whether it is.
  uint64_t generation_owed() const {
    const bool narrowing = narrowings_.load(std::memory_order_acquire) != 0;
    return generation() + (narrowing ? 1 : 0);
  }
  bool IsSettled(uint64_t generation) const {
    return settled_.load(std::memory_order_acquire) >= generation;
  }
  bool is_narrowing() const { return narrowings_.load(std::memory_order_relaxed) != 0; }

 private:
  friend class PendingFlush;

  // The vCPU is outside the guest, so it is behind no generation. `kResting` says besides that
  // settlers have seen it so, `kUnlisted` that they have so often that they look at the place no
  // more.
  static constexpr uint64_t kOutside = ~uint64_t{0};
  static constexpr uint64_t kResting = kOutside - 1;
  static constexpr uint64_t kUnlisted = kOutside - 2;

  // Holds what others see of a vCPU. Places are never freed before the clock, so that they can be
  // looked at without a lock, and wait for the next vCPU when theirs has gone.
  struct alignas(64) Place {
    // The generation with which the vCPU entered the guest, or one of the above. The guest may be
    // running with translations that are older than that by nothing.
    Atomic<uint64_t> entered{kUnlisted};
    Atomic<VcpuId> id{0};
    // These are guarded by the clock's mutex.
    bool is_taken = false;
    bool is_listed = false;
    int rests = 0;  // how many settlers in a row have found it resting
    Place* next = nullptr;
    Place* next_listed = nullptr;

    bool IsBehind(uint64_t generation) const {
      return entered.load(std::memory_order_seq_cst) < generation;
    }
  };

  void RetireSome(TableList&& subtrees, const PendingFlush& flush);
  Place* TakePlace(VcpuId id);
  void List(Place& place);
  static bool RestsForGood(Place& place);
  void Settle(uint64_t generation);
  void KickAndWait(uint64_t generation);
  void ReclaimPassed();
  TableList TakePassed();
  // Returns the generation that every vCPU has passed, of those that settlers have to look at.
  uint64_t PassedByAll() {
    const bool any = listed_.load(std::memory_order_seq_cst) != nullptr;
    return any ? PassedByListed() : kOutside;
  }
  uint64_t PassedByListed();
  static void Raise(Atomic<uint64_t>& mark, uint64_t to) {
    uint64_t now = mark.load(std::memory_order_relaxed);
    while (now < to && !mark.compare_exchange_weak(now, to, std::memory_order_acq_rel)) {
    }
  }

  Backend& backend_;
  TableReclaimer& reclaimer_;
  alignas(64) Atomic<uint64_t> generation_{1};
  Atomic<uint64_t> all_roots_generation_{1};
  // The latest generation that every vCPU has been seen to have passed.
  alignas(64) Atomic<uint64_t> settled_{1};
  Atomic<int> narrowings_{0};
  // The places that settlers look at: a vCPU that enters the guest lists its own if it is not.
  Atomic<Place*> listed_{nullptr};
  // Guards who takes which place, and which are listed. It is taken inside sections, and never for
  // long.
  Mutex mutex_;
  Place* places_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Held shared while tables go through the reclaimer.
  Mutex reclaim_mutex_;
  // Taken inside sections, and never for long.
  Mutex retired_mutex_ ABSL_ACQUIRED_AFTER(reclaim_mutex_);
  Atomic<bool> any_retired_{false};                    // a hint: looked at without the mutex
  TableList retired_ ABSL_GUARDED_BY(retired_mutex_);  // each with its `retired_at`
};

inline void FlushClock::Member::LeaveGuest() {
  is_in_guest_.store(false, std::memory_order_relaxed);
  place_->entered.store(kOutside, std::memory_order_release);
}

}  // namespace tdp

#endif  // TDP_MMU_SYNC_FLUSH_CLOCK_H_
