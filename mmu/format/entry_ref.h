// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stored entry: the only way to touch one that a CPU or another thread can reach, and the only
// file with atomics on entries.

#ifndef TDP_MMU_FORMAT_ENTRY_REF_H_
#define TDP_MMU_FORMAT_ENTRY_REF_H_

#include <atomic>
#include <cstdint>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/ept_entry.h"

namespace tdp {

// Sees every store to a reachable entry, for tests that replay the history of an operation. The
// storing thread calls it, after the store. An entry of another format comes with its raw value.
class EntryStoreHook {
 public:
  virtual ~EntryStoreHook() = default;
  virtual void OnStore(const uint64_t* where, EptEntry before, EptEntry after) = 0;
};

// Installs `hook` for the whole process (nullptr: none) and returns the one before. Call it only
// while no other thread uses the engine.
EntryStoreHook* SetEntryStoreHook(EntryStoreHook* hook);

namespace internal {
inline constinit std::atomic<EntryStoreHook*> entry_store_hook{nullptr};
}  // namespace internal

inline EntryStoreHook* SetEntryStoreHook(EntryStoreHook* hook) {
  return internal::entry_store_hook.exchange(hook, std::memory_order_acq_rel);
}

// A pointer to an entry of the format `Entry`. Loads acquire and stores release: what an entry
// links to is seen whole. Loads and changes of what others change too are sequentially consistent
// beyond that: a fault makes an entry writable and then looks whether its page is in the dirty log
// already, and who takes pages out of the log looks at their entries then. One of the two must see
// the other. x86 has no cheaper instructions for less.
template <typename Entry>
class BasicEntryRef {
 public:
  explicit BasicEntryRef(uint64_t* where) : where_(where) {}

  uint64_t* where() const { return where_; }

  Entry Load() const { return Entry(ref().load(std::memory_order_seq_cst)); }

  // Stores to an entry that nobody else, no CPU either, changes now: no locked instruction.
  void Store(Entry before, Entry after) const {
    ref().store(after.raw(), std::memory_order_release);
    Tell(before, after);
  }

  Entry Exchange(Entry after) const {
    const Entry before(ref().exchange(after.raw(), std::memory_order_seq_cst));
    Tell(before, after);
    return before;
  }

  // Stores `after` if the entry is `expected`; else puts the entry's value into `expected`.
  bool CompareExchange(Entry& expected, Entry after) const {
    uint64_t raw = expected.raw();
    if (!ref().compare_exchange_strong(raw, after.raw(), std::memory_order_seq_cst)) {
      expected = Entry(raw);
      return false;
    }
    Tell(expected, after);
    return true;
  }

  // Takes `bits` away; returns the entry before.
  Entry Take(EntryBits bits) const { return FetchAnd(~static_cast<uint64_t>(bits)); }
  // Clears every bit that is not in `mask`; returns the entry before.
  Entry FetchAnd(uint64_t mask) const {
    const Entry before(ref().fetch_and(mask, std::memory_order_seq_cst));
    Tell(before, Entry(before.raw() & mask));
    return before;
  }

  Entry FetchOr(uint64_t bits) const {
    const Entry before(ref().fetch_or(bits, std::memory_order_seq_cst));
    Tell(before, Entry(before.raw() | bits));
    return before;
  }

 private:
  AtomicRef<uint64_t> ref() const { return AtomicRef<uint64_t>(*where_); }

  ABSL_ATTRIBUTE_ALWAYS_INLINE void Tell(Entry before, Entry after) const {
    EntryStoreHook* hook = internal::entry_store_hook.load(std::memory_order_relaxed);
    if (ABSL_PREDICT_FALSE(hook != nullptr)) {
      hook->OnStore(where_, EptEntry(before.raw()), EptEntry(after.raw()));
    }
  }

  uint64_t* where_;
};

using EntryRef = BasicEntryRef<EptEntry>;

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_ENTRY_REF_H_
