// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This memory knows what guest memory holds according to the guest's own stores, and, for the
// entries of page tables, what it held before.

#ifndef TDP_TESTS_KERNEL_FLAT_MEMORY_H_
#define TDP_TESTS_KERNEL_FLAT_MEMORY_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "absl/types/span.h"

namespace tdp::kernel {

// Counts what the guest does: each store to a table and each invalidation has a time of its own.
using Time = uint64_t;

// Is a value of an entry, without A and D, from `start` on.
struct EntryVersion {
  Time start;
  uint64_t value;
};

class FlatMemory {
 public:
  // Makes memory of zeros, with words and entries of `entry_bytes`, 4 or 8.
  explicit FlatMemory(unsigned entry_bytes) : entry_bytes_(entry_bytes) {}

  // Says that the frame at `gpa` holds a table from now on, or data again.
  void SetTable(uint64_t gpa, bool is_table);
  bool IsTable(uint64_t gpa) const { return tables_.contains(gpa >> 12); }
  const absl::flat_hash_set<uint64_t>& table_frames() const { return tables_; }

  // Stores `bytes` bytes as the guest did; half a word is legal where words have 8 bytes.
  void Store(Time now, uint64_t gpa, unsigned bytes, uint64_t value);
  // Returns the word of `bytes` at `gpa`; an entry has A and D as they were last stored or seen.
  uint64_t Load(uint64_t gpa, unsigned bytes) const;
  // Returns whether the guest may find `actual` at `gpa`: the CPU may have set A and D in a present
  // entry.
  bool Matches(uint64_t gpa, unsigned bytes, uint64_t actual) const;
  // Notes that `actual`, which matches, was seen there.
  void Adopt(uint64_t gpa, unsigned bytes, uint64_t actual);

  // Returns every value that the entry at `gpa` had since the last `Forget`, oldest first. Valid
  // until the next store.
  absl::Span<const EntryVersion> Versions(uint64_t gpa) { return EntryOf(gpa).versions; }
  // Return when the guest last stored it with A clear, with D clear.
  Time AccessedCleared(uint64_t gpa) const;
  Time DirtyCleared(uint64_t gpa) const;
  // Notes that a store of the guest may have gone through the entry: D may be set.
  void NoteWriteThrough(uint64_t gpa);

  // Forgets versions that ended by `time`: no CPU remembers anything from before.
  void Forget(Time time);

  // Returns the addresses of all words that were ever stored.
  std::vector<uint64_t> Words() const;

 private:
  struct Entry {
    std::vector<EntryVersion> versions;
    Time accessed_cleared = 0;
    Time dirty_cleared = 0;
    bool may_be_dirty = false;
  };

  uint64_t WordAt(uint64_t gpa) const { return gpa & ~uint64_t{entry_bytes_ - 1}; }
  Entry& EntryOf(uint64_t gpa);
  void StoreEntry(Time now, uint64_t at, uint64_t after);

  const unsigned entry_bytes_;
  absl::flat_hash_map<uint64_t, uint64_t> words_;
  absl::flat_hash_set<uint64_t> tables_;  // frame numbers
  absl::node_hash_map<uint64_t, Entry> entries_;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_FLAT_MEMORY_H_
