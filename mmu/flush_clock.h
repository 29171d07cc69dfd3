// SPDX-License-Identifier: Apache-2.0
//
// The one clock for hardware TLBs and freed tables. docs/locking.md has its timeline.

#ifndef TDP_MMU_FLUSH_CLOCK_H_
#define TDP_MMU_FLUSH_CLOCK_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/table_page.h"

namespace tdp {

class FlushClock;

// Takes the detached tables that no CPU can reach any more. Called with no lock held.
class TableReclaimer {
 public:
  virtual ~TableReclaimer() = default;
  virtual void Reclaim(TableList&& subtrees) = 0;
};

// A flush that is owed: some CPU may still use what the operation that returned this took away. Pay
// it with `Settle`, alone or merged with others. Dropping an unpaid one aborts: it would be a guest
// that keeps access to memory it has lost.
class [[nodiscard]] PendingFlush {
 public:
  // Owes nothing.
  PendingFlush() = default;
  PendingFlush(PendingFlush&& other) noexcept;
  PendingFlush& operator=(PendingFlush&& other) noexcept;
  ~PendingFlush();

  bool is_owed() const { return clock_ != nullptr; }
  // What `FlushClock::generation` has to reach; meaningful while it is owed.
  uint64_t generation() const { return generation_; }

  // Takes over the debt of `other`, of the same clock: one `Settle` pays both.
  void Merge(PendingFlush&& other);

  // Returns when every vCPU has flushed or left the guest (it then flushes as it enters again), and
  // frees tables that waited for this. Waits for vCPUs in the guest: not for a thread that holds a
  // `GuestEntry` of the same `Vm`, nor inside an MMU section.
  void Settle();

 private:
  friend class FlushClock;
  PendingFlush(FlushClock* clock, uint64_t generation) : clock_(clock), generation_(generation) {}

  FlushClock* clock_ = nullptr;
  uint64_t generation_ = 0;
};

// Thread-safe.
class FlushClock {
 public:
  // One vCPU's part. `EnterGuest`, `LeaveGuest` and `ForgetCpu` belong to the vCPU's thread.
  class alignas(64) Member {
   public:
    Member(FlushClock& clock, VcpuId id);
    // The vCPU is not in the guest.
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    // What the CPU owes before the guest may run.
    enum class Owed : uint8_t { kNothing, kRoot, kAllRoots };

    // From here on the vCPU counts as in the guest. The caller makes the flush that is returned,
    // then runs the guest.
    Owed EnterGuest();
    void LeaveGuest() {
      word_.store(word_.load(std::memory_order_relaxed) & ~kInGuest, std::memory_order_seq_cst);
    }
    bool is_in_guest() const { return (word_.load(std::memory_order_relaxed) & kInGuest) != 0; }
    // The vCPU's thread moved to another CPU, whose TLB may hold anything: the next entry flushes
    // all.
    void ForgetCpu() { flushed_ = 0; }

   private:
    friend class FlushClock;
    static constexpr uint64_t kInGuest = 1;

    // Whether the guest may be running with translations older than `generation`.
    bool IsBehind(uint64_t generation) const {
      const uint64_t word = word_.load(std::memory_order_seq_cst);
      return (word & kInGuest) != 0 && word >> 1 < generation;
    }

    Atomic<uint64_t> word_{0};  // generation at entry << 1 | in guest
    uint64_t flushed_ = 0;
    FlushClock& clock_;
    const VcpuId id_;
  };

  FlushClock(Backend& backend, TableReclaimer& reclaimer)
      : backend_(backend), reclaimer_(reclaimer) {}
  // No vCPU is left. What waits to be freed is handed to the reclaimer.
  ~FlushClock();

  FlushClock(const FlushClock&) = delete;
  FlushClock& operator=(const FlushClock&) = delete;

  // The tables have been changed in a way that CPUs must hear of. Call after the change, inside the
  // section that made it.
  PendingFlush Advance();
  // The same where a root was replaced: its translations can only be dropped with all others, since
  // the table may serve as another root later.
  PendingFlush AdvanceAllRoots();

  // Detached subtrees, to be freed once every vCPU has passed `flush`. Call inside the section that
  // detached them: whoever enters one later finds them either in the tables or here.
  void Retire(TableList&& subtrees, const PendingFlush& flush);

  // Frees what every vCPU has passed. `Settle` does this too.
  void Reclaim();

  // Returns when what other threads' `Reclaim` has taken from here has gone through the reclaimer.
  // After a `Settle` of one's own, everything retired before it has then. Hold no lock.
  void WaitForReclaims();

  uint64_t generation() const { return generation_.load(std::memory_order_relaxed); }

 private:
  friend class PendingFlush;

  void Settle(uint64_t generation);
  void WaitForVcpus(uint64_t generation);
  TableList TakePassed();
  uint64_t PassedByAll() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  Backend& backend_;
  TableReclaimer& reclaimer_;
  alignas(64) Atomic<uint64_t> generation_{1};
  Atomic<uint64_t> all_roots_generation_{1};
  alignas(64) mutable Mutex mutex_;
  std::vector<Member*> members_ ABSL_GUARDED_BY(mutex_);
  // Shared while tables go through the reclaimer.
  Mutex reclaim_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  // Taken inside sections, and never for long.
  Mutex retired_mutex_ ABSL_ACQUIRED_AFTER(mutex_);
  Atomic<bool> any_retired_{false};                    // a hint: looked at without the mutex
  TableList retired_ ABSL_GUARDED_BY(retired_mutex_);  // each with its `retired_at`
};

}  // namespace tdp

#endif  // TDP_MMU_FLUSH_CLOCK_H_
