// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The debt of an operation to the CPUs, as a value.

#ifndef TDP_MMU_PENDING_FLUSH_H_
#define TDP_MMU_PENDING_FLUSH_H_

#include <cstdint>
#include <utility>

namespace tdp {

class FlushClock;

// A flush that is owed: some CPU may still use what the operation that returned this took away. Pay
// it with `Settle`, alone or merged with others. Dropping an unpaid one aborts: it would be a guest
// that keeps access to memory it has lost.
class [[nodiscard]] PendingFlush {
 public:
  // Makes one that owes nothing.
  PendingFlush() = default;
  PendingFlush(PendingFlush&& other) noexcept
      : clock_(std::exchange(other.clock_, nullptr)), generation_(other.generation_) {}
  PendingFlush& operator=(PendingFlush&& other) noexcept;
  ~PendingFlush() {
    if (is_owed()) Dropped();
  }

  bool is_owed() const { return clock_ != nullptr; }
  // Returns what `FlushClock::generation` has to reach; meaningful while it is owed.
  uint64_t generation() const { return generation_; }

  // Takes over the debt of `other`, of the same clock: the later of the two stays, and one `Settle`
  // pays both.
  void Merge(PendingFlush&& other);

  // Returns when every vCPU has flushed or left the guest (it then flushes as it enters again), and
  // frees tables that waited for this. It waits for vCPUs in the guest, so a thread that holds a
  // `GuestEntry` of the same `Vm`, or is inside an MMU section, must not call it. It costs two
  // loads if someone has settled a later flush, and a look at each vCPU if none is in the guest.
  void Settle();

 private:
  friend class FlushClock;
  PendingFlush(FlushClock* clock, uint64_t generation) : clock_(clock), generation_(generation) {}
  [[noreturn]] static void Dropped();

  FlushClock* clock_ = nullptr;
  uint64_t generation_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_PENDING_FLUSH_H_
